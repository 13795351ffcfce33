package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"baystream/daemon/domain"
	"baystream/hw"
	"baystream/netcfg"
	"baystream/netcfg/acd"
	"baystream/netcfg/lldp"
	"baystream/netcfg/probe"
)

// report is the network as it is.
func (n *network) report(ctx context.Context) (domain.NetReport, error) {
	rep := domain.NetReport{
		Links: []domain.NetLink{}, Drift: []string{}, Ports: []domain.NetPort{}, Warnings: []string{}, Settings: n.NetworkSettings(),
	}
	st, err := netcfg.Observe(ctx)
	if err != nil {
		return rep, err
	}
	for _, l := range st.Links {
		if l.Name == "lo" {
			continue
		}
		rep.Links = append(rep.Links, n.linkView(l, st))
	}
	for _, c := range netcfg.Plan(n.want(), st) {
		rep.Drift = append(rep.Drift, strings.TrimSpace(c.Link()+": "+changeText(c)))
	}
	rep.Bond = n.bondView(st)
	rep.Ports = n.portViews(st)
	rep.Warnings = append(rep.Warnings, n.findings(st, rep)...)
	return rep, nil
}

func (n *network) linkView(l netcfg.LinkState, st netcfg.State) domain.NetLink {
	link := domain.NetLink{Name: l.Name, Kind: l.Type, MAC: l.MAC.String(), MTU: l.MTU, Up: l.Up, Carrier: l.Carrier, Master: l.Master, Addresses: []string{}}
	link.Slot = n.slotOf(l.Name)
	depl, _ := n.deployment()
	link.Purpose = purpose(l.Name, link.Slot, depl)
	if m, ok := st.Link(link.Master); ok && m.Active == l.Name {
		link.Master += " (active)"
	}
	for _, a := range l.Addrs {
		link.Addresses = append(link.Addresses, a.Prefix.String())
	}
	return link
}

func (n *network) slotOf(link string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.nics, func(p hw.NIC) bool { return p.Name == link })
	if i < 0 {
		return 0
	}
	return n.nics[i].Slot
}

// purpose says in a word what a link is for.
func purpose(name string, slot int, depl netcfg.Deployment) string {
	switch {
	case slot == slotManagement:
		return "management"
	case slot == slotFrame:
		return "frame link"
	case slot != 0 && slices.Contains(slotsInterconnect, slot):
		return "interconnect"
	case name == netcfg.InterconnectBond:
		return "interconnect"
	case depl.VLAN != 0 && name == netcfg.DeploymentLink(depl):
		return "deployment"
	}
	return ""
}

// probes returns what the bond's Monitor knows, false while there is none.
func (n *network) probes() (probe.Snapshot, bool) {
	m, ok := watched[*probe.Monitor](&n.watch, watchBond, netcfg.InterconnectBond)
	if !ok {
		return probe.Snapshot{}, false
	}
	return m.Snapshot(), true
}

func (n *network) bondView(st netcfg.State) *domain.NetBond {
	l, ok := st.Link(netcfg.InterconnectBond)
	if !ok {
		return nil
	}
	b := &domain.NetBond{Name: l.Name, Mode: l.BondMode, Active: l.Active, Preferred: l.Primary}
	if s, ok := n.probes(); ok {
		b.Rounds, b.Changes, b.Reason = s.Rounds, s.Changes, s.Reason
		if s.Changes > 0 {
			b.Changed = domain.Stamp(s.Changed)
		}
	}
	return b
}

// portViews are the module's ports in the order of their slots.
func (n *network) portViews(st netcfg.State) []domain.NetPort {
	mgmt, frame, ics := n.ports()
	depl, _ := n.deployment()
	bond, _ := st.Link(netcfg.InterconnectBond)
	snap, probing := n.probes()
	views := []domain.NetPort{}
	for _, p := range append([]netcfg.NIC{mgmt, frame}, ics...) {
		if p.Name == "" {
			continue
		}
		l, _ := st.Link(p.Name)
		slot := n.slotOf(p.Name)
		v := domain.NetPort{Link: p.Name, Slot: slot, Network: purpose(p.Name, slot, depl), MAC: p.MAC.String(), Carrier: l.Carrier, InUse: l.Carrier && len(l.Master) == 0}
		if l.Master == bond.Name && bond.Name != "" {
			v.InUse = bond.Active == p.Name || bond.Active == "" && l.Carrier
		}
		for _, s := range snap.Ports {
			if probing && s.Name == p.Name {
				v.Verdict, v.Delivered, v.Missed = string(s.Verdict), s.Delivered, s.Missed
			}
		}
		v.Neighbour = n.neighbourView(p.Name)
		views = append(views, v)
	}
	return views
}

