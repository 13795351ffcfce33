package sim

import (
	"strings"
	"time"

	"baystream/daemon/pair"
)

// schedule draws faults for the run and returns when the last has ended.
func (w *World) schedule() time.Duration {
	n := 1 + w.rng.IntN(5)
	t := w.between(12*sec, 25*sec)
	for range n {
		f := faults[w.rng.IntN(len(faults))]
		w.kinds += " " + f.name
		at := t
		w.at(at, func() {
			w.trace("fault: %s", f.name)
			f.do(w)
		})
		t += w.upTo(25 * sec)
	}
	w.kinds = strings.TrimSpace(w.kinds)
	return t + w.between(1*sec, 30*sec)
}

// heal ends everything that is still wrong.
func (w *World) heal() {
	w.trace("all faults end")
	w.faulty, w.lossy = false, false
	w.net.slow = 0
	for net := range networks {
		for a := range 3 {
			for b := range 3 {
				if c := w.net.cuts[net][a][b]; c > 0 {
					w.cut(net, pair.Side(a), pair.Side(b), -c)
				}
			}
		}
	}
	for _, n := range w.nodes {
		n.damaged = false
		n.unstick()
		n.diskBad = false
		n.resume()
		n.killIn, n.stopping = 0, false
		if !n.powered {
			n.powerOn()
		} else if n.up && !n.daemon {
			n.startDaemon()
		}
	}
	for g := range w.store.recs {
		w.store.pin(g, pair.None)
	}
}

// pin is the administrator's wish where a group is served.
func (s *store) pin(g int, to pair.Side) {
	if s.recs[g].Pin != to {
		s.revision++
		s.recs[g].Pin, s.recs[g].Revision = to, s.revision
	}
}

type fault struct {
	name string
	do   func(*World)
}

func (w *World) side() pair.Side { return pair.A + pair.Side(w.rng.IntN(2)) }

// later goes on with a fault, or ends it, unless everything was healed before.
func (w *World) later(d time.Duration, do func()) {
	w.after(d, func() {
		if w.faulty {
			do()
		}
	})
}

// sever cuts one direction for a while.
func (w *World) sever(net int, a, b pair.Side, d time.Duration) {
	w.cut(net, a, b, 1)
	w.later(d, func() { w.cut(net, a, b, -1) })
}

func (w *World) severBoth(net int, a, b pair.Side, d time.Duration) {
	w.sever(net, a, b, d)
	w.sever(net, b, a, d)
}

// spared: a module does not die within seconds of a disk failure anywhere. That
// an appliance lost its leg has to be on record before the partner's copy is
// lost as well (docs/availability.md names this limit).
func (w *World) spared(again func()) bool {
	if wait := w.diskFailed + 3*sec - w.now; w.diskFailed > 0 && wait > 0 {
		w.later(wait, again)
		return true
	}
	return false
}

func (n *node) cycle(d time.Duration) {
	if n.w.spared(func() { n.cycle(d) }) {
		return
	}
	n.powerOff()
	n.w.later(d, n.powerOn)
}

// shutdown is an orderly one: the daemon gives up what it serves, then the
// module goes.
func (n *node) shutdown(d time.Duration) {
	n.stopping = true
	n.wakeUp()
	n.w.later(n.w.between(2*sec, 4*sec), func() { n.cycle(d) })
}

func (n *node) crashSoon() {
	if !n.w.spared(n.crashSoon) {
		n.crash()
	}
}

func (n *node) unstick() { n.diskStuck = false }

func (n *node) resume() {
	if n.paused {
		n.paused = false
		n.w.trace("%v: goes on", n.side)
		n.each(func(v *vol) {
			if v.conn.Up() && !v.alive() {
				v.lose()
			}
			v.tryConnect()
		})
	}
}

func (n *node) stop(d time.Duration) {
	if n.up && !n.paused {
		n.paused = true
		n.w.trace("%v: stands still for %v", n.side, d)
		n.each(func(v *vol) {
			if v.linked() {
				v.peer().pingOut()
			}
		})
		n.w.later(d, n.resume)
	}
}

func (w *World) long() time.Duration { return w.between(500*ms, 40*sec) }

