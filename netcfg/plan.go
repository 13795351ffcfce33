package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// A Change is one step towards the wanted network: one request to the kernel.
// Its String reads like a line of ip(8).
type Change interface {
	// Link is the kernel's name of the link that changes.
	Link() string
	fmt.Stringer
	// after makes the same change in a model of the network.
	after(*State)
}

// The changes that Plan makes. Names are the kernel's.
type (
	// Delete removes a bond or a VLAN.
	Delete struct{ Name string }
	// CreateBond makes a bond, active-backup or with LACP; Miimon is in
	// milliseconds.
	CreateBond struct {
		Name   string
		LACP   bool
		Miimon int
	}
	// SetReselect says when a primary that failed is used again.
	SetReselect struct{ Name, Policy string }
	// CreateVLAN makes a VLAN.
	CreateVLAN struct {
		Name, Parent string
		ID           int
	}
	// Release takes a link away from its bond or bridge.
	Release struct{ Name string }
	// Enslave gives a link, which must be down, to a bond, which opens it.
	Enslave struct{ Name, Master string }
	// SetMiimon sets the link check interval of a bond, in milliseconds.
	SetMiimon struct {
		Name   string
		Miimon int
	}
	// SetPrimary sets the preferred slave of a bond; "" for none.
	SetPrimary struct{ Name, Primary string }
	// SetMTU sets the MTU in bytes.
	SetMTU struct {
		Name string
		MTU  int
	}
	// SetUp brings a link up.
	SetUp struct{ Name string }
	// SetDown brings a link down.
	SetDown struct{ Name string }
	// AddAddr adds an address.
	AddAddr struct {
		Name string
		Addr netip.Prefix
	}
	// RemoveAddr removes an address.
	RemoveAddr struct {
		Name string
		Addr netip.Prefix
	}
	// AddRoute adds a route.
	AddRoute struct {
		Name  string
		Route Route
	}
	// RemoveRoute removes a route.
	RemoveRoute struct {
		Name  string
		Route Route
	}
)

func (c Delete) Link() string      { return c.Name }
func (c CreateBond) Link() string  { return c.Name }
func (c CreateVLAN) Link() string  { return c.Name }
func (c Release) Link() string     { return c.Name }
func (c Enslave) Link() string     { return c.Name }
func (c SetMiimon) Link() string   { return c.Name }
func (c SetPrimary) Link() string  { return c.Name }
func (c SetReselect) Link() string { return c.Name }
func (c SetMTU) Link() string      { return c.Name }
func (c SetUp) Link() string       { return c.Name }
func (c SetDown) Link() string     { return c.Name }
func (c AddAddr) Link() string     { return c.Name }
func (c RemoveAddr) Link() string  { return c.Name }
func (c AddRoute) Link() string    { return c.Name }
func (c RemoveRoute) Link() string { return c.Name }

func (c Delete) String() string { return "delete link " + c.Name }
func (c CreateBond) String() string {
	if c.LACP {
		return fmt.Sprintf("add link %s type bond mode 802.3ad miimon %d lacp_rate fast xmit_hash_policy layer3+4", c.Name, c.Miimon)
	}
	return fmt.Sprintf("add link %s type bond mode active-backup miimon %d primary_reselect failure", c.Name, c.Miimon)
}
func (c CreateVLAN) String() string {
	return fmt.Sprintf("add link %s link %s type vlan id %d", c.Name, c.Parent, c.ID)
}
func (c Release) String() string   { return fmt.Sprintf("set %s nomaster", c.Name) }
func (c Enslave) String() string   { return fmt.Sprintf("set %s master %s", c.Name, c.Master) }
func (c SetMiimon) String() string { return fmt.Sprintf("set %s miimon %d", c.Name, c.Miimon) }
func (c SetPrimary) String() string {
	return fmt.Sprintf("set %s primary %s", c.Name, c.Primary)
}
func (c SetReselect) String() string {
	return fmt.Sprintf("set %s primary_reselect %s", c.Name, c.Policy)
}
func (c SetMTU) String() string     { return fmt.Sprintf("set %s mtu %d", c.Name, c.MTU) }
func (c SetUp) String() string      { return fmt.Sprintf("set %s up", c.Name) }
func (c SetDown) String() string    { return fmt.Sprintf("set %s down", c.Name) }
func (c AddAddr) String() string    { return fmt.Sprintf("add address %v dev %s", c.Addr, c.Name) }
func (c RemoveAddr) String() string { return fmt.Sprintf("delete address %v dev %s", c.Addr, c.Name) }
func (c AddRoute) String() string   { return fmt.Sprintf("add route %v dev %s", c.Route, c.Name) }
func (c RemoveRoute) String() string {
	return fmt.Sprintf("delete route %v dev %s", c.Route, c.Name)
}

