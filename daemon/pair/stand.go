package pair

import "time"

type duration = time.Duration

// stand plans a group that this side is not primary of.
func (p *planner) stand() {
	if p.bare() {
		return
	}
	if p.k.Intact && p.f.usable && !p.f.linked && !p.g.Flushed {
		p.do(Flush) // only then may a partner rely on it
		return
	}
	if !p.fresh() {
		return
	}
	me, other := p.me(), p.me().Other()
	switch {
	case p.has(me) && !p.f.usable && p.f.peerGood && (p.f.behind || p.k.Level):
		p.do(YieldGrant) // DRBD found the better copy over there, or this leg failed when both were the same
	case p.has(me) && p.f.inSync && p.lasted(p.k.Together, settleFor):
		p.do(ClearGrant)
	case p.f.missing:
		p.rise()
	case p.f.bad || p.f.stuck:
		p.drop()
	case p.has(None) && !p.k.Intact && !p.k.Joined && p.heard && p.g.Report.Intact:
		if p.g.Report.Settled {
			p.do(YieldGrant) // what was not flushed here is there
		}
	case p.mustDisown():
		p.each(TakeDown, func(*Volume) bool { return true })
	case p.byAgreement():
		p.takeConnected()
	case p.alone():
		p.takeAlone()
	case p.has(other) || p.has(me) || p.k.Intact || p.heard:
		p.join()
	}
}

// bare removes what a side that does not serve must not show.
func (p *planner) bare() bool {
	n := len(p.out)
	if p.g.Portal {
		p.do(RemovePortal)
	}
	p.each(Unexport, func(v *Volume) bool { return v.Exported })
	return len(p.out) > n
}

// rise brings legs up. One that was up before this boot, or lost, is disowned
// when the partner has the better copy.
func (p *planner) rise() {
	if !p.g.Healthy {
		if p.has(None) && p.heard && p.g.Report.Primary && p.g.Report.Usable {
			p.do(YieldGrant)
		}
		return
	}
	disown := false
	switch {
	case p.has(p.me().Other()):
		disown = !p.k.Intact
	case p.has(None) && !p.k.Intact && p.heard && p.g.Report.Intact:
		if !p.g.Report.Settled {
			return
		}
		p.do(YieldGrant)
		disown = true
	}
	for i := range p.g.Volumes {
		if v := &p.g.Volumes[i]; v.Disk == Missing {
			p.out = append(p.out, Action{Op: BringUp, Group: p.g.Number, Volume: v.ID, Disown: disown})
		}
	}
}

// drop gets rid of a leg that failed or keeps requests, so that the partner's
// writes do not wait for it; on record first.
func (p *planner) drop() {
	onRecord := p.has(p.me().Other())
	if p.has(None) && p.heard && p.g.Report.Usable && (p.g.Report.Primary || p.g.Report.Intact && p.g.Report.Settled) {
		p.do(YieldGrant)
		onRecord = true
	}
	if onRecord {
		p.each(DetachForce, func(v *Volume) bool { return v.Disk > Failed && v.Stuck >= stuckFor })
	}
	if p.g.Healthy {
		p.each(TakeDown, func(v *Volume) bool { return v.Disk <= Failed })
	}
}

// mustDisown says that legs were attached as they were, and that the partner
// turned out to have the better copy since. They have to come up again.
func (p *planner) mustDisown() bool {
	if p.k.Intact || p.k.Joined || !p.has(p.me().Other()) {
		return false
	}
	for i := range p.g.Volumes {
		if v := &p.g.Volumes[i]; !v.Conn.Up() && v.Disk > Inconsistent {
			return true
		}
	}
	return false
}

