package netcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/mdlayher/packet"
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

// addPair makes two ports with a cable between them.
func addPair(t *testing.T, a, b string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b}); err != nil {
		t.Skipf("needs veth links: %v", err)
	}
}

func need(t *testing.T, kind string) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = "probe"
	var l netlink.Link
	switch kind {
	case "bond":
		l = netlink.NewLinkBond(a)
	case "vlan":
		lo, err := netlink.LinkByName("p3")
		if err != nil {
			t.Fatal(err)
		}
		a.ParentIndex = lo.Attrs().Index
		l = &netlink.Vlan{LinkAttrs: a, VlanId: 4000}
	}
	if err := netlink.LinkAdd(l); err != nil {
		t.Skipf("needs a kernel with %s links: %v", kind, err)
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
}

// syncTwice applies c and holds that a second time changes nothing.
func syncTwice(t *testing.T, c Config) []Change {
	t.Helper()
	changes, err := Sync(t.Context(), c)
	if err != nil {
		t.Fatalf("Sync: %v", err)
	}
	again, err := Sync(t.Context(), c)
	if err != nil || len(again) > 0 {
		t.Fatalf("second Sync = %v, %v after %v", again, err, changes)
	}
	return changes
}

func observe(t *testing.T, name string) LinkState {
	t.Helper()
	s, err := Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, ok := s.Link(name)
	if !ok {
		t.Fatalf("no link %s in %+v", name, s)
	}
	return l
}

// shows compares addresses and routes that are not the kernel's own.
func shows(t *testing.T, name string, addrs []netip.Prefix, routes ...Route) {
	t.Helper()
	l := observe(t, name)
	var gotAddrs []netip.Prefix
	for _, a := range l.Addrs {
		if !a.Kernel {
			gotAddrs = append(gotAddrs, a.Prefix)
		}
	}
	var gotRoutes []Route
	for _, r := range l.Routes {
		if !r.Kernel {
			gotRoutes = append(gotRoutes, r.Route)
		}
	}
	if diff := cmp.Diff(addrs, gotAddrs, cmpAddrs); diff != "" {
		t.Errorf("addresses of %s (-want +got):\n%s", name, diff)
	}
	if diff := cmp.Diff(routes, gotRoutes, cmpAddrs); diff != "" {
		t.Errorf("routes of %s (-want +got):\n%s", name, diff)
	}
}

func TestSyncPort(t *testing.T) {
	inNetNS(t)
	addPair(t, "m", "far")
	gw := via("0.0.0.0/0 192.0.2.1")
	m := func(f func(*Link)) Config { return wants(with(phys("m"), f)) }

	syncTwice(t, m(func(l *Link) { l.Addrs, l.Routes, l.MTU = pfx("192.0.2.10/24"), []Route{gw}, 1400 }))
	shows(t, "m", pfx("192.0.2.10/24"), gw)
	if l := observe(t, "m"); !l.Up || l.MTU != 1400 {
		t.Errorf("m is %+v", l)
	}
	// The first address leaves, and takes its secondary and the route along.
	two := m(func(l *Link) { l.Addrs = pfx("192.0.2.11/24", "192.0.2.12/24", "198.51.100.3/32", "2001:db8::1/64") })
	syncTwice(t, two)
	syncTwice(t, m(func(l *Link) {
		l.Addrs = pfx("192.0.2.12/24")
		l.Routes = []Route{via("0.0.0.0/0 192.0.2.2"), via("10.0.0.0/8"), via("10.1.0.0/16 192.0.2.3")}
	}))
	shows(t, "m", pfx("192.0.2.12/24"), via("0.0.0.0/0 192.0.2.2"), via("10.0.0.0/8"), via("10.1.0.0/16 192.0.2.3"))
	syncTwice(t, m(func(l *Link) {
		l.Addrs = pfx("192.0.2.12/24", "2001:db8::2/64")
		l.Routes = []Route{{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("2001:db8::9"), Metric: 5}, via("2001:db8:9::/48 2001:db8::9")}
	}))
	syncTwice(t, m(func(l *Link) { l.Down, l.Addrs = true, pfx("2001:db8::2/64") }))
	shows(t, "m", pfx("2001:db8::2/64"))
	if l := observe(t, "m"); l.Up {
		t.Errorf("m is up: %+v", l)
	}
}

