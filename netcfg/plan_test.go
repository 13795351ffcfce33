package netcfg

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func pfx(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func addrs(ss ...string) []Addr {
	var as []Addr
	for _, p := range pfx(ss...) {
		as = append(as, Addr{Prefix: p})
	}
	return as
}

// via parses "DST GATEWAY" or "DST".
func via(s string) Route {
	dst, gw, _ := strings.Cut(s, " ")
	r := Route{Dst: netip.MustParsePrefix(dst)}
	if gw != "" {
		r.Gateway = netip.MustParseAddr(gw)
	}
	return r
}

func port(name string, up bool) LinkState {
	return LinkState{Name: name, Type: "device", Up: up, MTU: 1500}
}

func wants(links ...Link) Config   { return Config{Links: links} }
func has(links ...LinkState) State { return State{Links: links} }
func phys(name string) Link        { return Link{Name: name, Kind: Physical} }
func with(l Link, f func(*Link)) Link {
	f(&l)
	return l
}

var testBond = Link{Name: "ic0", Kind: Bond, Slaves: []string{"p3", "p6"}, Primary: "p3", MTU: 9000}
var testVLAN = Link{Name: "ic0.5", Kind: VLAN, Parent: "ic0", ID: 5, Addrs: pfx("198.51.100.2/24", "198.51.100.3/32")}

// builtBond is the state that testBond and testVLAN want.
func builtBond() State {
	slave := func(n string) LinkState {
		return LinkState{Name: n, Type: "device", Up: true, MTU: 9000, Master: "ic0"}
	}
	return has(slave("p3"), slave("p6"),
		LinkState{Name: "ic0", Type: "bond", Up: true, MTU: 9000, Ours: true, BondMode: activeBackup, Miimon: 100, Primary: "p3", Reselect: reselectFailure},
		LinkState{Name: "ic0.5", Type: "vlan", Up: true, MTU: 9000, Ours: true, VLANParent: "ic0", VLANID: 5,
			Addrs: addrs("198.51.100.2/24", "198.51.100.3/32")})
}

func changed(s State, name string, f func(*LinkState)) State {
	s.on(name, f)
	return s
}

func TestPlan(t *testing.T) {
	full := wants(phys("p3"), phys("p6"), testBond, testVLAN)
	mgmt := with(phys("m"), func(l *Link) {
		l.Addrs = pfx("192.0.2.10/24")
		l.Routes = []Route{via("0.0.0.0/0 192.0.2.1")}
	})
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, tt := range []struct {
		name string
		want Config
		have State
		plan []string
	}{
		{"foreign link stays", wants(phys("m")), has(port("m", true), LinkState{Name: "usb0", Addrs: addrs("10.0.0.1/8")}), nil},
		{"nothing drifted", full, builtBond(), nil},
		{"mtu drifted", full, changed(builtBond(), "ic0", func(l *LinkState) { l.MTU = 1500 }), []string{
			"set ic0 mtu 9000",
		}},
		{"mtu of a slave drifted", full, changed(builtBond(), "p6", func(l *LinkState) { l.MTU = 1500 }), []string{
			"set p6 mtu 9000",
		}},
		{"from nothing", full, has(port("p3", true), port("p6", false)), []string{
			"add link ic0 type bond mode active-backup miimon 100 primary_reselect failure",
			"set ic0 mtu 9000",
			"set p3 down",
			"set p3 master ic0",
			"set p6 master ic0",
			"set ic0 primary p3",
			"set ic0 up",
			"add link ic0.5 link ic0 type vlan id 5",
			"set ic0.5 up",
			"add address 198.51.100.2/24 dev ic0.5",
			"add address 198.51.100.3/32 dev ic0.5",
		}},
		{"mode of a bond is wrong", wants(phys("p3"), phys("p6"), testBond), changed(builtBond(), "ic0", func(l *LinkState) { l.BondMode = "balance-rr" }), []string{
			"delete link ic0",
			"add link ic0 type bond mode active-backup miimon 100 primary_reselect failure",
			"set ic0 mtu 9000",
			"set p3 master ic0",
			"set p6 master ic0",
			"set ic0 primary p3",
			"set ic0 up",
		}},
		{"miimon and primary drifted", full, changed(builtBond(), "ic0", func(l *LinkState) { l.Miimon, l.Primary = 0, "p6" }), []string{
			"set ic0 miimon 100",
			"set ic0 primary p3",
		}},
		{"kernel would return to the primary by itself", full, changed(builtBond(), "ic0", func(l *LinkState) { l.Reselect = "always" }), []string{
			"set ic0 primary_reselect failure",
		}},
		{"partner speaks LACP", wants(phys("p3"), phys("p6"), with(testBond, func(l *Link) { l.LACP, l.Primary = true, "" })), builtBond(), []string{
			"delete link ic0",
			"add link ic0 type bond mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4",
			"set ic0 mtu 9000",
			"set p3 master ic0",
			"set p6 master ic0",
			"set ic0 up",
		}},
		{"slave came down", full, changed(builtBond(), "p3", func(l *LinkState) { l.Up = false }), []string{"set p3 up"}},
		{"slave in a bridge", full, changed(builtBond(), "p3", func(l *LinkState) { l.Master = "br0" }), []string{
			"set p3 nomaster",
			"set p3 master ic0",
		}},
		{"one port missing", full, has(port("p6", false)), []string{
			"add link ic0 type bond mode active-backup miimon 100 primary_reselect failure",
			"set ic0 mtu 9000",
			"set p6 master ic0",
			"set ic0 up",
			"add link ic0.5 link ic0 type vlan id 5",
			"set ic0.5 up",
			"add address 198.51.100.2/24 dev ic0.5",
			"add address 198.51.100.3/32 dev ic0.5",
		}},
		{"foreign slave of the bond stays", wants(phys("p3"), with(testBond, func(l *Link) { l.Slaves = []string{"p3"} }), testVLAN), builtBond(), nil},
		{"bond with a fault stays as it runs", wants(phys("p3"), phys("p6"), with(testBond, func(l *Link) { l.Primary = "p9" })), builtBond(), nil},
		{"our vlan is not wanted any more", wants(phys("p3"), phys("p6"), testBond), builtBond(), []string{
			"delete link ic0.5",
		}},
		{"vlan with a fault stays as it runs", wants(phys("p3"), phys("p6"), testBond, with(testVLAN, func(l *Link) { l.MTU = 9100 })), builtBond(), nil},
		{"somebody's vlan stays", wants(phys("p3"), phys("p6"), testBond), changed(builtBond(), "ic0.5", func(l *LinkState) { l.Ours = false }), nil},
		{"vlan gets another id", wants(phys("p3"), phys("p6"), testBond, with(testVLAN, func(l *Link) { l.ID = 6; l.Addrs = nil })), builtBond(), []string{
			"delete link ic0.5",
			"add link ic0.5 link ic0 type vlan id 6",
			"set ic0.5 up",
		}},
		{"management from nothing", wants(mgmt), has(port("m", false)), []string{
			"set m up",
			"add address 192.0.2.10/24 dev m",
			"add route 0.0.0.0/0 via 192.0.2.1 dev m",
		}},
		{"address and gateway move", wants(mgmt), has(LinkState{Name: "m", Up: true, Addrs: addrs("192.0.2.9/24"), Routes: []RouteState{{Route: via("0.0.0.0/0 192.0.2.2")}}}), []string{
			"delete route 0.0.0.0/0 via 192.0.2.2 dev m",
			"delete address 192.0.2.9/24 dev m",
			"add address 192.0.2.10/24 dev m",
			"add route 0.0.0.0/0 via 192.0.2.1 dev m",
		}},
		{"the kernel's own stays", wants(phys("m")), has(LinkState{Name: "m", Up: true,
			Addrs:  []Addr{{Prefix: netip.MustParsePrefix("fe80::1/64"), Kernel: true}},
			Routes: []RouteState{{Route: via("fe80::/64"), Kernel: true}}}), nil},
		{"secondary goes with its primary", wants(mgmt), has(LinkState{Name: "m", Up: true, Addrs: addrs("192.0.2.9/24", "192.0.2.10/24"), Routes: []RouteState{{Route: via("0.0.0.0/0 192.0.2.1")}}}), []string{
			"delete address 192.0.2.9/24 dev m",
			"add address 192.0.2.10/24 dev m",
			"add route 0.0.0.0/0 via 192.0.2.1 dev m",
		}},
		{"somebody's default route is in the way", wants(mgmt), has(LinkState{Name: "m", Up: true, Addrs: addrs("192.0.2.10/24")},
			LinkState{Name: "usb0", Routes: []RouteState{{Route: via("0.0.0.0/0 10.0.0.1")}}}), nil},
		{"found by permanent address", wants(Link{Name: "mgmt", Kind: Physical, MAC: mac, MTU: 1400}),
			has(LinkState{Name: "br0", Type: "bond", MAC: mac}, LinkState{Name: "eth7", Up: true, MAC: mac[:5], PermMAC: mac}),
			[]string{"set eth7 mtu 1400"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, c := range Plan(tt.want, tt.have) {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(tt.plan, got); diff != "" {
				t.Errorf("Plan (-want +got):\n%s", diff)
			}
			checkConverges(t, tt.want, tt.have)
		})
	}
}

// checkConverges holds that the plan carried out in the model leaves nothing to
// do, and that links which were not given are as they were.
func checkConverges(t *testing.T, want Config, have State) {
	t.Helper()
	now := have.clone()
	plan := Plan(want, have)
	given := map[string]bool{}
	links, _ := resolve(want, have)
	for _, w := range links {
		given[w.Name] = true
	}
	for _, c := range plan {
		l, exists := now.Link(c.Link())
		if !given[c.Link()] && !(exists && l.Ours && given[l.VLANParent]) {
			t.Errorf("plan touches %s: %v", c.Link(), c)
		}
		if err := refused(c, &now); err != "" {
			t.Errorf("kernel refuses %q: %s", c, err)
		}
		c.after(&now)
	}
	if again := Plan(want, now); len(again) > 0 {
		t.Errorf("second plan = %v after %v\nwant %+v\nhave %+v\nnow %+v", again, plan, want, have, now)
	}
}

// refused says why the kernel would not take c.
func refused(c Change, s *State) string {
	l, exists := s.Link(c.Link())
	switch c := c.(type) {
	case CreateBond:
		if exists {
			return "file exists"
		}
		return ""
	case CreateVLAN:
		if exists {
			return "file exists"
		}
		if p, ok := s.Link(c.Parent); !ok || p.Master != "" {
			return "no such parent, or a slave"
		}
		for _, o := range s.Links {
			if o.VLANParent == c.Parent && o.VLANID == c.ID {
				return "vlan exists as " + o.Name
			}
		}
		return ""
	}
	if !exists {
		return "no such device"
	}
	switch c := c.(type) {
	case Enslave:
		if l.Up || l.Master != "" {
			return "device up or has a master"
		}
	case SetUp:
		if p, ok := s.Link(l.VLANParent); ok && !p.Up {
			return "network is down"
		}
	case SetMTU:
		if p, ok := s.Link(l.VLANParent); ok && p.MTU != 0 && p.MTU < c.MTU {
			return "above parent"
		}
	case AddAddr:
		if hasAddr(&l, c.Addr) {
			return "address exists"
		}
	case RemoveAddr:
		if !hasAddr(&l, c.Addr) {
			return "no such address"
		}
	case AddRoute:
		near := slices.ContainsFunc(l.Addrs, func(a Addr) bool { return a.Contains(c.Route.Gateway) })
		if !l.Up || c.Route.Gateway.IsValid() && !near {
			return "network unreachable"
		}
		for _, o := range s.Links {
			if slices.ContainsFunc(o.Routes, func(r RouteState) bool { return r.key() == c.Route.key() }) {
				return "route exists on " + o.Name
			}
		}
	}
	return ""
}

// TestPlanConverges draws wanted and observed networks at random.
func TestPlanConverges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 6000 {
		want, have := randomConfig(r), randomState(r)
		checkConverges(t, want, have)
		if t.Failed() {
			t.Fatalf("at draw %d: problems: %v", i, Problems(want, have))
		}
	}
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func some[T any](r *rand.Rand, from ...T) []T {
	var out []T
	for _, i := range r.Perm(len(from)) {
		if r.IntN(3) == 0 {
			out = append(out, from[i])
		}
	}
	return out
}

var randomAddrs = []string{"10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/25", "10.0.1.1/24", "10.9.9.9/32", "2001:db8::1/64"}
var randomRoutes = []string{"0.0.0.0/0 10.0.0.200", "0.0.0.0/0 10.0.1.200", "10.5.0.0/16", "10.6.0.0/16 10.0.0.5", "2001:db8:1::/48 2001:db8::9"}

func randomConfig(r *rand.Rand) Config {
	var c Config
	finish := func(l Link) {
		l.MTU = pick(r, 0, 0, 1400, 1500, 9000)
		l.Down = r.IntN(6) == 0
		l.Addrs = pfx(some(r, randomAddrs...)...)
		for _, s := range some(r, randomRoutes...) {
			rt := via(s)
			rt.Metric = pick(r, 0, 0, 50)
			l.Routes = append(l.Routes, rt)
		}
		c.Links = append(c.Links, l)
	}
	ports := some(r, "a", "b", "c", "d")
	bonded := some(r, ports...)
	for _, p := range ports {
		if slices.Contains(bonded, p) && r.IntN(8) != 0 {
			c.Links = append(c.Links, phys(p))
		} else {
			finish(phys(p))
		}
	}
	if len(bonded) > 0 {
		bond := Link{Name: "ic0", Kind: Bond, Slaves: bonded, LACP: r.IntN(3) == 0, Miimon: pick(r, 0, 50)}
		if !bond.LACP {
			bond.Primary = pick(r, "", bonded[0])
		}
		finish(bond)
	}
	for _, v := range some(r, "v1", "v2", "v3") {
		finish(Link{Name: v, Kind: VLAN, Parent: pick(r, "ic0", "ic0", "a", "b"), ID: pick(r, 1, 2, 3)})
	}
	r.Shuffle(len(c.Links), func(i, j int) { c.Links[i], c.Links[j] = c.Links[j], c.Links[i] })
	return c
}

func randomState(r *rand.Rand) State {
	var s State
	routes := map[routeKey]bool{}
	finish := func(l LinkState) {
		l.MTU = pick(r, 1400, 1500, 9000)
		l.Ours = r.IntN(2) == 0
		l.Addrs = addrs(some(r, randomAddrs...)...)
		for _, t := range some(r, randomRoutes...) {
			rt := via(t).normal()
			if l.Up && !routes[rt.key()] {
				routes[rt.key()] = true
				l.Routes = append(l.Routes, RouteState{Route: rt})
			}
		}
		s.Links = append(s.Links, l)
	}
	masters := []string{""}
	if r.IntN(2) == 0 {
		masters = append(masters, "ic0", "ic0")
		finish(LinkState{Name: "ic0", Type: "bond", Up: r.IntN(2) == 0, BondMode: pick(r, activeBackup, activeBackup, modeLACP, "balance-rr"), Reselect: pick(r, "always", reselectFailure), Miimon: pick(r, 0, 50, 100)})
	}
	if r.IntN(3) == 0 {
		masters = append(masters, "br0")
		finish(LinkState{Name: "br0", Type: "bridge", Up: true})
	}
	for _, p := range some(r, "a", "b", "c", "d", "e", "a2") {
		finish(LinkState{Name: p, Type: "device", Up: r.IntN(2) == 0, Master: pick(r, masters...)})
	}
	tags := map[string]bool{}
	for _, v := range some(r, "v1", "v2", "v3", "v4") {
		parent, id := pick(r, "ic0", "a", "b", "e"), pick(r, 1, 2, 3)
		p, ok := s.Link(parent)
		if key := fmt.Sprint(parent, id); ok && p.Master == "" && !tags[key] {
			tags[key] = true
			finish(LinkState{Name: v, Type: "vlan", Up: p.Up && r.IntN(2) == 0, VLANParent: parent, VLANID: id})
			v := &s.Links[len(s.Links)-1]
			v.MTU = min(v.MTU, p.MTU)
		}
	}
	return s
}

func TestProblemsNameLinkAndRemedy(t *testing.T) {
	for _, tt := range []struct {
		want Config
		have State
		err  string
	}{
		{wants(phys("m")), has(), "link m: not there: check the port and its driver"},
		{wants(Link{Name: "m", Kind: Physical, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}), has(port("m", true)), "link m: no port has MAC 02:00:00:00:00:01: check the port and its driver"},
		{wants(phys("p3"), with(testBond, func(l *Link) { l.Slaves = []string{"p3"} })), has(port("p3", true), LinkState{Name: "ic0", Type: "dummy"}), "link ic0: a dummy has this name: remove it or choose another name"},
		{wants(phys("ic0")), builtBond(), "link ic0: is a bond, not a port: correct its kind"},
		{wants(phys("ic0")), has(), "link ic0: not there: check the port and its driver"},
		{wants(phys("p3"), phys("p6"), testBond, with(testVLAN, func(l *Link) { l.Name = "dep" })), changed(builtBond(), "ic0.5", func(l *LinkState) { l.Ours = false }), "link dep: somebody else's link ic0.5 is VLAN 5 of ic0 already: remove it"},
		{wants(with(phys("m"), func(l *Link) { l.MTU = 5 })), has(port("m", true)), "link m: MTU 5: use 576 to 65535 bytes"},
	} {
		err := Problems(tt.want, tt.have)
		if err == nil || err.Error() != tt.err {
			t.Errorf("Problems(%+v) = %v, want %v", tt.want, err, tt.err)
		}
	}
}

func TestValidate(t *testing.T) {
	p3, p6 := phys("p3"), phys("p6")
	for _, tt := range []struct {
		links []Link
		err   string // contained; "" for none
	}{
		{[]Link{p3, p6, testBond, testVLAN}, ""},
		{[]Link{{Name: "a b", Kind: Physical}}, "blanks"},
		{[]Link{{Name: "", Kind: Physical}}, "not a link name"},
		{[]Link{{Name: "averyveryverylongname", Kind: Physical}}, "shorten it"},
		{[]Link{p3, p3}, "named twice"},
		{[]Link{{Name: "x", Kind: "tunnel"}}, "use physical, bond or vlan"},
		{[]Link{p3, testBond}, "slave p6 is not in the configuration"},
		{[]Link{p3, p6, testBond, {Name: "ic1", Kind: Bond, Slaves: []string{"p6"}}}, "give it to one bond"},
		{[]Link{p3, p6, with(testBond, func(l *Link) { l.Primary = "p9" })}, "name one of p3, p6"},
		{[]Link{with(p3, func(l *Link) { l.Addrs = pfx("10.0.0.1/8") }), p6, testBond}, "give its addresses and routes to ic0"},
		{[]Link{with(p3, func(l *Link) { l.MTU = 1500 }), p6, testBond}, "make both 9000"},
		{[]Link{with(p3, func(l *Link) { l.Down = true }), p6, testBond}, "cannot be down"},
		{[]Link{{Name: "b", Kind: Bond}}, "needs a slave"},
		{[]Link{p3, p6, with(testBond, func(l *Link) { l.LACP = true })}, "LACP has no primary"},
		{[]Link{testVLAN}, `parent "ic0" is not in the configuration`},
		{[]Link{p3, p6, testBond, {Name: "v", Kind: VLAN, Parent: "p3", ID: 1}}, "use its bond ic0"},
		{[]Link{p3, {Name: "v", Kind: VLAN, Parent: "p3", ID: 4095}}, "use 1 to 4094"},
		{[]Link{p3, {Name: "v", Kind: VLAN, Parent: "p3", ID: 1}, {Name: "w", Kind: VLAN, Parent: "v", ID: 2}}, "use the link below it"},
		{[]Link{p3, p6, testBond, with(testVLAN, func(l *Link) { l.MTU = 9100 })}, "raise that one too"},
		{[]Link{p3, {Name: "v", Kind: VLAN, Parent: "p3", ID: 1}, {Name: "w", Kind: VLAN, Parent: "p3", ID: 1}}, "VLAN 1 of p3 is named twice"},
		{[]Link{with(p3, func(l *Link) { l.Addrs = pfx("10.0.0.1/8") }), with(p6, func(l *Link) { l.Addrs = pfx("10.0.0.1/24") })}, "is on p3 already"},
		{[]Link{with(p3, func(l *Link) { l.Addrs = pfx("10.0.0.1/8"); l.Routes = []Route{via("0.0.0.0/0 11.0.0.1")} })}, "is in no network of this link"},
		{[]Link{with(p3, func(l *Link) { l.Down = true; l.Routes = []Route{via("10.0.0.0/8")} })}, "bring it up"},
		{[]Link{with(p3, func(l *Link) { l.Routes = []Route{via("10.0.0.0/8")} }), with(p6, func(l *Link) { l.Routes = []Route{via("10.0.0.0/8")} })}, "is on p3 too"},
		{[]Link{with(p3, func(l *Link) { l.MTU = 1000; l.Addrs = pfx("2001:db8::1/64") })}, "IPv6 needs 1280"},
	} {
		err := Config{Links: tt.links}.Validate()
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("Validate(%+v) = %v, want %q", tt.links, err, tt.err)
		}
	}
}
