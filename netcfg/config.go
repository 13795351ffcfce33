// Package netcfg gives a module its place on the interconnect: links, bonds,
// VLANs, addresses and routes.
//
// A Config says what should be and Observe reads what is. Plan compares the
// two without I/O and Apply carries the plan out over rtnetlink(7); Sync is
// one such round. Applying the same Config again changes nothing. Watch wakes
// whoever wants to run the next round.
//
// Netcfg touches only the links a Config names, and on these it removes only
// addresses and routes that a person or program put there: what the kernel
// makes by itself (link-local and autoconfigured addresses, connected routes)
// stays. VLANs that it made carry a mark (the link group, see ip-link(8)), so
// that one which is no longer wanted goes, and one made by somebody else stays.
//
// Beside that there are the small protocols of an address: Announce
// (gratuitous ARP) and DHCP (the client of the management port); and the
// frame's settings for a module, ParseManagement, ParseDeployment and the
// Module whose Config is made of them.
//
// One Apply runs at a time; everything else is safe for concurrent use.
package netcfg

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Kind is what a link is made of.
type Kind string

// The kinds of links a Config knows.
const (
	Physical Kind = "physical" // exists already; found by MAC or by name
	Bond     Kind = "bond"     // active-backup or LACP over physical links
	VLAN     Kind = "vlan"     // an 802.1Q tag on a physical link or a bond
)

// A Config is the wanted network of a module: the links it owns, in any order.
type Config struct {
	Links []Link
}

// A Link is one wanted link.
type Link struct {
	// Name is the kernel's name of the link. For a physical link with a MAC
	// it is a label only: other links refer to it by this name, and the
	// kernel may call it differently. Links are never renamed.
	Name string
	Kind Kind

	// MAC finds a physical link by its permanent address.
	MAC net.HardwareAddr

	// Slaves are the physical links of a bond.
	Slaves []string
	// Primary is the slave that a new bond uses first; empty for none. When it
	// failed, the bond does not return to it before the other one fails, or
	// somebody else decides so (package probe).
	Primary string
	// LACP makes the bond speak IEEE 802.1AX: all slaves carry traffic. Without
	// it, one does (active-backup).
	LACP bool
	// Miimon is the bond's link check interval in milliseconds; 0 means 100.
	Miimon int

	// Parent and ID are those of a VLAN.
	Parent string
	ID     int

	// MTU in bytes; 0 leaves it as it is. Slaves take that of their bond.
	MTU int
	// Down wants the link down. Slaves are always up.
	Down   bool
	Addrs  []netip.Prefix
	Routes []Route
}

// A Route is a unicast route of the main table over one link.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr // invalid for a route without one
	Metric  int        // the kernel takes 0 as 1024 in IPv6
}

// DefaultMiimon is the link check interval of a bond, in milliseconds.
const DefaultMiimon = 100

// Limits of the kernel (include/linux/if.h, if_vlan.h) and of IPv4 (RFC 791:
// every host takes 576 bytes).
const (
	maxName = 15
	minMTU  = 576
	maxMTU  = 65535
	maxVLAN = 4094
)

// A LinkError says what is wrong with one link, and what to do about it.
type LinkError struct {
	Link string
	Err  error
}

func (e *LinkError) Error() string { return fmt.Sprintf("link %s: %v", e.Link, e.Err) }

func (e *LinkError) Unwrap() error { return e.Err }

