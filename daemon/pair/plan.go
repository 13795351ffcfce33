package pair

// Plan says what this appliance should do next. It updates m and does nothing
// else. Actions of different groups may run side by side; an empty answer
// means that all is as it should be, or that there is nothing to do but wait.
func Plan(v *View, m *Memory) []Action {
	if m.Groups == nil {
		m.Groups = make(map[int]*GroupMemory, len(v.Groups))
	}
	p := planner{v: v, m: m, heard: v.Partner.Heard >= 0 && v.Now-v.Partner.Heard <= HeardFor && !v.Partner.Off}
	if v.Partner.Heard >= 0 {
		m.Heard = max(m.Heard, since(v.Partner.Heard), 1)
	}
	switch v.Standing {
	case Quarantined, Foreign:
		return []Action{{Op: Quarantine}}
	case Unclaimed:
		return nil
	}
	for i := range v.Groups {
		p.syncing += digest(&v.Groups[i]).syncing
	}
	for i := range v.Groups {
		p.group(&v.Groups[i])
	}
	p.service()
	return p.out
}

// planner is one round.
type planner struct {
	v       *View
	m       *Memory
	heard   bool // the partner's word is recent
	syncing int  // volumes of all groups that resync, or will by what this round does
	out     []Action

	g *Group // the one that is planned
	f facts
	k *GroupMemory
}

func (p *planner) do(op Op) { p.out = append(p.out, Action{Op: op, Group: p.g.Number}) }
func (p *planner) vol(op Op, vol *Volume) {
	p.out = append(p.out, Action{Op: op, Group: p.g.Number, Volume: vol.ID})
}
func (p *planner) me() Side                        { return p.v.Self }
func (p *planner) fresh() bool                     { return fresh(p.v) && !p.g.Unsure }
func (p *planner) has(s Side) bool                 { return p.g.Record.Survivor == s }
func (p *planner) lasted(s since, d duration) bool { return s.lasted(d, p.v.Now) }

// each does op with every volume that is chosen.
func (p *planner) each(op Op, chosen func(*Volume) bool) {
	for i := range p.g.Volumes {
		if chosen(&p.g.Volumes[i]) {
			p.vol(op, &p.g.Volumes[i])
		}
	}
}

// group plans one storage group.
func (p *planner) group(g *Group) {
	p.g, p.f = g, digest(g)
	p.k = p.m.Groups[g.Number]
	if p.k == nil {
		p.k = new(GroupMemory)
		p.m.Groups[g.Number] = p.k
	}
	p.k.observe(p.v, g, &p.f, p.heard)
	switch {
	case g.Busy:
	case p.f.primary && (p.f.hopeless || p.f.adrift && p.has(p.me().Other())):
		p.withdraw()
	case p.f.frozen:
		p.ask()
	case p.v.Stopping:
		p.stop()
	case p.f.primary:
		p.serve()
	default:
		p.stand()
	}
}

// service holds the management address while this side leads.
func (p *planner) service() {
	switch lead := p.v.Leader == p.v.Self; {
	case lead && !p.v.Service:
		p.out = append(p.out, Action{Op: HoldService})
	case !lead && p.v.Service:
		p.out = append(p.out, Action{Op: DropService})
	}
}