func (n *network) neighbourView(link string) *domain.NetNeighbour {
	agent, ok := watched[*lldp.Agent](&n.watch, watchLLDP, link)
	if !ok {
		return nil
	}
	who, ok := agent.Neighbour()
	if !ok {
		return nil
	}
	v := &domain.NetNeighbour{
		System: who.SystemName, Port: who.PortText(), Description: who.PortDesc, Chassis: who.ChassisText(),
		MaxFrame: who.MaxFrame, Since: domain.Stamp(who.Since),
	}
	if at, ok := lldp.PlaceOf(who.SystemName); ok {
		v.Frame, v.Bay = at.Frame, at.Bay
	}
	for _, a := range who.Management {
		v.Addresses = append(v.Addresses, a.String())
	}
	if p, ok := n.partner(link); ok {
		v.LACP = p.String()
	}
	return v
}

// findings are what somebody should look after.
func (n *network) findings(st netcfg.State, rep domain.NetReport) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, p := range rep.Ports {
		if p.Neighbour != nil && p.Network == "interconnect" {
			if wrong := lldp.Crossed(p.Link, p.Slot, n.d.inv.Bay.Frame, p.Neighbour.System); wrong != "" {
				say("%s", wrong)
			}
		}
		if wrong := portFinding(p, rep.Ports); wrong != "" {
			say("%s", wrong)
		}
	}
	if snap, ok := n.probes(); ok {
		for i, p := range snap.Ports {
			if p.TooLong {
				say("frames of %d bytes from %s do not reach %s, short ones do: raise the MTU of the interconnect modules, or lower that of the deployment network",
					snap.MTU, p.Name, snap.Ports[1-i].Name)
			}
		}
	}
	for _, l := range st.Links {
		for _, a := range l.Addrs {
			if a.Duplicate {
				say("%s: another station has our address %v: give one of the two another address", l.Name, a.Addr())
			}
		}
	}
	found = append(found, n.conflicts()...)
	n.mu.Lock()
	defer n.mu.Unlock()
	found = append(found, n.tooLong...)
	if next, until, ok := n.trial.Pending(); ok {
		say("%s wait for a confirmation until %s", trialText(n.trial.Settled(), next), domain.Stamp(until))
	}
	if wrong := partnerFinding(n.set.lacp, rep.Ports); wrong != "" {
		say("%s", wrong)
	}
	return found
}

// portFinding says what is wrong with an interconnect port. While neither
// works, it cannot be told which one is to blame.
func portFinding(p domain.NetPort, all []domain.NetPort) string {
	if p.Network != "interconnect" {
		return ""
	}
	where := fmt.Sprintf("%s (interconnect bay %d)", p.Link, p.Slot)
	otherWorks := slices.ContainsFunc(all, func(o domain.NetPort) bool { return o.Link != p.Link && o.Verdict == string(probe.Works) })
	switch {
	case !p.Carrier:
		return where + " has no carrier: check the cable and the interconnect module"
	case p.Verdict == string(probe.Silent) && otherWorks:
		return where + " has a carrier and carries nothing: restart the interconnect module"
	case p.Verdict == string(probe.Silent) && p.InUse:
		return "the interconnect ports do not reach each other, and no neighbour says which one is to blame: check the link between the interconnect modules"
	case p.Verdict == string(probe.Mute):
		return where + " is heard and hears nothing: check the cable and the interconnect module"
	case p.Verdict == string(probe.Hears):
		return where + " hears and is not heard: check the cable and the interconnect module"
	}
	return ""
}

// partnerFinding compares the LACP setting with what the partners say.
func partnerFinding(set netcfg.LACP, all []domain.NetPort) string {
	if set != netcfg.LACPOff {
		return ""
	}
	for _, p := range all {
		if p.Neighbour != nil && p.Neighbour.LACP != "" {
			return fmt.Sprintf("%s: the interconnect module speaks LACP (%s), which is set off here: set it to auto or on", p.Link, p.Neighbour.LACP)
		}
	}
	return ""
}

// conflicts are the stations that have one of our addresses.
func (n *network) conflicts() []string {
	var found []string
	for _, g := range allWatched[*acd.Guard](&n.watch, watchConflicts) {
		for _, c := range g.Conflicts() {
			found = append(found, c.Error())
		}
	}
	slices.Sort(found)
	return found
}
