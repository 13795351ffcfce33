package pair

// ask goes for the grant: a primary volume is frozen and nobody is known to
// have been faster. Everything that is frozen now thaws if it is won; what
// freezes later asks again, with a new epoch.
func (p *planner) ask() {
	if !p.fresh() {
		if p.g.Portal && p.lasted(p.k.Frozen, withdrawAfter) {
			p.do(RemovePortal)
		}
		return
	}
	p.do(WinGrant)
	p.each(AnswerWon, func(v *Volume) bool { return v.Primary && v.Frozen && v.Asking })
	p.each(ResumeIO, func(v *Volume) bool { return v.Primary && v.Frozen && !v.Asking })
}

// withdraw takes a primary that lost out of service and gets it to a state
// from which it can become the target of a resync. The order is what was
// measured: the address first, the leg dropped before the I/O ends, and only
// then what stands on the volume, which would hang before.
func (p *planner) withdraw() {
	if p.g.Portal {
		p.do(RemovePortal)
	}
	cut := func(v *Volume) bool { return v.Primary && !v.Conn.Up() }
	p.each(AnswerLost, func(v *Volume) bool { return v.Asking })
	p.each(DetachForce, func(v *Volume) bool { return cut(v) && v.Disk > Failed })
	p.each(ResumeIO, func(v *Volume) bool { return v.Primary && v.Frozen })
	p.each(Unexport, func(v *Volume) bool { return v.Exported })
	p.each(Demote, func(v *Volume) bool { return v.Primary })
	p.each(TakeDown, cut)
}
