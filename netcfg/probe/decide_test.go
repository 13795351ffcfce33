package probe

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// fabric is two interconnect modules with a link between them, a module's port
// on each, and neighbours.
type fabric struct {
	carrier    [2]bool
	silent     [2]bool // interconnect module forwards nothing
	mute, deaf [2]bool // one-way faults of a port
	trunk      bool
	neighbours [2]bool // somebody who answers is on this module
	ambient    float64 // probability of other frames, for each round
	loss       float64
	rng        *rand.Rand
}

func newFabric(seed uint64) *fabric {
	return &fabric{carrier: [2]bool{true, true}, trunk: true, neighbours: [2]bool{true, true}, rng: rand.New(rand.NewPCG(seed, 1))}
}

func (f *fabric) lost() bool     { return f.rng.Float64() < f.loss }
func (f *fabric) out(i int) bool { return f.carrier[i] && !f.mute[i] && !f.silent[i] }
func (f *fabric) in(i int) bool  { return f.carrier[i] && !f.deaf[i] && !f.silent[i] }

// useful says whether port i reaches a neighbour and is reached.
func (f *fabric) useful(i int) bool {
	return f.out(i) && f.in(i) && (f.neighbours[i] || f.trunk && !f.silent[1-i] && f.neighbours[1-i])
}

// round is what the ports show; asked says that neighbours were asked.
func (f *fabric) round(asked bool) (seen [2]Seen) {
	for i := range 2 {
		seen[i].Carrier = f.carrier[i]
		if f.out(i) && f.trunk && f.in(1-i) && !f.lost() {
			seen[i].Delivered, seen[1-i].Received = true, true
		}
		if asked && f.useful(i) && !f.lost() {
			seen[i].Answered, seen[i].Received = true, true
		}
		if f.in(i) && f.rng.Float64() < f.ambient {
			seen[i].Received = true
		}
	}
	return seen
}

// bond drives a Decider as the Monitor and the kernel would.
type bond struct {
	d        *Decider
	active   int
	ask      bool
	changes  int
	last     Decision
	lastFrom int
}

func (b *bond) round(f *fabric) {
	if b.active >= 0 && !f.carrier[b.active] { // miimon
		b.active = -1
	}
	for i := range 2 {
		if b.active < 0 && f.carrier[i] {
			b.active = i
		}
	}
	b.last = b.d.Round(b.active, f.round(b.ask))
	b.ask = b.last.Ask
	if a := b.last.Active; a >= 0 {
		b.lastFrom, b.active = b.active, a
		b.changes++
	}
}

func (b *bond) rounds(f *fabric, n int) {
	for range n {
		b.round(f)
	}
}

func TestDecider(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fault  func(*fabric)
		active int // after the fault, when port 0 was active
		rounds int // within which
	}{
		{"nothing", func(*fabric) {}, 0, 100},
		{"own module silent", func(f *fabric) { f.silent[0] = true }, 1, 8},
		{"own module silent, the only neighbour beside us", func(f *fabric) { f.silent[0], f.neighbours[0] = true, false }, 1, 8},
		{"own port mute", func(f *fabric) { f.mute[0] = true }, 1, 8},
		{"own port deaf", func(f *fabric) { f.deaf[0] = true }, 1, 8},
		{"own carrier", func(f *fabric) { f.carrier[0] = false }, 1, 1},
		{"other module silent", func(f *fabric) { f.silent[1] = true }, 0, 100},
		{"other port mute", func(f *fabric) { f.mute[1] = true }, 0, 100},
		{"other port deaf", func(f *fabric) { f.deaf[1] = true }, 0, 100},
		{"link between the modules", func(f *fabric) { f.trunk = false }, 0, 100},
		{"both silent", func(f *fabric) { f.silent = [2]bool{true, true} }, 0, 100},
		{"nobody answers, own module silent, other one hears", func(f *fabric) {
			f.neighbours, f.silent[0], f.ambient = [2]bool{}, true, 0.8
		}, 1, 20},
		{"nobody answers, nobody speaks", func(f *fabric) { f.neighbours, f.silent[0] = [2]bool{}, true }, 0, 100},
		{"nobody answers, link between the modules gone, both hear", func(f *fabric) {
			f.neighbours, f.trunk, f.ambient = [2]bool{}, false, 0.5
		}, 0, 500},
		{"one frame in twenty lost", func(f *fabric) { f.loss = 0.05 }, 0, 2000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFabric(7)
			b := &bond{d: NewDecider(0), active: 0}
			b.rounds(f, 100)
			if b.active != 0 || b.changes != 0 {
				t.Fatalf("before the fault: active %d after %d changes", b.active, b.changes)
			}
			tt.fault(f)
			b.rounds(f, tt.rounds)
			if b.active != tt.active {
				t.Errorf("active = %d, want %d: %+v", b.active, tt.active, b.last)
			}
			b.rounds(f, 200)
			if b.changes > 1 || b.active != tt.active {
				t.Errorf("%d changes and port %d in the end", b.changes, b.active)
			}
		})
	}
}