func (c Delete) after(s *State) { s.deleteLink(c.Name) }
func (c CreateBond) after(s *State) {
	l := LinkState{Name: c.Name, Type: "bond", MTU: 1500, BondMode: activeBackup, Reselect: reselectFailure, Miimon: c.Miimon}
	if c.LACP {
		l.BondMode, l.Reselect = modeLACP, ""
	}
	s.addLink(l)
}
func (c CreateVLAN) after(s *State) {
	l := LinkState{Name: c.Name, Type: "vlan", VLANParent: c.Parent, VLANID: c.ID}
	if p := s.find(c.Parent); p != nil {
		l.MTU = p.MTU
	}
	s.addLink(l)
}
func (c Release) after(s *State) { s.on(c.Name, s.release) }
func (c Enslave) after(s *State) {
	s.on(c.Name, func(l *LinkState) { s.enslave(l, c.Master) })
}
func (c SetMiimon) after(s *State) {
	s.on(c.Name, func(l *LinkState) { l.Miimon = c.Miimon })
}
func (c SetPrimary) after(s *State) {
	s.on(c.Name, func(l *LinkState) { l.Primary = c.Primary })
}
func (c SetReselect) after(s *State) {
	s.on(c.Name, func(l *LinkState) { l.Reselect = c.Policy })
}
func (c SetMTU) after(s *State) {
	s.on(c.Name, func(l *LinkState) { s.setMTU(l, c.MTU) })
}
func (c SetUp) after(s *State)   { s.on(c.Name, s.setUp) }
func (c SetDown) after(s *State) { s.on(c.Name, s.setDown) }
func (c AddAddr) after(s *State) {
	s.on(c.Name, func(l *LinkState) { l.Addrs = append(l.Addrs, Addr{Prefix: c.Addr}) })
}
func (c RemoveAddr) after(s *State) {
	s.on(c.Name, func(l *LinkState) { s.removeAddr(l, c.Addr) })
}
func (c AddRoute) after(s *State) {
	s.on(c.Name, func(l *LinkState) { l.Routes = append(l.Routes, RouteState{Route: c.Route}) })
}
func (c RemoveRoute) after(s *State) {
	s.on(c.Name, func(l *LinkState) {
		l.Routes = slices.DeleteFunc(l.Routes, func(r RouteState) bool { return r.Route == c.Route })
	})
}

func (s *State) on(name string, do func(*LinkState)) {
	if l := s.find(name); l != nil {
		do(l)
	}
}

// Plan returns the changes that turn have into want, in an order the kernel
// accepts. It does no I/O. Links that cannot be had are left out, and so are
// those that stand on them; Problems tells which.
func Plan(want Config, have State) []Change {
	return newPlan(want, have).changes
}

// Problems tells why links of want cannot be had on this machine, as joined
// *LinkErrors; nil if all can.
func Problems(want Config, have State) error {
	return errors.Join(newPlan(want, have).errs...)
}

// A wanted link is a Link in the kernel's names, with every default filled in.
type wanted struct {
	Link
	bond string // the bond that shall hold it, in the configuration's name
}

// resolve translates want into the kernel's names, in the order in which links
// stand on each other, without those that cannot be had.
func resolve(want Config, have State) ([]wanted, []error) {
	var errs []error
	bad := map[string]bool{}
	for _, f := range want.faults() {
		bad[f.Link] = true
		errs = append(errs, f)
	}
	names := map[string]string{} // of the configuration → of the kernel
	var links []wanted
	for _, l := range want.ordered() {
		if bad[l.Name] {
			continue
		}
		w, err := resolveLink(want, have, l, names)
		if err == nil && slices.ContainsFunc(links, func(o wanted) bool { return o.Name == w.Name }) {
			err = fmt.Errorf("is the same port as another link of the configuration (%s): name it once", w.Name)
		}
		if err != nil {
			errs = append(errs, &LinkError{l.Name, err})
			continue
		}
		names[l.Name] = w.Name
		links = append(links, w)
	}
	// Slaves learn the name of their bond. Those of a bond that cannot be had
	// stay as they are, for it may be running.
	links = slices.DeleteFunc(links, func(w wanted) bool {
		return w.bond != "" && names[w.bond] == ""
	})
	return links, errs
}