// byAgreement says that this side may be primary because its partner is
// connected, in sync and is not.
func (p *planner) byAgreement() bool {
	if !p.f.allLinked || !p.f.own || p.f.peerHas || p.heard && p.g.Report.Primary {
		return false
	}
	if p.has(p.me().Other()) && !p.f.peerGood {
		return false // every write would be here alone, and the grant is over there
	}
	if p.g.Record.Owner == p.me() {
		return p.heard || p.lasted(p.k.Idle, settleFor)
	}
	// The owner does not serve though it could be asked to: its legs are bad, or its daemon is gone.
	if p.heard && !p.g.Report.Usable {
		return p.lasted(p.k.Idle, settleFor)
	}
	return p.lasted(p.k.Idle, idleFor) && p.lasted(p.k.Moved, idleFor)
}

func (p *planner) takeConnected() {
	if r := &p.g.Record; !p.f.peerGood && !p.has(p.me()) {
		p.do(WinGrant) // the partner's leg will not get what is written
	} else if r.Owner != p.me() || r.Clean {
		p.out = append(p.out, Action{Op: HandOver, Group: p.g.Number, To: p.me()})
	}
	p.reset()
	p.expose(false)
}

// reset has the servers reset unless nothing of theirs can be missing here.
func (p *planner) reset() {
	if !p.k.Intact && !p.g.Record.Clean {
		p.do(ResetServers)
	}
}

// alone says that this side should go on without its partner.
func (p *planner) alone() bool {
	r, intact := &p.g.Record, p.k.Intact
	if p.has(p.me().Other()) || !p.f.usable || p.f.linked && !p.v.Partner.Off {
		return false
	}
	owner := r.Owner == p.me()
	steady := owner || p.k.Moved == 0 || p.lasted(p.k.Moved, holdOff)
	switch {
	case !intact && !owner && !p.g.Consent:
		return false // the owner may have confirmed flushes that never got here
	case p.v.Partner.Off:
		return intact || p.lasted(p.k.Idle, aloneOff)
	case !p.heard && intact && p.m.Heard != 0:
		return p.v.Now-time.Duration(p.m.Heard) >= SilentAfter && p.lasted(p.k.Apart, apartFor) && steady
	case !p.heard:
		return p.lasted(p.k.Idle, aloneLong)
	case p.g.Report.Primary && !p.g.Report.Frozen:
		return false
	case p.g.Report.Primary:
		return intact && p.lasted(p.k.PeerIce, frozenFor) && p.lasted(p.k.Apart, apartFor) && steady
	case p.g.Report.Intact && !intact:
		return false
	case intact && (owner || !p.g.Report.Intact):
		return p.lasted(p.k.Idle, settleFor) && p.lasted(p.k.Apart, apartFor)
	case intact:
		return p.lasted(p.k.Idle, idleFor)
	}
	return p.lasted(p.k.Idle, aloneBoth)
}

// takeAlone is the takeover. The order matters: no connection may come back
// between the grant and the promotion.
func (p *planner) takeAlone() {
	partner := &p.v.Partner
	if p.g.Record.Owner != p.me() && !p.heard && !partner.Off && partner.Fenceable &&
		(p.m.Fenced == 0 || p.m.Fenced.lasted(holdOff, p.v.Now)) {
		p.m.Fenced = since(p.v.Now)
		p.do(PowerFence)
	}
	p.each(ForceDisconnect, func(v *Volume) bool { return v.Conn != StandAlone })
	if !p.g.Flushed {
		p.do(Flush)
	}
	p.do(WinGrant)
	p.reset()
	p.expose(true)
	p.each(Connect, func(*Volume) bool { return true })
}

// join looks for the partner, a few volumes at a time when they will resync. A
// copy that is not intact keeps away from a partner that is frozen: DRBD would
// thaw it and take writes for flushed that this leg lost with its power.
func (p *planner) join() {
	if !p.k.Intact && (!p.heard || p.g.Report.Primary && p.g.Report.Frozen) {
		return
	}
	for i := range p.g.Volumes {
		v := &p.g.Volumes[i]
		if v.Conn != StandAlone {
			continue
		}
		if !p.k.Intact || v.Disk < UpToDate {
			if p.syncing >= resyncs {
				return
			}
			p.syncing++
		}
		if p.has(p.me().Other()) && v.Disk > Outdated {
			p.vol(Outdate, v)
		}
		p.vol(Connect, v)
	}
}