// Validate checks c by itself, without a look at the machine. It joins one
// *LinkError for each fault. Plan leaves links with faults alone, and those
// that need them.
func (c Config) Validate() error {
	var errs []error
	for _, f := range c.faults() {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

func (c Config) link(name string) (Link, bool) {
	i := slices.IndexFunc(c.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return Link{}, false
	}
	return c.Links[i], true
}

// bondOf returns the name of the bond that wants the physical link name.
func (c Config) bondOf(name string) string {
	for _, l := range c.Links {
		if l.Kind == Bond && slices.Contains(l.Slaves, name) {
			return l.Name
		}
	}
	return ""
}

func (c Config) faults() []*LinkError {
	var faults []*LinkError
	for i, l := range c.Links {
		errs := []error{checkName(l.Name), checkMTU(l)}
		if slices.ContainsFunc(c.Links[:i], func(o Link) bool { return o.Name == l.Name }) {
			errs = append(errs, errors.New("named twice: keep one"))
		}
		switch l.Kind {
		case Physical:
			errs = append(errs, c.checkPhysical(i, l))
		case Bond:
			errs = append(errs, c.checkBond(l))
		case VLAN:
			errs = append(errs, c.checkVLAN(i, l))
		default:
			errs = append(errs, fmt.Errorf("unknown kind %q: use physical, bond or vlan", l.Kind))
		}
		errs = append(errs, c.checkAddrs(i, l), c.checkRoutes(i, l))
		for _, err := range errs {
			if err != nil {
				faults = append(faults, &LinkError{l.Name, err})
			}
		}
	}
	return faults
}

func checkName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r > '~' }
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is not a link name: give it one", name)
	case len(name) > maxName:
		return fmt.Errorf("name is longer than %d bytes: shorten it", maxName)
	case strings.ContainsFunc(name, bad):
		return errors.New("name has blanks, '/', ':' or non-ASCII characters: leave them out")
	}
	return nil
}

func checkMTU(l Link) error {
	if l.MTU == 0 {
		return nil
	}
	if l.MTU < minMTU || l.MTU > maxMTU {
		return fmt.Errorf("MTU %d: use %d to %d bytes", l.MTU, minMTU, maxMTU)
	}
	if l.MTU < 1280 && slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return fmt.Errorf("MTU %d: IPv6 needs 1280 bytes or more", l.MTU)
	}
	return nil
}

func (c Config) checkPhysical(i int, l Link) error {
	if len(l.MAC) > 0 && slices.ContainsFunc(c.Links[:i], func(o Link) bool {
		return o.Kind == Physical && bytes.Equal(o.MAC, l.MAC)
	}) {
		return fmt.Errorf("another link has MAC %v too: name each port once", l.MAC)
	}
	name := c.bondOf(l.Name)
	if name == "" {
		return nil
	}
	bond, _ := c.link(name)
	switch {
	case l.Down:
		return fmt.Errorf("is a slave of %s and cannot be down: take it out of the bond", name)
	case len(l.Addrs) > 0 || len(l.Routes) > 0:
		return fmt.Errorf("is a slave of %s: give its addresses and routes to %s", name, name)
	case l.MTU != 0 && l.MTU != bond.MTU:
		return fmt.Errorf("is a slave of %s: leave its MTU out or make both %d", name, bond.MTU)
	}
	return nil
}

func (c Config) checkBond(l Link) error {
	if len(l.Slaves) == 0 {
		return errors.New("a bond needs a slave: name one or two physical links")
	}
	for i, s := range l.Slaves {
		slave, ok := c.link(s)
		switch {
		case !ok:
			return fmt.Errorf("slave %s is not in the configuration: add it as a physical link", s)
		case slave.Kind != Physical:
			return fmt.Errorf("slave %s is a %s: only physical links can be slaves", s, slave.Kind)
		case slices.Contains(l.Slaves[:i], s):
			return fmt.Errorf("slave %s is named twice: keep one", s)
		case c.bondOf(s) != l.Name:
			return fmt.Errorf("slave %s belongs to %s already: give it to one bond", s, c.bondOf(s))
		}
	}
	if l.Primary != "" && !slices.Contains(l.Slaves, l.Primary) {
		return fmt.Errorf("primary %s is not a slave: name one of %s", l.Primary, strings.Join(l.Slaves, ", "))
	}
	if l.LACP && l.Primary != "" {
		return errors.New("a bond with LACP has no primary: leave one of them out")
	}
	if l.Miimon < 0 {
		return fmt.Errorf("miimon %d: use milliseconds above 0, or 0 for %d", l.Miimon, DefaultMiimon)
	}
	return nil
}

