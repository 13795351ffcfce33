package netcfg

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
)

// A State is the observed network: all links of this network namespace.
type State struct {
	Links []LinkState
}

// A LinkState is one observed link.
type LinkState struct {
	Name string
	// Type is the kernel's word: "bond", "vlan", "veth", "device" ...
	Type string
	// MAC is the address in use; PermMAC the one burnt in, which a slave keeps
	// while its bond lends it another. Drivers without one leave it empty.
	MAC, PermMAC net.HardwareAddr
	Up           bool // wanted up by somebody
	Carrier      bool // and a partner is there
	MTU          int
	Master       string // the bond or bridge that holds this link
	Ours         bool   // made by this package

	BondMode   string // "active-backup" ...
	Miimon     int    // milliseconds
	Primary    string
	Reselect   string // when a primary that failed is used again: "failure" ...
	Active     string // the slave in use
	VLANParent string
	VLANID     int

	Addrs  []Addr // in the kernel's order
	Routes []RouteState
}

// An Addr is an observed address. Kernel says that the kernel or a router made
// it: link-local, autoconfigured. Duplicate says that the kernel found somebody
// else with it (IPv6, RFC 4862 section 5.4) and does not use it.
type Addr struct {
	netip.Prefix
	Kernel    bool
	Duplicate bool
}

// A RouteState is an observed route. Kernel says that it follows from an
// address or a router.
type RouteState struct {
	Route
	Kernel bool
}

// Modes and a policy of the bonding driver, as it spells them.
const (
	activeBackup = "active-backup"
	modeLACP     = "802.3ad"

	reselectFailure = "failure"
)

// Link returns the link with this name.
func (s *State) Link(name string) (LinkState, bool) {
	if l := s.find(name); l != nil {
		return *l, true
	}
	return LinkState{}, false
}

func (s *State) find(name string) *LinkState {
	i := slices.IndexFunc(s.Links, func(l LinkState) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Links[i]
}

// byMAC finds a port by its permanent address, or by the address in use if the
// driver knows no permanent one. Bonds and VLANs share addresses with the
// ports below them and are never meant.
func (s *State) byMAC(mac net.HardwareAddr) *LinkState {
	i := slices.IndexFunc(s.Links, func(l LinkState) bool {
		own := l.PermMAC
		if len(own) == 0 {
			own = l.MAC
		}
		return l.Type != "bond" && l.Type != "vlan" && bytes.Equal(own, mac)
	})
	if i < 0 {
		return nil
	}
	return &s.Links[i]
}

func (s State) clone() State {
	links := slices.Clone(s.Links)
	for i := range links {
		links[i].Addrs = slices.Clone(links[i].Addrs)
		links[i].Routes = slices.Clone(links[i].Routes)
	}
	return State{Links: links}
}

// The rest is a model of what the kernel does with a change beside the change
// itself. Plan decides against it, so that one plan is enough.

// addLink adds a new link as the kernel makes it.
func (s *State) addLink(l LinkState) {
	l.Ours = true
	s.Links = append(s.Links, l)
}

// deleteLink removes a link. A bond releases its slaves; VLANs go with the
// link below them.
func (s *State) deleteLink(name string) {
	for i := range s.Links {
		if s.Links[i].Master == name {
			s.release(&s.Links[i])
		}
	}
	var above []string
	for _, l := range s.Links {
		if l.VLANParent == name {
			above = append(above, l.Name)
		}
	}
	for _, v := range above {
		s.deleteLink(v)
	}
	s.Links = slices.DeleteFunc(s.Links, func(l LinkState) bool { return l.Name == name })
}

// enslave models bond_enslave: the slave gets the bond's MTU and is opened.
func (s *State) enslave(l *LinkState, master string) {
	l.Master = master
	if m := s.find(master); m != nil {
		s.setMTU(l, m.MTU)
	}
	s.setUp(l)
}

// release models bond_release: the slave is closed, and its MTU becomes what it
// was before, which nobody here knows.
func (s *State) release(l *LinkState) {
	l.Master = ""
	l.MTU = 0
	s.setDown(l)
}

// setMTU models dev_set_mtu: a bond passes it on to its slaves, and no VLAN
// stays above the link below it.
func (s *State) setMTU(l *LinkState, mtu int) {
	l.MTU = mtu
	for i := range s.Links {
		o := &s.Links[i]
		if l.Type == "bond" && o.Master == l.Name {
			s.setMTU(o, mtu)
		}
		if o.VLANParent == l.Name && o.MTU > mtu {
			s.setMTU(o, mtu)
		}
	}
}

// setUp models vlan_device_event NETDEV_UP: VLANs follow the link below.
func (s *State) setUp(l *LinkState) {
	l.Up = true
	for i := range s.Links {
		if s.Links[i].VLANParent == l.Name {
			s.setUp(&s.Links[i])
		}
	}
}

// setDown models NETDEV_DOWN: routes go, IPv6 addresses go, VLANs follow.
func (s *State) setDown(l *LinkState) {
	l.Up = false
	l.Routes = nil
	l.Addrs = slices.DeleteFunc(l.Addrs, func(a Addr) bool { return a.Addr().Is6() })
	for i := range s.Links {
		if s.Links[i].VLANParent == l.Name {
			s.setDown(&s.Links[i])
		}
	}
}

// removeAddr models inet_del_ifa: secondary addresses go with their primary
// (unless promote_secondaries is set, then adding them again changes nothing),
// and all routes with the last address.
func (s *State) removeAddr(l *LinkState, p netip.Prefix) {
	first := slices.IndexFunc(l.Addrs, func(a Addr) bool { return sameNet(a.Prefix, p) })
	if first < 0 {
		return
	}
	primary := p.Addr().Is4() && l.Addrs[first].Prefix == p
	l.Addrs = slices.DeleteFunc(l.Addrs, func(a Addr) bool {
		return a.Prefix == p || primary && sameNet(a.Prefix, p)
	})
	is4 := func(a Addr) bool { return a.Addr().Is4() }
	if p.Addr().Is4() && !slices.ContainsFunc(l.Addrs, is4) {
		l.Routes = slices.DeleteFunc(l.Routes, func(r RouteState) bool { return r.Dst.Addr().Is4() })
	}
}

func sameNet(a, b netip.Prefix) bool { return a.Masked() == b.Masked() }
