package sim

import (
	"fmt"

	"baystream/daemon/pair"
)

// check is what must hold after each event.
func (w *World) check() {
	a, b := w.nodes[pair.A], w.nodes[pair.B]
	for g := range groups {
		for i := range volumes {
			if x, y := a.vols[g][i], b.vols[g][i]; x.primary && y.primary && x.writer() && y.writer() {
				w.fail("two writers of v%d.%d", g+1, i+1)
			}
		}
		if r := &w.store.recs[g]; r.Revision != w.seen[g].Revision {
			w.changed(g, &w.seen[g], r)
			w.seen[g] = *r
		}
	}
}

// changed looks at one change of a record.
func (w *World) changed(g int, was, is *pair.Record) {
	if is.Epoch < was.Epoch {
		w.fail("group %d: epoch went from %d back to %d", g+1, was.Epoch, is.Epoch)
	}
	if was.Owner == is.Owner || was.Owner == pair.None {
		return
	}
	if is.Epoch == was.Epoch {
		w.stats.Moves++
		return
	}
	w.stats.Failovers++
	old, serving := w.nodes[was.Owner], false
	for _, v := range old.vols[g] {
		serving = serving || v.primary
	}
	if !old.up || !serving {
		return // it had died, or did not serve
	}
	if last := w.failover[g]; last > 0 && w.now-last < 59*sec {
		w.harmless = w.failure == ""
		w.fail("group %d: flapping: failed over from a living owner %v after the last time", g+1, w.now-last)
	}
	w.failover[g] = w.now
}

// unfinished says what is missing to full service.
func (w *World) unfinished() string {
	held := 0
	for _, s := range []pair.Side{pair.A, pair.B} {
		n := w.nodes[s]
		if !n.daemon || !n.quorum {
			return fmt.Sprintf("%v: daemon %v, quorum %v", s, n.daemon, n.quorum)
		}
		if n.service {
			held++
		}
	}
	if held != 1 {
		return fmt.Sprintf("the management address is at %d appliances", held)
	}
	for g := range groups {
		r := &w.store.recs[g]
		if r.Survivor != pair.None || r.Owner != r.Preferred() {
			return fmt.Sprintf("group %d: record %+v", g+1, *r)
		}
		n := w.nodes[r.Owner]
		if !n.portal[g] || n.partner().portal[g] {
			return fmt.Sprintf("group %d: portal at A %v, at B %v", g+1, w.nodes[pair.A].portal[g], w.nodes[pair.B].portal[g])
		}
		for i, v := range n.vols[g] {
			p := v.peer()
			if !v.primary || !v.exported || p.exported || v.frozen || v.conn != pair.Connected || p.conn != pair.Connected ||
				v.disk != pair.UpToDate || p.disk != pair.UpToDate {
				return fmt.Sprintf("v%d.%d: %v: primary %v exported %v frozen %v conn %d disk %d; partner conn %d disk %d",
					g+1, i+1, n.side, v.primary, v.exported, v.frozen, v.conn, v.disk, p.conn, p.disk)
			}
			if s := w.servers[g*volumes+i]; w.now-s.lastDone > 12*sec {
				return fmt.Sprintf("server %d.%d: nothing completed for %v", g+1, i+1, w.now-s.lastDone)
			}
		}
	}
	return ""
}

// compareLegs: at the end both legs hold the same, and what was acknowledged.
// Writes that are under way are waited for.
func (w *World) compareLegs() {
	for _, s := range w.servers {
		s.on = false
	}
	w.loop(w.now + 2*sec)
	for _, s := range w.servers {
		a, b := w.nodes[pair.A].vols[s.g][s.i], w.nodes[pair.B].vols[s.g][s.i]
		for k := range blocks {
			switch {
			case a.cur[k] != b.cur[k]:
				w.fail("v%d.%d block %d: A has version %d, B %d", s.g+1, s.i+1, k, a.cur[k], b.cur[k])
			case a.cur[k] < s.acked[k]:
				w.fail("v%d.%d block %d: version %d, %d was acknowledged", s.g+1, s.i+1, k, a.cur[k], s.acked[k])
			}
		}
	}
}
