package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"baystream/daemon/pair"
)

const (
	groups  = 2
	volumes = 2 // of each group
	blocks  = 6 // of each volume
	us      = time.Microsecond
	ms      = time.Millisecond
	sec     = time.Second
)

// Break bends one rule.
type Break uint8

// What can be bent.
const (
	Sound          Break = iota
	IgnoreGrant          // a lost compare-and-swap counts as won
	ThawFirst            // the fence handler is answered before the grant is won
	PromoteOnBoot        // whoever boots as owner becomes primary without asking
	ClearEarly           // the grant is cleared while the partner's legs are behind
	SkipReset            // servers are not reset
	SkipDisown           // legs with older data are attached as they are
	ThawUndetached       // a loser resumes its I/O with the leg still attached
	BoldTakeover         // silence alone is enough, at once
)

func (b Break) String() string {
	return [...]string{"sound", "ignore the grant", "thaw before winning", "promote on boot", "clear before the resync",
		"skip the reset", "skip the disowning", "resume without detach"}[b]
}

// Config is what a run consists of.
type Config struct {
	Seed   uint64
	Break  Break
	Trace  func(string)  // called with each line; nil: none
	Voters int           // 3, or 2 without a witness
	Script func(*World)  // faults instead of the seed's
	Heal   time.Duration // when a Script's faults have ended
}

// World is one run.
type World struct {
	cfg    Config
	rng    *rand.Rand
	now    time.Duration
	events heap
	seq    uint64

	net     network
	store   store
	nodes   [3]*node // by pair.Side; [0] is the witness
	servers []*server

	faulty     bool // faults may still come
	lossy      bool // messages get lost and late meanwhile
	kinds      string
	failure    string
	harmless   bool          // the failure is one of service, not of data
	diskFailed time.Duration // the last time
	issued     uint32        // the last version that any server wrote
	uuids      uint64
	seen       [groups]pair.Record
	failover   [groups]time.Duration // the last one from a living owner
	stats      Stats
}

// Stats is what happened in a run.
type Stats struct {
	Events, Failovers, Moves, Resets, Resyncs, Writes int
	Healed                                            time.Duration // from the last fault to full service
}

// Failure is an invariant that did not hold.
type Failure struct {
	Seed uint64
	At   time.Duration
	What string
	Safe bool // nothing was lost or written twice: only service was missing, or changed hands too often
}

func (f *Failure) Error() string { return fmt.Sprintf("seed %d: at %v: %s", f.Seed, f.At, f.What) }

func newWorld(cfg Config) *World {
	if cfg.Voters == 0 {
		cfg.Voters = 3
	}
	w := &World{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x6261797374726561)), faulty: true, lossy: cfg.Script == nil}
	w.store.init(w)
	for s := range w.nodes {
		w.nodes[s] = newNode(w, pair.Side(s))
	}
	for g := range groups {
		for v := range volumes {
			w.servers = append(w.servers, newServer(w, g, v))
		}
	}
	return w
}

// Run runs one seed to its end; the error is a *Failure.
func Run(cfg Config) (Stats, error) {
	w := newWorld(cfg)
	for _, n := range w.nodes {
		n.powerOn()
	}
	for _, s := range w.servers {
		w.after(2*sec+w.upTo(sec), s.step)
	}
	heal := cfg.Heal
	if cfg.Script != nil {
		w.faulty = false
		w.at(0, func() { cfg.Script(w) })
	} else {
		heal = w.schedule()
	}
	w.at(heal, w.heal)
	w.loop(heal)
	if w.failure == "" {
		w.settle(heal)
	}
	if w.failure != "" {
		return w.stats, &Failure{cfg.Seed, w.now, w.failure, w.harmless}
	}
	return w.stats, nil
}

// bound is how long after the last fault full service may take.
const bound = 6 * time.Minute

// settle runs on until the pair is in full service and stays there.
func (w *World) settle(heal time.Duration) {
	good := time.Duration(-1)
	for w.failure == "" {
		w.loop(w.now + 500*ms)
		why := w.unfinished()
		switch {
		case why != "":
			good = -1
			if w.now-heal > bound {
				w.harmless = w.failure == ""
				w.fail("no full service %v after the last fault: %s", bound, why)
			}
		case good < 0:
			good = w.now
		case w.now-good >= 3*sec:
			w.stats.Healed = good - heal
			w.compareLegs()
			return
		}
	}
}

// loop runs events until the given moment.
func (w *World) loop(until time.Duration) {
	for w.failure == "" && len(w.events) > 0 && w.events[0].at <= until {
		e := w.events.pop()
		w.now = e.at
		w.stats.Events++
		e.do()
		w.check()
	}
	w.now = max(w.now, until)
}

func (w *World) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf(format, args...)
		w.trace("FAILURE: %s", w.failure)
	}
}

func (w *World) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%10.3f ", w.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

func (w *World) at(t time.Duration, do func()) {
	w.seq++
	w.events.push(event{t, w.seq, do})
}

func (w *World) after(d time.Duration, do func()) { w.at(w.now+d, do) }

// upTo is a random time below d.
func (w *World) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d) + 1)) }

// between is a random time.
func (w *World) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

// chance is true in p of 100 cases.
func (w *World) chance(p int) bool { return w.rng.IntN(100) < p }

func (w *World) newUUID() uint64 { w.uuids++; return 0x1000 + w.uuids*2 }

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// heap is a binary heap of events, by time and then by order.
type heap []event

func (h heap) less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h *heap) push(e event) {
	*h = append(*h, e)
	s := *h
	for i := len(s) - 1; i > 0; {
		p := (i - 1) / 2
		if !s.less(i, p) {
			break
		}
		s[i], s[p] = s[p], s[i]
		i = p
	}
}

func (h *heap) pop() event {
	s := *h
	top, n := s[0], len(s)-1
	s[0] = s[n]
	s[n] = event{}
	s = s[:n]
	*h = s
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && s.less(c+1, c) {
			c++
		}
		if !s.less(c, i) {
			break
		}
		s[i], s[c] = s[c], s[i]
		i = c
	}
	return top
}