func resolveLink(want Config, have State, l Link, names map[string]string) (wanted, error) {
	w := wanted{Link: l, bond: want.bondOf(l.Name)}
	w.Routes = slices.Clone(l.Routes)
	for i := range w.Routes {
		w.Routes[i] = w.Routes[i].normal()
	}
	old := have.find(l.Name)
	switch l.Kind {
	case Physical:
		if len(l.MAC) > 0 {
			old = have.byMAC(l.MAC)
		}
		switch {
		case old == nil && len(l.MAC) > 0:
			return w, fmt.Errorf("no port has MAC %v: check the port and its driver", l.MAC)
		case old == nil:
			return w, errors.New("not there: check the port and its driver")
		case old.Type == "bond" || old.Type == "vlan":
			return w, fmt.Errorf("is a %s, not a port: correct its kind", old.Type)
		}
		w.Name = old.Name
	case Bond:
		if old != nil && old.Type != "bond" {
			return w, fmt.Errorf("a %s has this name: remove it or choose another name", old.Type)
		}
		if w.Miimon == 0 {
			w.Miimon = DefaultMiimon
		}
		w.Slaves = nil // those that are there; the others are reported by themselves
		for _, s := range l.Slaves {
			if n, ok := names[s]; ok {
				w.Slaves = append(w.Slaves, n)
			}
		}
		if len(w.Slaves) == 0 {
			return w, errors.New("none of its slaves can be had: see there")
		}
		w.Primary = names[l.Primary]
	case VLAN:
		parent, ok := names[l.Parent]
		if !ok {
			return w, fmt.Errorf("parent %s cannot be had: see there", l.Parent)
		}
		w.Parent = parent
		if mtu := mtuOf(want, have, l.Parent, parent); l.MTU > mtu {
			return w, fmt.Errorf("MTU %d is above the %d of its parent %s: raise that one too", l.MTU, mtu, parent)
		}
		if old != nil && old.Type != "vlan" {
			return w, fmt.Errorf("a %s has this name: remove it or choose another name", old.Type)
		}
	}
	return w, nil
}

// mtuOf returns the MTU that a parent of VLANs will have, in bytes; that of a
// new bond is 1500.
func mtuOf(want Config, have State, label, name string) int {
	w, _ := want.link(label)
	l := have.find(name)
	switch {
	case w.MTU != 0:
		return w.MTU
	case w.Kind == Bond && (l == nil || l.BondMode != w.bondMode()):
		return 1500
	case l.Master != "" || l.MTU == 0: // comes back with the one it had before its bond
		return maxMTU
	}
	return l.MTU
}

type planner struct {
	links   []wanted
	faulty  []string // of the configuration, left alone
	now     State    // after changes
	changes []Change
	errs    []error
}

func newPlan(want Config, have State) *planner {
	p := &planner{now: have.clone()}
	p.links, p.errs = resolve(want, have)
	for _, err := range p.errs {
		if bad := (*LinkError)(nil); errors.As(err, &bad) {
			p.faulty = append(p.faulty, bad.Link)
		}
	}
	p.clean()
	for _, l := range p.links {
		p.build(l)
	}
	return p
}

func (p *planner) do(c Change) {
	c.after(&p.now)
	p.changes = append(p.changes, c)
}

func (p *planner) fail(w wanted, err error) {
	p.errs = append(p.errs, &LinkError{w.Name, err})
}

// clean removes what must be gone before anything can be added: an address or
// a route may move from one link to another.
func (p *planner) clean() {
	for _, l := range slices.Clone(p.now.Links) {
		if p.obsolete(l) && p.now.find(l.Name) != nil {
			p.do(Delete{l.Name})
		}
	}
	for _, w := range p.links {
		l := p.now.find(w.Name)
		if l == nil {
			continue
		}
		for _, r := range slices.Clone(l.Routes) {
			if !r.Kernel && !slices.Contains(w.Routes, r.Route) {
				p.do(RemoveRoute{w.Name, r.Route})
			}
		}
		for _, a := range slices.Clone(l.Addrs) {
			if !a.Kernel && !slices.Contains(w.Addrs, a.Prefix) && hasAddr(p.now.find(w.Name), a.Prefix) {
				p.do(RemoveAddr{w.Name, a.Prefix})
			}
		}
	}
}

