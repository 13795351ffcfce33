package sim

import (
	"slices"

	"baystream/daemon/pair"
)

// bend breaks a rule in what the planner said, when the run asks for it.
func (n *node) bend(batch []pair.Action) []pair.Action {
	if n.w.cfg.Break == ThawUndetached {
		batch = slices.DeleteFunc(slices.Clone(batch), func(a pair.Action) bool { return a.Op == pair.DetachForce })
	}
	return batch
}

// unasked adds what the planner would not do.
func (n *node) unasked(v *pair.View) {
	for g := range groups {
		if n.busy[g+1] || n.mustRead[g] {
			continue
		}
		switch r := v.Groups[g].Record; n.w.cfg.Break {
		case ClearEarly: // the grant goes back as soon as it was won
			if r.Survivor == n.side && n.vols[g][0].primary {
				n.start(v, []pair.Action{{Op: pair.ClearGrant, Group: g + 1}})
			}
		case ThawFirst: // whoever asks gets its answer, the grant may come later
			var batch []pair.Action
			for i, o := range n.vols[g] {
				if o.asking {
					batch = append(batch, pair.Action{Op: pair.AnswerWon, Group: g + 1, Volume: ids[i]})
				}
			}
			if batch != nil {
				n.start(v, append(batch, pair.Action{Op: pair.WinGrant, Group: g + 1}))
			}
		}
	}
}

// breakBoot makes the groups that are at home here primary at the start of the
// daemon, whoever else may serve them.
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