func TestSyncKeepsForeignLinks(t *testing.T) {
	inNetNS(t)
	addPair(t, "m", "far")
	far, err := netlink.LinkByName("far")
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr("203.0.113.1/24")
	if err := errors.Join(netlink.AddrAdd(far, addr), netlink.LinkSetMTU(far, 1300)); err != nil {
		t.Fatal(err)
	}
	before := observe(t, "far")
	syncTwice(t, wants(with(phys("m"), func(l *Link) { l.Addrs = pfx("192.0.2.10/24") })))
	after := observe(t, "far")
	after.Carrier, before.Carrier = false, false // follows m
	if diff := cmp.Diff(before, after, cmpAddrs); diff != "" {
		t.Errorf("foreign link changed (-before +after):\n%s", diff)
	}
}

// TestSyncReleasesFromBridge has a bridge in the place of a bond, which not
// every kernel has.
func TestSyncReleasesFromBridge(t *testing.T) {
	inNetNS(t)
	addPair(t, "m", "far")
	a := netlink.NewLinkAttrs()
	a.Name = "br0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}); err != nil {
		t.Skipf("needs a bridge: %v", err)
	}
	m, _ := netlink.LinkByName("m")
	br, _ := netlink.LinkByName("br0")
	if err := netlink.LinkSetMaster(m, br); err != nil {
		t.Fatal(err)
	}
	syncTwice(t, wants(phys("m")))
	if l := observe(t, "m"); l.Master != "" {
		t.Errorf("m belongs to %s", l.Master)
	}
}

func TestSyncGoesOnAfterErrors(t *testing.T) {
	inNetNS(t)
	addPair(t, "m", "far")
	addPair(t, "n", "far2")
	c := wants(
		with(phys("n"), func(l *Link) { l.MTU = 65535; l.Addrs = pfx("192.0.2.20/24") }),
		phys("gone"),
		with(phys("m"), func(l *Link) { l.Addrs = pfx("192.0.2.10/24") }),
	)
	_, err := Sync(t.Context(), c)
	if want := "netcfg: link gone: not there: check the port and its driver"; err == nil || err.Error() != want {
		t.Errorf("Sync = %v, want %v", err, want)
	}
	shows(t, "m", pfx("192.0.2.10/24"))
	shows(t, "n", pfx("192.0.2.20/24"))
	err = Apply(t.Context(), []Change{CreateVLAN{"v", "gone", 5}, SetUp{"v"}, SetUp{"far2"}})
	if want := "netcfg: link v: add link v link gone type vlan id 5: Link not found"; err == nil || err.Error() != want {
		t.Errorf("Apply = %v, want %v", err, want)
	}
	if l := observe(t, "far2"); !l.Up {
		t.Errorf("Apply stopped before far2: %+v", l)
	}
}

func TestSyncVLAN(t *testing.T) {
	inNetNS(t)
	addPair(t, "p3", "far")
	need(t, "vlan")
	vlan := func(id int) Link {
		return Link{Name: fmt.Sprintf("p3.%d", id), Kind: VLAN, Parent: "p3", ID: id, Addrs: pfx("198.51.100.2/24", "198.51.100.3/32")}
	}
	big := with(phys("p3"), func(l *Link) { l.MTU = 9000 })
	syncTwice(t, wants(big, with(vlan(5), func(l *Link) { l.MTU = 9000 })))
	syncTwice(t, wants(with(phys("p3"), func(l *Link) { l.MTU = 1500 }), vlan(5), Link{Name: "idle", Kind: VLAN, Parent: "p3", ID: 9, Down: true}))
	syncTwice(t, wants(phys("p3"), vlan(6)))
	shows(t, "p3.6", pfx("198.51.100.2/24", "198.51.100.3/32"))
	if l := observe(t, "p3.6"); !l.Ours || l.VLANParent != "p3" || l.VLANID != 6 || !l.Up {
		t.Errorf("p3.6 is %+v", l)
	}
	s, _ := Observe(t.Context())
	for _, name := range []string{"p3.5", "idle"} {
		if _, ok := s.Link(name); ok {
			t.Errorf("%s is still there", name)
		}
	}
	swapped := wants(phys("p3"), with(vlan(6), func(l *Link) { l.ID = 7 }))
	syncTwice(t, swapped)
	syncTwice(t, wants(with(phys("p3"), func(l *Link) { l.Down = true }), with(vlan(7), func(l *Link) { l.Down = true })))
}