// obsolete says whether l must go: a bond or VLAN of a wanted name but another
// make, or a VLAN of ours on a wanted link that is no longer wanted. One that is
// wanted and cannot be had as it is wanted stays as it runs.
func (p *planner) obsolete(l LinkState) bool {
	if slices.Contains(p.faulty, l.Name) {
		return false
	}
	for _, w := range p.links {
		if w.Name != l.Name {
			continue
		}
		switch w.Kind {
		case Bond:
			return l.BondMode != w.bondMode()
		case VLAN:
			return l.VLANParent != w.Parent || l.VLANID != w.ID
		}
		return false
	}
	return l.Type == "vlan" && l.Ours && slices.ContainsFunc(p.links, func(w wanted) bool { return w.Name == l.VLANParent })
}

// build makes w as it is wanted. All it stands on has been built.
func (p *planner) build(w wanted) {
	switch w.Kind {
	case Physical:
		if w.bond != "" {
			return // built with its bond
		}
		if p.now.find(w.Name).Master != "" {
			p.do(Release{w.Name})
		}
	case Bond:
		p.buildBond(w)
	case VLAN:
		if p.now.find(w.Name) == nil {
			if other := p.vlanOn(w.Parent, w.ID); other != "" {
				p.fail(w, fmt.Errorf("somebody else's link %s is VLAN %d of %s already: remove it", other, w.ID, w.Parent))
				return
			}
			p.do(CreateVLAN{w.Name, w.Parent, w.ID})
		}
	}
	p.setMTU(w.Name, w.MTU)
	switch up := p.now.find(w.Name).Up; {
	case up && w.Down:
		p.do(SetDown{w.Name})
	case !up && !w.Down:
		p.do(SetUp{w.Name})
	}
	for _, a := range w.Addrs {
		if !hasAddr(p.now.find(w.Name), a) {
			p.do(AddAddr{w.Name, a})
		}
	}
	for _, r := range w.Routes {
		switch link, old := p.takenBy(r); {
		case link == "":
			p.do(AddRoute{w.Name, r})
		case link != w.Name || old != r:
			p.fail(w, fmt.Errorf("route %v: there is one over %s already: remove it or give this one another metric", r, link))
		}
	}
}

// takenBy returns the route that has the place of r in the routing table, and
// its link. After clean, that is r itself or one that is not ours to remove.
func (p *planner) takenBy(r Route) (link string, old Route) {
	for _, l := range p.now.Links {
		for _, o := range l.Routes {
			if o.key() == r.key() {
				return l.Name, o.Route
			}
		}
	}
	return "", Route{}
}

// vlanOn returns the name of the VLAN with this ID on parent, if any.
func (p *planner) vlanOn(parent string, id int) string {
	for _, l := range p.now.Links {
		if l.VLANParent == parent && l.VLANID == id {
			return l.Name
		}
	}
	return ""
}

// buildBond makes the bond and its slaves. The mode is fixed at the creation
// and a slave must be down when it comes (Documentation/networking/bonding.rst);
// the bond's MTU is set before, so that a new slave never shows another one.
func (p *planner) buildBond(w wanted) {
	if p.now.find(w.Name) == nil {
		p.do(CreateBond{w.Name, w.LACP, w.Miimon})
	}
	if p.now.find(w.Name).Miimon != w.Miimon {
		p.do(SetMiimon{w.Name, w.Miimon})
	}
	p.setMTU(w.Name, w.MTU)
	for _, s := range w.Slaves {
		l := p.now.find(s)
		if l.Master != w.Name {
			if l.Master != "" {
				p.do(Release{s})
			}
			if l.Up {
				p.do(SetDown{s})
			}
			p.do(Enslave{s, w.Name})
		}
		if !l.Up {
			p.do(SetUp{s})
		}
		p.setMTU(s, p.now.find(w.Name).MTU)
	}
	if w.LACP {
		return
	}
	if p.now.find(w.Name).Reselect != reselectFailure {
		p.do(SetReselect{w.Name, reselectFailure})
	}
	if p.now.find(w.Name).Primary != w.Primary {
		p.do(SetPrimary{w.Name, w.Primary})
	}
}

// bondMode is the mode of a wanted bond, as the kernel spells it.
func (l Link) bondMode() string {
	if l.LACP {
		return modeLACP
	}
	return activeBackup
}

func (p *planner) setMTU(name string, mtu int) {
	if mtu != 0 && p.now.find(name).MTU != mtu {
		p.do(SetMTU{name, mtu})
	}
}

func hasAddr(l *LinkState, a netip.Prefix) bool {
	return slices.ContainsFunc(l.Addrs, func(o Addr) bool { return o.Prefix == a })
}
