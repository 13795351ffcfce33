package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"baystream/daemon/pki"
	"baystream/hw"
	"baystream/netcfg"
)

// inNetNS moves the test to a network namespace of its own, with a management
// port m whose other end is r, a router.
func inNetNS(t *testing.T) (port, router netlink.Link) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: unshare: %v", err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "m"}, PeerName: "r"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(veth))
	port, err := netlink.LinkByName("m")
	must(err)
	router, err = netlink.LinkByName("r")
	must(err)
	must(netlink.LinkSetUp(port))
	must(netlink.LinkSetUp(router))
	return port, router
}

// TestRESTFollowsIPv6Addresses has REST answer at an address that is set and at
// one that comes later, in a namespace: with a certificate that names both.
func TestRESTFollowsIPv6Addresses(t *testing.T) {
	port, _ := inNetNS(t)
	n := testNetwork(t, "address:192.0.2.10/24,address6:2001:db8::10/64")
	n.nics = []hw.NIC{{Name: "m", Slot: slotManagement, MAC: port.Attrs().HardwareAddr.String()}}
	d := n.d
	d.net, d.cfg = n, Config{Console: t.Logf, Log: d.log}
	set := func() {
		t.Helper()
		if _, err := netcfg.Sync(t.Context(), n.want()); err != nil {
			t.Fatal(err)
		}
	}
	set()
	authority, err := pki.Open(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	first, later := netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("2001:db8:1::5")
	served, ended, events := make(chan netip.Addr, 4), make(chan netip.Addr, 4), make(chan struct{}, 4)
	l := &listeners6{
		opened: func(at netip.Addr, err error) { t.Log("listen", at, err) },
		listen: func(ctx context.Context, at netip.Addr) (net.Listener, error) {
			d.also.add(at)
			if err := authority.Serve(d.names()...); err != nil {
				return nil, err
			}
			return net.ListenTCP("tcp6", &net.TCPAddr{IP: at.AsSlice(), Port: restPort}) // in this thread's namespace
		},
		serve: func(ctx context.Context, ln net.Listener) error {
			at := ln.Addr().(*net.TCPAddr).AddrPort().Addr()
			served <- at
			events <- struct{}{}
			<-ctx.Done()
			ended <- at
			events <- struct{}{}
			return ln.Close()
		},
	}
	// run's loop, in this thread.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	step, gone := 0, false
	addresses := func(ctx context.Context) []netip.Addr {
		for {
			select {
			case at := <-served:
				switch {
				case step == 0 && at == first:
					step = 1
					n.mu.Lock()
					s := n.trial.Settled()
					s.Management.Address6 = netip.PrefixFrom(later, 64)
					n.trial = netcfg.NewTrial(s)
					n.mu.Unlock()
					set()
				case step == 1 && at == later:
					step = 2
				default:
					t.Errorf("step %d: serves at %v", step, at)
				}
			case at := <-ended:
				if at != first && ctx.Err() == nil {
					t.Errorf("ended at %v, want %v", at, first)
				}
				gone = true
			default:
				if step == 2 && gone {
					cancel()
				}
				return n.addresses6(ctx)
			}
		}
	}
	if err := l.run(ctx, events, addresses); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cert, err := authority.TLS().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []netip.Addr{first, later} {
		if err := cert.Leaf.VerifyHostname(at.String()); err != nil {
			t.Error(err)
		}
	}
}

// routerAdvertisement is one of a router that has a prefix for addresses (RFC 4861
// sections 4.2 and 4.6.2).
func routerAdvertisement(prefix netip.Prefix) []byte {
	b := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	b = append(b, 3, 4, byte(prefix.Bits()), 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0)
	return append(b, prefix.Addr().AsSlice()...)
}

// TestRouterGivesTheManagementPortAnAddress holds that stateless configuration
// works beside our own settings: netcfg leaves the address and the route alone,
// and REST is told of it.
func TestRouterGivesTheManagementPortAnAddress(t *testing.T) {
	port, router := inNetNS(t)
	n := testNetwork(t, "address:192.0.2.10/24")
	n.d.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	n.nics = []hw.NIC{{Name: "m", Slot: slotManagement, MAC: port.Attrs().HardwareAddr.String()}}
	if _, err := netcfg.Sync(t.Context(), n.want()); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		t.Skipf("needs raw sockets: %v", err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, router.Attrs().Index)); err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrInet6{ZoneId: uint32(router.Attrs().Index)}
	copy(to.Addr[:], net.ParseIP("ff02::1").To16())
	prefix := netip.MustParsePrefix("2001:db8:7::/64")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		// The router's own link-local address has to be found free first.
		err := unix.Sendto(fd, routerAdvertisement(prefix), 0, to)
		got := n.addresses6(t.Context())
		if len(got) == 1 && prefix.Contains(got[0]) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("addresses %v of the advertisements, last error %v", got, err)
		}
	}
	if st, err := netcfg.Observe(t.Context()); err != nil || len(netcfg.Plan(n.want(), st)) != 0 {
		t.Errorf("netcfg would change what the router gave: %v, %v", netcfg.Plan(n.want(), st), err)
	}
}