func TestSyncBond(t *testing.T) {
	inNetNS(t)
	for i, p := range []string{"p1", "p3", "p6"} {
		addPair(t, p, fmt.Sprint("far", i))
	}
	need(t, "bond")
	need(t, "vlan")
	m, _ := ParseManagement("address:192.0.2.10/24,gateway:192.0.2.1")
	d, _ := ParseDeployment(deploymentSetting)
	nics := []NIC{{Name: "p3"}, {Name: "p6"}}
	module := func(d Deployment) Config {
		return Module{ManagementPort: NIC{Name: "p1"}, InterconnectPorts: nics, Management: m, Deployment: d}.Config()
	}

	// A slave that is up, with an address, is what a bond refuses.
	p6, _ := netlink.LinkByName("p6")
	addr, _ := netlink.ParseAddr("203.0.113.1/24")
	if err := errors.Join(netlink.LinkSetUp(p6), netlink.AddrAdd(p6, addr)); err != nil {
		t.Fatal(err)
	}
	syncTwice(t, module(Deployment{})) // factory state
	syncTwice(t, module(d))
	shows(t, "ic0.1300", pfx("198.51.100.2/24", "198.51.100.3/32"))
	bond := observe(t, "ic0")
	if bond.BondMode != activeBackup || bond.Miimon != 100 || bond.Primary != "p3" || !bond.Up || !bond.Ours {
		t.Errorf("bond is %+v", bond)
	}
	for _, n := range []string{"p3", "p6"} {
		if l := observe(t, n); l.Master != "ic0" || !l.Up {
			t.Errorf("slave is %+v", l)
		}
	}
	jumbo := d
	jumbo.MTU, jumbo.VLAN = 9000, 1301
	syncTwice(t, module(jumbo))
	if l := observe(t, "p6"); l.MTU != 9000 {
		t.Errorf("MTU of p6 = %d", l.MTU)
	}
	syncTwice(t, module(d))

	// Another primary and miimon; then one slave less; then it comes back.
	c := module(d)
	c.Links[3].Primary, c.Links[3].Miimon = "p6", 50
	syncTwice(t, c)
	if bond = observe(t, "ic0"); bond.Primary != "p6" || bond.Miimon != 50 {
		t.Errorf("bond is %+v", bond)
	}
	c.Links[3].Primary = ""
	syncTwice(t, c)
	c.Links[3].Slaves = []string{"p3"}
	c.Links[2].MTU = 1400
	syncTwice(t, c)
	if l := observe(t, "p6"); l.Master != "" || !l.Up || l.MTU != 1400 {
		t.Errorf("p6 is %+v", l)
	}
	syncTwice(t, module(d))

	// Of the wrong mode.
	if err := netlink.LinkDel(mustLink(t, "ic0")); err != nil {
		t.Fatal(err)
	}
	b := netlink.NewLinkBond(attrs("ic0"))
	b.Mode = netlink.BOND_MODE_BALANCE_RR
	if err := netlink.LinkAdd(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetDown(p6), netlink.LinkSetMaster(p6, mustLink(t, "ic0"))); err != nil {
		t.Fatal(err)
	}
	syncTwice(t, module(d))
}

func mustLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWatchWakes(t *testing.T) {
	inNetNS(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed := Watch(ctx)
	addPair(t, "m", "far")
	<-changed
	cancel()
	for range changed { // closed in the end
	}
}

func TestAnnounce(t *testing.T) {
	inNetNS(t)
	addPair(t, "m", "far")
	syncTwice(t, wants(phys("m"), phys("far")))
	far, err := net.InterfaceByName("far")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := packet.Listen(far, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	addr := netip.MustParseAddr("198.51.100.3")
	mac := [6]byte(observe(t, "m").MAC)
	want := map[string]bool{string(gratuitous(arpRequest, mac, addr)): true, string(gratuitous(arpReply, mac, addr)): true}
	buf := make([]byte, 100)
	for end := time.Now().Add(30 * time.Second); len(want) > 0; {
		if time.Now().After(end) {
			t.Fatalf("%d announcements are missing", len(want))
		}
		if err := Announce(t.Context(), "m", addr); err != nil { // a new link drops what comes first
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			delete(want, string(buf[:min(n, 28)]))
		}
	}
	if err := Announce(t.Context(), "gone", addr); err == nil {
		t.Error("Announce on no link = nil")
	}
}

// TestAnnounceIPv6 has the kernel on the other end move its entry for the
// address to the link that announces it.
func TestAnnounceIPv6(t *testing.T) {
	inNetNS(t)
	addPair(t, "m", "far")
	far := with(phys("far"), func(l *Link) { l.Addrs = pfx("2001:db8::9/64") })
	syncTwice(t, wants(phys("m"), far))
	addr := netip.MustParseAddr("2001:db8::1")
	old := &netlink.Neigh{
		LinkIndex: mustLink(t, "far").Attrs().Index, IP: addr.AsSlice(), State: netlink.NUD_STALE,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7},
	}
	if err := netlink.NeighSet(old); err != nil {
		t.Skipf("needs IPv6: %v", err)
	}
	mac := observe(t, "m").MAC
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := Announce(t.Context(), "m", addr); err != nil {
			t.Fatal(err)
		}
		ns, err := netlink.NeighList(old.LinkIndex, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(ns, func(n netlink.Neigh) bool {
			return n.IP.Equal(old.IP) && bytes.Equal(n.HardwareAddr, mac)
		}) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the neighbour still knows %v", ns)
		}
	}
}

func TestDHCPGetsLease(t *testing.T) {
	inNetNS(t)
	addPair(t, "m", "far")
	syncTwice(t, wants(phys("m"), with(phys("far"), func(l *Link) { l.Addrs = pfx("192.0.2.1/24") })))
	conn, err := server4.NewIPv4UDPConn("far", nil)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server4.NewServer("", nil, lend, server4.WithConn(conn))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve()
	}()
	defer func() {
		srv.Close()
		<-done
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got Lease
	err = DHCP(ctx, "m", slog.New(slog.DiscardHandler), func(l Lease) {
		got = l
		cancel()
	})
	want := Lease{
		Management: Management{Address: netip.MustParsePrefix("192.0.2.50/24"), Gateway: netip.MustParseAddr("192.0.2.1")},
		DNS:        []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		Duration:   time.Hour,
	}
	if diff := cmp.Diff(want, got, cmpAddrs); diff != "" || err != nil {
		t.Errorf("DHCP = %v, lease (-want +got):\n%s", err, diff)
	}
}

// lend answers as an ordinary DHCP server does.
func lend(conn net.PacketConn, _ net.Addr, req *dhcpv4.DHCPv4) {
	answer := dhcpv4.MessageTypeOffer
	if req.MessageType() == dhcpv4.MessageTypeRequest {
		answer = dhcpv4.MessageTypeAck
	}
	ans, err := dhcpv4.NewReplyFromRequest(req, dhcpv4.WithMessageType(answer),
		dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 50)), dhcpv4.WithServerIP(net.IPv4(192, 0, 2, 1)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))),
		dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(192, 0, 2, 1))),
		dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(192, 0, 2, 53))),
		dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(time.Hour)))
	if err == nil {
		conn.WriteTo(ans.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort})
	}
}