var faults = []fault{
	{"power cut", func(w *World) { w.nodes[w.side()].cycle(w.long()) }},
	{"kernel crash", func(w *World) { w.nodes[w.side()].crashSoon() }},
	{"power cut of the witness", func(w *World) { w.nodes[pair.None].cycle(w.long()) }},
	{"power cut of both", func(w *World) {
		for _, s := range []pair.Side{pair.A, pair.B} {
			w.later(w.upTo(w.between(1*ms, 5*sec)), func() { w.nodes[s].cycle(w.long()) })
		}
	}},
	{"power cut of all", func(w *World) {
		for _, n := range w.nodes {
			n.cycle(w.long())
		}
	}},
	{"daemon killed", func(w *World) { w.nodes[w.side()].kill() }},
	{"daemon killed at an action", func(w *World) { w.nodes[w.side()].killIn = 1 + w.rng.IntN(12) }},
	{"power cut, daemon killed in the takeover", func(w *World) {
		s := w.side()
		w.nodes[s.Other()].killIn = 1 + w.rng.IntN(20)
		w.nodes[s].cycle(w.long())
	}},
	{"power cut in the takeover", func(w *World) {
		s := w.side()
		w.nodes[s].cycle(w.long())
		w.later(w.upTo(4*sec), func() { w.nodes[s.Other()].cycle(w.long()) })
	}},
	{"mirror cut", func(w *World) { w.severBoth(mirrorNet, pair.A, pair.B, w.long()) }},
	{"mirror cut one way", func(w *World) { s := w.side(); w.sever(mirrorNet, s, s.Other(), w.long()) }},
	{"management cut", func(w *World) {
		s, d := w.side(), w.long()
		w.severBoth(management, s, s.Other(), d)
		w.severBoth(management, s, pair.None, d)
	}},
	{"management cut one way", func(w *World) { w.sever(management, w.side(), pair.None, w.long()) }},
	{"frame link cut", func(w *World) { w.severBoth(frameLink, pair.A, pair.B, w.long()) }},
	{"everything between A and B cut", func(w *World) {
		d := w.long()
		for net := range networks {
			w.severBoth(net, pair.A, pair.B, d)
		}
	}},
	{"appliance cut off", func(w *World) {
		s, d := w.side(), w.long()
		for net := range networks {
			w.severBoth(net, pair.A, pair.B, d)
		}
		w.severBoth(management, s, pair.None, d)
	}},
	{"mirror flaps", func(w *World) {
		for range 5 + w.rng.IntN(30) {
			w.later(w.upTo(30*sec), func() { w.severBoth(mirrorNet, pair.A, pair.B, w.upTo(2*sec)) })
		}
	}},
	{"everything flaps", func(w *World) {
		for i := range 10 + w.rng.IntN(40) {
			w.later(time.Duration(i)*sec, func() {
				for net := range networks {
					w.severBoth(net, pair.A, pair.B, w.upTo(3*sec))
				}
			})
		}
	}},
	{"appliance flaps", func(w *World) {
		s := w.side()
		for i := range 10 + w.rng.IntN(20) {
			w.later(time.Duration(i)*4*sec, func() {
				d := w.upTo(4 * sec)
				for net := range networks {
					w.severBoth(net, pair.A, pair.B, d)
				}
				w.severBoth(management, s, pair.None, d)
			})
		}
	}},
	{"hellos get lost", func(w *World) {
		w.net.slow = 30 + w.rng.IntN(60)
		w.later(w.long(), func() { w.net.slow = 0 })
	}},
	{"disk fails", func(w *World) { w.nodes[w.side()].failDisk(w.long()) }},
	{"disk stuck", func(w *World) { w.nodes[w.side()].stickDisk(w.long()) }},
	{"etcd data damaged", func(w *World) {
		n := w.nodes[w.rng.IntN(3)]
		n.damaged = true
		w.later(w.long(), func() { n.damaged = false })
	}},
	{"module stands still", func(w *World) { w.nodes[w.side()].stop(w.between(200*ms, 15*sec)) }},
	{"administrator moves a group", func(w *World) {
		g := w.rng.IntN(groups)
		w.store.pin(g, w.side())
		w.later(w.long(), func() { w.store.pin(g, pair.None) })
	}},
	{"orderly shutdown", func(w *World) { w.nodes[w.side()].shutdown(w.long()) }},
	{"orderly shutdown of both", func(w *World) {
		w.nodes[pair.A].shutdown(w.long())
		w.later(w.upTo(5*sec), func() { w.nodes[pair.B].shutdown(w.long()) })
	}},
	{"rolling restart", func(w *World) {
		s := w.side()
		for g := range groups {
			w.store.pin(g, s.Other())
		}
		w.later(w.between(5*sec, 20*sec), func() {
			w.nodes[s].cycle(w.between(1*sec, 5*sec))
			w.later(5*sec, func() {
				for g := range groups {
					w.store.pin(g, pair.None)
				}
			})
		})
	}},
}

func (n *node) kill() {
	if n.daemon {
		n.killDaemon(true)
	}
}

// second says that the partner's leg is in trouble or behind: two copies promise nothing
// when both disks fail, so the fault has to wait.
func (n *node) second(again func()) bool {
	p := n.partner()
	bad := p.diskBad || p.diskStuck
	p.each(func(v *vol) { bad = bad || v.up && v.disk < pair.UpToDate })
	if bad {
		n.w.later(5*sec, again)
	}
	return bad
}

func (n *node) failDisk(d time.Duration) {
	if n.second(func() { n.failDisk(d) }) {
		return
	}
	n.diskBad, n.w.diskFailed = true, n.w.now
	n.each((*vol).detach)
	n.wake()
	n.w.later(d, func() { n.diskBad = false })
}

func (n *node) stickDisk(d time.Duration) {
	if !n.diskStuck && !n.second(func() { n.stickDisk(d) }) {
		n.diskStuck, n.stuckAt = true, n.w.now
		n.w.later(d, n.unstick)
	}
}
