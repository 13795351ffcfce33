package sim

import (
	"time"

	"baystream/daemon/pair"
)

// batchRun carries out the actions of one group, one after the other.
type batchRun struct {
	n       *node
	gen     int // of the daemon
	g       int
	record  pair.Record
	asks    [volumes]int // fence handler calls that the View showed
	actions []pair.Action
}

// cost of an operation on the real stack.
func cost(op pair.Op) time.Duration {
	switch op {
	case pair.ForceDisconnect:
		return 50 * ms
	case pair.Promote:
		return 20 * ms
	case pair.Demote:
		return 30 * ms
	case pair.Export:
		return 45 * ms
	case pair.Unexport:
		return 65 * ms
	case pair.DetachForce:
		return 91 * ms
	case pair.ResumeIO:
		return 135 * ms
	case pair.BringUp:
		return 40 * ms
	case pair.AnswerWon, pair.AnswerLost:
		return 14 * ms
	case pair.PowerFence:
		return 400 * ms
	case pair.ResetServers:
		return 2 * sec
	}
	return 10 * ms
}

func (b *batchRun) next() {
	n, w := b.n, b.n.w
	if len(b.actions) == 0 {
		b.end(true)
		return
	}
	a := b.actions[0]
	b.actions = b.actions[1:]
	if n.killIn > 0 {
		if n.killIn--; n.killIn == 0 {
			n.killDaemon(true)
			return
		}
	}
	then := func(ok bool) {
		switch {
		case n.daemonGen != b.gen:
		case !ok:
			w.trace("%v: %v failed", n.side, a)
			b.end(false)
		default:
			b.next()
		}
	}
	if a.Op <= pair.Finish {
		b.swap(a, then)
		return
	}
	d := cost(a.Op)
	w.after(w.between(d*7/10, d*2), func() { b.do(a, then) })
}

func (b *batchRun) do(a pair.Action, then func(ok bool)) {
	n, w := b.n, b.n.w
	if n.daemonGen != b.gen {
		if !n.up || w.chance(50) {
			return
		}
		then = func(bool) {} // the daemon died, its last call was on its way
	}
	if n.paused {
		w.after(100*ms, func() { b.do(a, then) })
		return
	}
	then(n.apply(b, a))
}

func (b *batchRun) end(ok bool) {
	b.n.busy[b.g+1] = false
	if ok {
		b.n.wake()
	}
}

// swap writes the next record; later actions of the batch see it.
func (b *batchRun) swap(a pair.Action, then func(ok bool)) {
	n, r := b.n, b.record
	var next pair.Record
	var err error
	switch a.Op {
	case pair.WinGrant:
		next, err = r.Win(n.side)
	case pair.ClearGrant:
		next, err = r.Clear(n.side)
	case pair.YieldGrant:
		next = r.Yield(n.side)
	case pair.HandOver:
		next = r.HandOver(a.To)
	case pair.Finish:
		next = r.Finish()
	}
	if n.w.cfg.Break == IgnoreGrant && a.Op == pair.WinGrant {
		n.w.store.swap(n, b.g, r.Revision, next, func(_, _ bool) { then(true) })
		return
	}
	if err != nil {
		then(false)
		return
	}
	n.w.store.swap(n, b.g, r.Revision, next, func(ok, known bool) {
		if ok {
			b.record = next
			b.record.Revision = n.w.store.recs[b.g].Revision
			n.records[b.g] = b.record
		} else {
			n.mustRead[b.g] = true
		}
		then(ok)
	})
}

// apply does one operation; false is a failure.
func (n *node) apply(b *batchRun, a pair.Action) bool {
	w, g := n.w, b.g
	var v *vol
	var i int
	if a.Volume != "" {
		for i = range ids {
			if ids[i] == a.Volume {
				v = n.vols[g][i]
				break
			}
		}
	}
	switch a.Op {
	case pair.PowerFence:
		p := n.partner()
		if w.net.cuts[frameLink][n.side][p.side] == 0 && p.powered {
			w.trace("%v fences %v", n.side, p.side)
			p.powerOff()
			w.after(w.between(1*sec, 2*sec), p.powerOn)
		}
	case pair.AnswerWon, pair.AnswerLost:
		if v.asking && v.ask == b.asks[i] {
			v.answer(a.Op == pair.AnswerWon)
		}
	case pair.ForceDisconnect:
		v.leave(pair.StandAlone)
	case pair.Promote:
		return v.promote(a.Alone)
	case pair.Flush:
		if n.diskStuck || n.diskBad {
			return false
		}
		for _, o := range n.vols[g] {
			o.stable, o.resynced = o.cur, 0
		}
		n.flushed[g] = true
	case pair.Demote:
		return v.demote()
	case pair.Connect:
		return v.connect()
	case pair.BringUp:
		if w.cfg.Break == SkipDisown {
			a.Disown = false
		}
		return v.bringUp(a.Disown)
	case pair.TakeDown:
		return v.takeDown()
	case pair.Outdate:
		if v.disk > pair.Outdated && !v.primary && !v.conn.Up() {
			v.setDisk(pair.Outdated)
		}
	case pair.DetachForce:
		v.detach()
	case pair.ResumeIO:
		return v.resume()
	case pair.Export:
		if !v.primary {
			return false
		}
		v.exported = true
	case pair.Unexport:
		if v.frozen {
			return false // hangs in the kernel until its deadline
		}
		v.exported = false
		w.servers[g*volumes+i].dropped(n)
	case pair.AddPortal:
		n.portal[g] = true
	case pair.RemovePortal:
		n.portal[g] = false
	case pair.Announce:
		for i := range volumes {
			w.servers[g*volumes+i].announced(n)
		}
	case pair.Tickle:
		for i := range volumes {
			w.servers[g*volumes+i].tickled(n)
		}
	case pair.ResetServers:
		w.stats.Resets++
		if w.cfg.Break != SkipReset {
			for i := range volumes {
				w.servers[g*volumes+i].reset()
			}
		}
	case pair.HoldService:
		n.service = true
	case pair.DropService:
		n.service = false
	}
	return true
}
