package probe

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func inNetNS(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: unshare: %v", err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

// cable makes a pair of ports, both up; b goes into bridge, unless that is "".
func cable(t *testing.T, a, b, bridge string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b}); err != nil {
		t.Skipf("needs veth links: %v", err)
	}
	if bridge != "" {
		must(t, netlink.LinkSetMaster(link(t, b), link(t, bridge)))
	}
	must(t, netlink.LinkSetUp(link(t, a)), netlink.LinkSetUp(link(t, b)))
}

// interconnects makes two bridges as interconnect modules, ports p3 and p6 of
// a module, the link between the modules, and a server at 198.51.100.9 on ic6.
func interconnects(t *testing.T) {
	t.Helper()
	for _, name := range []string{"ic3", "ic6"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Skipf("needs bridges: %v", err)
		}
		must(t, netlink.LinkSetUp(link(t, name)))
	}
	cable(t, "p3", "f3", "ic3")
	cable(t, "p6", "f6", "ic6")
	cable(t, "t3", "t6", "ic6")
	must(t, netlink.LinkSetMaster(link(t, "t3"), link(t, "ic3")))
	cable(t, "server", "s6", "ic6")
	addr, _ := netlink.ParseAddr("198.51.100.9/24")
	must(t, netlink.AddrAdd(link(t, "server"), addr))
	for _, p := range []string{"p3", "p6"} { // do not answer for the server, which is in this namespace too
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+p+"/arp_ignore", []byte("1"), 0); err != nil {
			t.Skipf("needs /proc/sys: %v", err)
		}
	}
}

// softBond reads ports as the bonding driver would and stands in for it, for
// this kernel may have none; the guest test has the real one.
type softBond struct {
	*kernelBond
	mu     sync.Mutex
	active int
}

func (b *softBond) Read() (facts, error) {
	f, err := b.kernelBond.Read()
	b.mu.Lock()
	defer b.mu.Unlock()
	f.active = b.active
	return f, err
}

func (b *softBond) SetActive(port int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.active = port
	return nil
}

// TestMonitorInNamespace has real frames: an interconnect module falls silent
// with its carriers up.
func TestMonitorInNamespace(t *testing.T) {
	inNetNS(t)
	interconnects(t)
	changed := make(chan string, 10)
	port := func(name string) Port { return Port{name, link(t, name).Attrs().HardwareAddr} }
	m, err := Open(Config{
		Bond: "p3", Ports: [2]Port{port("p3"), port("p6")}, Preferred: 0,
		Neighbours: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("198.51.100.9")} },
		Changed:    func(name string) { changed <- name },
		Log:        slog.New(slog.DiscardHandler),
	})
	must(t, err)
	m.driver = &softBond{kernelBond: m.driver.(*kernelBond)}
	start(t, m)
	wait := func(what string, ok func(Snapshot) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(m.Snapshot()); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, m.Snapshot())
			}
		}
	}
	both := func(s Snapshot) bool { return s.Ports[0].Verdict == Works && s.Ports[1].Verdict == Works }
	wait("both ports work", both)
	wait("full size passes", func(s Snapshot) bool { return s.Rounds > 60 && !s.Ports[0].TooLong })

	must(t, netlink.LinkSetDown(link(t, "ic3"))) // silent: a bridge that is down forwards nothing, its ports keep their carriers
	began := time.Now()
	select {
	case name := <-changed:
		t.Logf("silent interconnect module: changed to %s after %v", name, time.Since(began).Round(time.Millisecond))
		if name != "p6" {
			t.Errorf("changed to %s", name)
		}
	case <-time.After(time.Minute):
		t.Fatalf("no change: %+v", m.Snapshot())
	}
	if s := m.Snapshot(); !s.Ports[0].Carrier || s.Ports[0].Verdict != Silent {
		t.Errorf("the silent port is %+v", s.Ports[0])
	}
	must(t, netlink.LinkSetUp(link(t, "ic3")))
	wait("back on the preferred port", func(s Snapshot) bool { return s.Active == "p3" })
	wait("both ports work again", both)
	if s := m.Snapshot(); s.Changes != 2 {
		t.Errorf("%d changes, want 2", s.Changes)
	}
}