func TestDeciderReturnsLater(t *testing.T) {
	f := newFabric(3)
	b := &bond{d: NewDecider(0), active: 0}
	b.rounds(f, 50)
	var waits []int
	for range 4 { // the preferred port fails again and again
		f.silent[0] = true
		b.rounds(f, 20)
		if b.active != 1 {
			t.Fatalf("port %d is active", b.active)
		}
		f.silent[0] = false
		n := 0
		for ; b.active != 0 && n < 5000; n++ {
			b.round(f)
		}
		waits = append(waits, n)
	}
	for i, n := range waits {
		if least := holdBack << i; n < least || n > least+10 {
			t.Errorf("return %d after %d rounds, want %d", i+1, n, least)
		}
	}
	b.rounds(f, forgive+1)
	f.silent[0] = true
	b.rounds(f, 20)
	f.silent[0] = false
	b.rounds(f, holdBack+10)
	if b.active != 0 {
		t.Error("a port that worked for long is not forgiven")
	}
}

func TestDeciderPrefersAtStart(t *testing.T) {
	f := newFabric(1)
	for preferred, want := range map[int]int{0: 0, 1: 1, -1: 0} {
		b := &bond{d: NewDecider(preferred), active: 0}
		b.rounds(f, 30)
		if b.active != want {
			t.Errorf("preferred %d: port %d is active", preferred, b.active)
		}
	}
}

// TestDeciderUnderRandomFaults holds, over random schedules of faults: a port
// that reaches nobody is left soon when the other one would; a port that works
// is left only for the preferred one; and each fault costs two changes at the
// most.
func TestDeciderUnderRandomFaults(t *testing.T) {
	const schedules, steps = 2000, 12
	for seed := range uint64(schedules) {
		f := newFabric(seed)
		f.neighbours = [2]bool{f.rng.IntN(4) > 0, f.rng.IntN(4) > 0}
		f.ambient = float64(f.rng.IntN(3)) / 4
		b := &bond{d: NewDecider(int(seed%3) - 1), active: 0}
		b.rounds(f, 20)
		for step := range steps {
			what := f.mutate()
			before := b.changes
			stuck := 0
			for n := range 20 + f.rng.IntN(400) {
				from, wasUseful := b.active, b.active >= 0 && f.useful(b.active)
				b.round(f)
				if b.last.Active >= 0 && wasUseful && n > window+settle && b.active != b.d.preferred {
					t.Fatalf("seed %d step %d (%s): left port %d that works: %+v", seed, step, what, from, b.last)
				}
				stuck++
				if b.active < 0 || f.useful(b.active) || !f.useful(1-b.active) {
					stuck = 0
				}
				if stuck > window+settle+2 {
					t.Fatalf("seed %d step %d (%s): on port %d, which reaches nobody, for %d rounds: %+v", seed, step, what, b.active, stuck, b.last)
				}
			}
			if n := b.changes - before; n > 2 {
				t.Fatalf("seed %d step %d (%s): %d changes", seed, step, what, n)
			}
		}
	}
}

// mutate breaks or heals one thing.
func (f *fabric) mutate() string {
	i := f.rng.IntN(2)
	flip := func(b *bool) string { *b = !*b; return fmt.Sprint(*b) }
	switch f.rng.IntN(5) {
	case 0:
		return fmt.Sprint("carrier ", i, flip(&f.carrier[i]))
	case 1:
		return fmt.Sprint("silent ", i, flip(&f.silent[i]))
	case 2:
		return fmt.Sprint("mute ", i, flip(&f.mute[i]))
	case 3:
		return fmt.Sprint("deaf ", i, flip(&f.deaf[i]))
	}
	return fmt.Sprint("trunk ", flip(&f.trunk))
}