func (c Config) checkVLAN(i int, l Link) error {
	parent, ok := c.link(l.Parent)
	switch {
	case !ok:
		return fmt.Errorf("parent %q is not in the configuration: add it", l.Parent)
	case parent.Kind == VLAN:
		return fmt.Errorf("parent %s is a vlan too: use the link below it", l.Parent)
	case c.bondOf(l.Parent) != "":
		return fmt.Errorf("parent %s is a slave: use its bond %s", l.Parent, c.bondOf(l.Parent))
	case l.ID < 1 || l.ID > maxVLAN:
		return fmt.Errorf("VLAN ID %d: use 1 to %d", l.ID, maxVLAN)
	case parent.Down && !l.Down:
		return fmt.Errorf("parent %s is down: bring it up, or this one down", l.Parent)
	case parent.MTU != 0 && l.MTU > parent.MTU:
		return fmt.Errorf("MTU %d is above the %d of its parent %s: raise that one too", l.MTU, parent.MTU, l.Parent)
	}
	if slices.ContainsFunc(c.Links[:i], func(o Link) bool {
		return o.Kind == VLAN && o.Parent == l.Parent && o.ID == l.ID
	}) {
		return fmt.Errorf("VLAN %d of %s is named twice: keep one", l.ID, l.Parent)
	}
	return nil
}

func (c Config) checkAddrs(i int, l Link) error {
	for j, p := range l.Addrs {
		switch {
		case !p.IsValid() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().Is4In6():
			return fmt.Errorf("address %v: use an address with a prefix length, such as 192.0.2.10/24", p)
		case slices.Contains(l.Addrs[:j], p):
			return fmt.Errorf("address %v is named twice: keep one", p)
		}
		for _, o := range c.Links[:i] {
			if slices.ContainsFunc(o.Addrs, func(q netip.Prefix) bool { return q.Addr() == p.Addr() }) {
				return fmt.Errorf("address %v is on %s already: give it to one link", p.Addr(), o.Name)
			}
		}
	}
	return nil
}

func (c Config) checkRoutes(n int, l Link) error {
	for i, r := range l.Routes {
		same := func(o Route) bool { return o.key() == r.key() }
		switch {
		case !r.Dst.IsValid() || r.Dst != r.Dst.Masked() || r.Dst.Addr().Is4In6():
			return fmt.Errorf("route to %v: use a network such as 0.0.0.0/0", r.Dst)
		case l.Down:
			return fmt.Errorf("route to %v over a link that is down: bring it up", r.Dst)
		case r.Metric < 0:
			return fmt.Errorf("route to %v: metric %d is below 0", r.Dst, r.Metric)
		case slices.ContainsFunc(l.Routes[:i], same):
			return fmt.Errorf("route to %v is named twice: keep one, or give it another metric", r.Dst)
		}
		for _, o := range c.Links[:n] {
			if slices.ContainsFunc(o.Routes, same) {
				return fmt.Errorf("route to %v is on %s too: keep one, or give it another metric", r.Dst, o.Name)
			}
		}
		if !r.Gateway.IsValid() {
			continue
		}
		if r.Gateway.Is4() != r.Dst.Addr().Is4() {
			return fmt.Errorf("route to %v: gateway %v is of the other IP version", r.Dst, r.Gateway)
		}
		near := r.Gateway.IsLinkLocalUnicast() || slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool {
			return p.Contains(r.Gateway) && p.Addr() != r.Gateway
		})
		if !near {
			return fmt.Errorf("route to %v: gateway %v is in no network of this link: correct the gateway or the prefix length", r.Dst, r.Gateway)
		}
	}
	return nil
}

// A routeKey is what the kernel allows once in a table.
type routeKey struct {
	dst    netip.Prefix
	metric int
}

func (r Route) key() routeKey { return routeKey{r.Dst, r.normal().Metric} }

// normal returns r as the kernel shows it.
func (r Route) normal() Route {
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		r.Metric = 1024 // IP6_RT_PRIO_USER
	}
	return r
}

func (r Route) String() string {
	s := r.Dst.String()
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

// ordered returns the links in an order in which each comes after those it
// stands on: physical, bonds, VLANs. Links of a kind keep their order.
func (c Config) ordered() []Link {
	rank := map[Kind]int{Physical: 0, Bond: 1, VLAN: 2}
	links := slices.Clone(c.Links)
	slices.SortStableFunc(links, func(a, b Link) int { return cmp.Compare(rank[a.Kind], rank[b.Kind]) })
	return links
}
