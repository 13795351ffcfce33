package sim

import (
	"slices"

	"baystream/daemon/pair"
)

// bend breaks a rule in what the planner said, when the run asks for it.
func (n *node) bend(v *pair.View, batch []pair.Action) []pair.Action {
	g := batch[0].Group
	if g == 0 {
		return batch
	}
	switch n.w.cfg.Break {
	case ThawFirst:
		if i := slices.IndexFunc(batch, func(a pair.Action) bool { return a.Op == pair.AnswerWon }); i > 0 {
			batch = slices.Clone(batch)
			slices.SortStableFunc(batch, func(a, b pair.Action) int { return rank(a) - rank(b) })
		}
	case ThawUndetached:
		batch = slices.DeleteFunc(slices.Clone(batch), func(a pair.Action) bool { return a.Op == pair.DetachForce })
	}
	return batch
}

func rank(a pair.Action) int {
	if a.Op == pair.AnswerWon {
		return 0
	}
	return 1
}

// bent changes what the node sees or does at a tick.
func (n *node) breakBoot() {
	if n.w.cfg.Break != PromoteOnBoot {
		return
	}
	gen := n.daemonGen
	n.w.after(2*sec, func() {
		if n.daemonGen != gen {
			return
		}
		for g := range groups {
			if n.records[g].Home != n.side {
				continue
			}
			for _, v := range n.vols[g] {
				v.bringUp(false)
				v.promote(true)
				v.exported = v.primary
			}
			n.portal[g] = true
		}
	})
}
