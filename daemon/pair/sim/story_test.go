package sim

import (
	"fmt"
	"testing"
	"time"

	"baystream/daemon/pair"
)

// A story is one fault by itself, at 90 s, and what servers may feel of it.
type story struct {
	name      string
	voters    int
	do        func(*World)
	heal      time.Duration // 0: at 130 s
	gap       time.Duration // longest wait of any server of a group; 0: not bounded
	least     int           // failovers, at least
	failovers int           // at most
	resets    int           // at most
}

func all(w *World, s pair.Side, d time.Duration) {
	for net := range networks {
		w.severBoth(net, s, s.Other(), d)
	}
}

var stories = []story{
	{name: "nothing happens", do: func(*World) {}, gap: 100 * ms},
	// Up to 2 s of this are etcd's election, if the owner led it.
	{name: "power cut of an owner", do: func(w *World) { w.nodes[pair.A].powerOff() }, gap: 3200 * ms, least: 1, failovers: 1},
	{name: "an owner dies silently", do: func(w *World) {
		w.severBoth(frameLink, pair.A, pair.B, time.Minute)
		w.nodes[pair.A].powerOff()
	}, gap: 4500 * ms, least: 1, failovers: 1},
	{name: "power cut of the witness", do: func(w *World) { w.nodes[pair.None].powerOff() }, gap: 100 * ms},
	{name: "power cut of both", do: func(w *World) { w.nodes[pair.A].powerOff(); w.nodes[pair.B].powerOff() }, resets: 2},
	{name: "power cut of all three", do: func(w *World) {
		for _, n := range w.nodes {
			n.powerOff()
		}
	}, resets: 2},
	{name: "mirror cut", do: func(w *World) { w.severBoth(mirrorNet, pair.A, pair.B, 30*sec) }, gap: 2500 * ms},
	{name: "mirror cut one way", do: func(w *World) { w.sever(mirrorNet, pair.A, pair.B, 30*sec) }, gap: 2500 * ms},
	{name: "management of one cut", do: func(w *World) {
		w.severBoth(management, pair.A, pair.B, 30*sec)
		w.severBoth(management, pair.A, pair.None, 30*sec)
	}, gap: 100 * ms},
	{name: "everything between A and B cut, the witness sees both", do: func(w *World) { all(w, pair.A, 30*sec) },
		gap: 5500 * ms, failovers: 1}, // one if the side that is cut off from etcd's leader owns a group,
	{name: "one cut off from everything", do: func(w *World) {
		all(w, pair.A, 30*sec)
		w.severBoth(management, pair.A, pair.None, 30*sec)
	}, gap: 5500 * ms, least: 1, failovers: 1},
	{name: "everything between A and B flaps at 1 Hz", heal: 180 * sec, do: func(w *World) {
		for i := range 80 {
			w.after(time.Duration(i)*sec, func() { all(w, pair.A, 500*ms) })
		}
	}, gap: 6 * sec},
	{name: "a disk fails", do: func(w *World) { w.nodes[pair.A].failDisk(20 * sec) }, gap: 1500 * ms},
	{name: "a disk is stuck", do: func(w *World) { w.nodes[pair.A].stickDisk(20 * sec) }, gap: 6500 * ms},
	{name: "a module stands still for 10 s", do: func(w *World) { w.nodes[pair.A].stop(10 * sec) }, gap: 5500 * ms, least: 1, failovers: 1},
	{name: "daemons killed", do: func(w *World) { w.nodes[pair.A].kill(); w.nodes[pair.B].kill() }, gap: 100 * ms},
	{name: "planned move", do: func(w *World) { w.store.pin(0, pair.B) }, gap: 1600 * ms},
	{name: "orderly shutdown of one", do: func(w *World) { w.nodes[pair.A].shutdown(20 * sec) }, gap: 2500 * ms},
	{name: "orderly shutdown of both", do: func(w *World) { w.nodes[pair.A].shutdown(20 * sec); w.nodes[pair.B].shutdown(20 * sec) }},
	{name: "no witness, partner dead, nobody orders anything", voters: 2, heal: 270 * sec,
		do: func(w *World) {
			w.nodes[pair.B].powerOff()
			w.after(150*sec, func() {
				if r := w.store.recs[1]; r.Owner != pair.B || r.Survivor != pair.None {
					w.fail("taken over without a majority: %+v", r)
				}
			})
		}, failovers: 1}, // when the partner is back, a majority is
	{name: "no witness, partner dead, the administrator orders", voters: 2, heal: 270 * sec,
		do: func(w *World) {
			a, b := w.nodes[pair.A], w.nodes[pair.B]
			b.powerOff()
			w.after(60*sec, func() {
				v := a.view()
				say := pair.Statement{PartnerOff: true, Epochs: map[int]uint64{1: v.Groups[0].Record.Epoch, 2: v.Groups[1].Record.Epoch}}
				if err := pair.MayForce(v, say); err != nil {
					w.fail("refused: %v", err)
				}
				w.store.force(pair.A)
			})
			w.after(90*sec, func() {
				if r := w.store.recs[1]; r.Owner != pair.A || r.Survivor != pair.A || !a.portal[1] || !a.portal[0] {
					w.fail("not served after the order: %+v", r)
				}
				b.powerOn()
			})
		}, least: 1, failovers: 1},
}

func TestStories(t *testing.T) {
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			var worst, healed time.Duration
			seeds := uint64(20)
			if raceDetector {
				seeds = 2
			}
			for seed := uint64(1); seed <= seeds; seed++ {
				var w *World
				heal := st.heal
				if heal == 0 {
					heal = 130 * sec
				}
				stats, err := Run(Config{Seed: seed, Voters: st.voters, Heal: heal, Script: func(world *World) {
					w = world
					w.at(90*sec, func() {
						w.faulty = true
						for _, s := range w.servers {
							s.gap = 0
						}
						st.do(w)
					})
				}})
				if err != nil {
					t.Error(err)
					break
				}
				for _, s := range w.servers {
					worst = max(worst, s.gap)
				}
				healed = max(healed, stats.Healed)
				if st.gap > 0 && worst > st.gap {
					t.Errorf("seed %d: a server waited %v, want %v at most", seed, worst, st.gap)
				}
				if n := stats.Failovers; n < st.least || n > st.failovers {
					t.Errorf("seed %d: %d failovers, want %d to %d", seed, n, st.least, st.failovers)
				}
				if stats.Resets > st.resets {
					t.Errorf("seed %d: servers reset %d times, want %d at most", seed, stats.Resets, st.resets)
				}
				if t.Failed() {
					break
				}
			}
			if t.Failed() && *oneSeed != 0 {
				Run(Config{Seed: *oneSeed, Voters: st.voters, Heal: max(st.heal, 130*sec), Trace: func(l string) { fmt.Println(l) }, Script: func(w *World) {
					w.at(90*sec, func() { w.faulty = true; st.do(w) })
				}})
			}
			t.Logf("longest wait of a server %v, home again %v after the end of the fault", worst.Round(10*ms), healed.Round(100*ms))
		})
	}
}
