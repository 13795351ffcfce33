package firewall

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// twoStations makes a module and a client in namespaces of their own, joined by
// two cables: "mgmt" (192.0.2.1 and .2) and "foreign" (203.0.113.1 and .2). It
// returns what runs a function as the client; all else is the module.
func twoStations(t *testing.T) (asClient func(func())) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread and its namespaces end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: unshare: %v", err)
	}
	client, err := netns.Get()
	must(t, err)
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	module, err := netns.Get()
	must(t, err)
	t.Cleanup(func() { client.Close(); module.Close() })
	for _, c := range []struct{ name, ours, theirs string }{
		{"mgmt", "192.0.2.1/24", "192.0.2.2/24"}, {"foreign", "203.0.113.1/24", "203.0.113.2/24"},
	} {
		a := netlink.NewLinkAttrs()
		a.Name = c.name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "far", PeerNamespace: netlink.NsFd(client)}); err != nil {
			t.Skipf("needs veth links: %v", err)
		}
		address(t, c.name, c.ours)
		must(t, netns.Set(client))
		far, err := netlink.LinkByName("far")
		must(t, err, netlink.LinkSetName(far, c.name))
		address(t, c.name, c.theirs)
		must(t, netns.Set(module))
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err, netlink.LinkSetUp(lo))
	return func(do func()) {
		must(t, netns.Set(client))
		do()
		must(t, netns.Set(module))
	}
}

func address(t *testing.T, link, addr string) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	must(t, err)
	a, err := netlink.ParseAddr(addr)
	must(t, err, netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
}

// listenTCP opens a port of the module that accepts and says "hello".
func listenTCP(t *testing.T, port int) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
}

// echoUDP opens a port that answers.
func echoUDP(t *testing.T, port int) {
	t.Helper()
	c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	must(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from)
		}
	}()
}

// reach says how it ended to talk to an address: "open", "refused", or "silence".
func reach(network, addr string) string {
	c, err := net.DialTimeout(network, addr, 20*time.Second)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if network == "udp" {
			c.Write([]byte("hello"))
		}
		_, err = c.Read(make([]byte, 10))
	}
	switch {
	case err == nil:
		return "open"
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	return err.Error()
}

func TestApply(t *testing.T) {
	asClient := twoStations(t)
	rules := Rules(Links{"mgmt": Management}, Ports)
	changed, err := Apply(rules)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skipf("needs a kernel with nftables: %v", err)
	}
	if err != nil || !changed {
		t.Fatalf("Apply = %v, %v", changed, err)
	}
	if changed, err := Apply(rules); err != nil || changed {
		t.Errorf("the second Apply = %v, %v", changed, err)
	}
	for _, port := range []int{443, 3260, 8080, 50000} {
		listenTCP(t, port)
		echoUDP(t, port)
	}
	echoUDP(t, 68)
	asClient(func() {
		for _, tt := range []struct{ network, addr, want string }{
			{"tcp", "192.0.2.1:443", "open"},
			{"tcp", "192.0.2.1:3260", "refused"}, // of another network
			{"tcp", "192.0.2.1:8080", "refused"},
			{"tcp", "192.0.2.1:50000", "refused"},
			{"udp", "192.0.2.1:68", "open"},
			{"udp", "192.0.2.1:443", "refused"},
			{"udp", "192.0.2.1:50000", "open"},  // as an answer would come in
			{"tcp", "203.0.113.1:8080", "open"}, // not ours
			{"udp", "203.0.113.1:8080", "open"},
		} {
			if got := reach(tt.network, tt.addr); got != tt.want {
				t.Errorf("%s %s: %s, want %s", tt.network, tt.addr, got, tt.want)
			}
		}
		listenTCP(t, 8443)
	})
	if got := reach("tcp", "192.0.2.2:8443"); got != "open" {
		t.Errorf("the module's own connection: %s", got)
	}
	if got := reach("tcp", "127.0.0.1:8080"); got != "open" {
		t.Errorf("loopback: %s", got)
	}

	other := Rules(Links{"mgmt": Deployment, "foreign": Closed}, Ports)
	if changed, err := Apply(other); err != nil || !changed {
		t.Fatalf("Apply of other rules = %v, %v", changed, err)
	}
	asClient(func() {
		for addr, want := range map[string]string{"192.0.2.1:3260": "open", "192.0.2.1:443": "refused", "203.0.113.1:443": "refused"} {
			if got := reach("tcp", addr); got != want {
				t.Errorf("after the change: %s: %s, want %s", addr, got, want)
			}
		}
	})
	must(t, Remove(), Remove())
	asClient(func() {
		if got := reach("tcp", "192.0.2.1:8080"); got != "open" {
			t.Errorf("without rules: %s", got)
		}
	})
}
