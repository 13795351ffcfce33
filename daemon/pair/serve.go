package pair

// serve plans a group that this side is primary of and that is not frozen:
// connected, or alone with the grant.
func (p *planner) serve() {
	other := p.me().Other()
	switch {
	case p.fresh() && p.has(None) && p.f.linked && p.f.peerBad && p.f.own:
		p.do(WinGrant) // the partner has lost its leg: from now on only this side has everything
	case p.fresh() && (p.f.bad || p.f.stuck) && p.f.peerGood:
		p.leave(other)
	case p.fresh() && p.has(other) && p.f.peerBad:
		p.withdraw() // writes are here alone, and the grant is over there
	case !p.fresh() && p.f.bad && !p.has(other):
		p.withdraw() // what is written from here on is at the partner alone, and nobody can be told
	case p.fresh() && p.f.adrift && !p.has(p.me()):
		p.do(WinGrant) // the kernel let it go on when a rebooted partner showed up
	case p.f.peerHas:
		p.split()
	case p.fresh() && p.g.Record.Owner == other:
		p.out = append(p.out, Action{Op: HandOver, Group: p.g.Number, To: p.me()}) // both wanted it at once, this side has it
	case p.complete():
	case p.expose(false):
	case p.link():
	case p.fresh() && p.has(p.me()) && p.f.inSync && p.lasted(p.k.Together, settleFor):
		p.do(ClearGrant)
	case p.fresh() && p.goesHome():
		p.giveUp()
	}
}

// leave moves away from a local disk that failed or keeps requests, while the
// partner's leg serves: on record first, so that nobody takes this leg for
// complete; then the leg is dropped; then the group goes.
func (p *planner) leave(other Side) {
	if !p.has(other) {
		p.do(YieldGrant)
	}
	p.each(DetachForce, func(v *Volume) bool { return v.Stuck >= stuckFor })
	if p.has(other) && p.heard && p.g.Report.Usable && !p.g.Report.Leaving && p.untried() {
		p.giveUp()
	}
}

// expose makes the group's volumes reachable, those with live sessions first,
// then the address, the rest behind it. It returns false when all is there.
func (p *planner) expose(alone bool) bool {
	n := len(p.out)
	live := func(v *Volume) bool { return v.Live }
	rest := func(v *Volume) bool { return !v.Live }
	p.promote(live, alone)
	p.export(live)
	if !p.g.Portal {
		p.do(AddPortal)
		p.do(Announce)
		p.do(Tickle)
	}
	p.promote(rest, alone)
	p.export(rest)
	return len(p.out) > n
}

// split ends that each side is primary of some of the group's volumes, which
// an interrupted move can leave behind: the owner keeps the group.
func (p *planner) split() {
	if p.g.Record.Owner == p.me() || !p.fresh() {
		return
	}
	p.bare()
	p.each(Demote, func(v *Volume) bool { return v.Primary })
}

// complete makes the rest of the group primary when some of it is not
// connected: that takes a new grant.
func (p *planner) complete() bool {
	if p.promotable() {
		return false
	}
	if !p.fresh() || p.has(p.me().Other()) || !p.f.usable {
		return true
	}
	p.each(ForceDisconnect, func(v *Volume) bool { return !v.Primary && v.Conn != StandAlone })
	p.do(Flush)
	p.do(WinGrant)
	p.expose(true)
	return true
}

// promotable says that the volumes that are not primary yet may become so
// without a new grant: each of them is connected.
func (p *planner) promotable() bool {
	for i := range p.g.Volumes {
		if v := &p.g.Volumes[i]; !v.Primary && !(v.Conn.Up() && v.PeerRole == RoleSecondary) {
			return false
		}
	}
	return true
}

func (p *planner) promote(chosen func(*Volume) bool, alone bool) {
	for i := range p.g.Volumes {
		if v := &p.g.Volumes[i]; chosen(v) && !v.Primary {
			p.out = append(p.out, Action{Op: Promote, Group: p.g.Number, Volume: v.ID, Alone: alone})
		}
	}
}

func (p *planner) export(chosen func(*Volume) bool) {
	p.each(Export, func(v *Volume) bool { return chosen(v) && !v.Exported })
}

// link lets volumes that were disconnected look for the partner again.
func (p *planner) link() bool {
	n := len(p.out)
	p.each(Connect, func(v *Volume) bool { return v.Conn == StandAlone && v.Disk != Missing })
	return len(p.out) > n
}

// goesHome says that the group should be served by the partner and that
// nothing is in the way, as both sides see it.
func (p *planner) goesHome() bool {
	r := &p.g.Record
	return r.Preferred() == p.me().Other() && p.has(None) && p.untried() && p.heard && p.g.Report.Intact && !p.g.Report.Leaving &&
		p.lasted(p.k.Together, homeAfter) && (p.k.Moved == 0 || p.lasted(p.k.Moved, holdOff) || r.Pin != None)
}

// untried says that no planned move was begun a short while ago: one that did
// not come to its end is not repeated at once, servers would feel each.
func (p *planner) untried() bool { return p.k.Tried == 0 || p.lasted(p.k.Tried, moveAgain) }

// giveUp hands the group to the partner: the address goes first, so that
// servers see silence and not a missing target.
func (p *planner) giveUp() {
	p.k.Tried = since(p.v.Now)
	if p.g.Portal {
		p.do(RemovePortal)
	}
	p.each(Unexport, func(v *Volume) bool { return v.Exported })
	p.each(Demote, func(v *Volume) bool { return v.Primary })
	p.out = append(p.out, Action{Op: HandOver, Group: p.g.Number, To: p.me().Other()})
}

// stop ends service in order: the partner gets the group if it is ready, else
// nobody does, and the record says that nothing is missing on the disks.
func (p *planner) stop() {
	switch {
	case !p.f.primary:
		// The other one may have handed it here while both were leaving.
		if r := &p.g.Record; !p.bare() && p.fresh() && r.Owner == p.me() && !r.Clean && p.k.Intact &&
			p.f.inSync && !p.f.peerHas && p.heard && !p.g.Report.Primary {
			p.do(Finish)
		}
	case p.fresh() && p.has(None) && p.f.inSync && p.heard && p.g.Report.Intact && p.g.Report.InSync && !p.g.Report.Leaving && p.untried():
		p.giveUp()
	default:
		p.bare()
		p.each(Demote, func(v *Volume) bool { return v.Primary })
		p.do(Finish)
	}
}
