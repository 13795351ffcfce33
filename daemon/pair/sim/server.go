package sim

import (
	"time"

	"baystream/daemon/pair"
)

// server is a compute module that writes, reads back and flushes its volume
// through whoever has the portal address. It keeps one request at a time, and
// sends it again at the next log-in until it is answered, as an initiator does.
type server struct {
	w    *World
	g, i int

	on      bool
	gen     int   // of its operating system: grows at a reset
	flow    *node // where its session is
	arp     *node // who announced the address last
	waiting bool
	sent    time.Duration
	first   time.Duration // when this request was sent the first time
	op      op
	opGen   int // of the request on the wire

	acked    [blocks]uint32 // acknowledged, or read since: must not be older any more
	flushed  [blocks]uint32 // survives a reset
	lastDone time.Duration
	gap      time.Duration // the longest time without an answer
}

type op struct {
	kind  uint8 // write, read, flush
	block int
	ver   uint32
	floor [blocks]uint32 // what a read or flush started from
}

const (
	opWrite = iota
	opRead
	opFlush
)

func newServer(w *World, g, i int) *server { return &server{w: w, g: g, i: i, on: true} }

// step starts the next request when none waits, and looks after one that does.
func (s *server) step() {
	gen := s.gen
	again := s.w.between(50*ms, 500*ms)
	if !s.w.faulty {
		again = s.w.between(500*ms, 1500*ms)
	}
	s.w.after(again, func() {
		if s.gen == gen {
			s.step()
		}
	})
	if !s.on {
		return
	}
	if !s.waiting {
		s.choose()
		s.waiting, s.first = true, s.w.now
		s.send()
		return
	}
	if s.w.now-s.sent > 5*sec || s.flow == nil || !s.flow.up { // NOP without an answer, or no session
		s.login()
	}
}

func (s *server) choose() {
	k := s.w.rng.IntN(10)
	s.op = op{block: s.w.rng.IntN(blocks), floor: s.acked}
	switch {
	case k < 6:
		s.w.issued++
		s.op.kind, s.op.ver = opWrite, s.w.issued
	case k < 9:
		s.op.kind = opRead
	default:
		s.op.kind = opFlush
	}
}

// login finds who answers at the address: whoever announced it last, or, with
// an old ARP entry, who still has it.
func (s *server) login() {
	s.flow = nil
	for _, n := range []*node{s.arp, s.w.nodes[pair.A], s.w.nodes[pair.B]} {
		if n != nil && n.awake() && n.portal[s.g] {
			s.flow = n
			break
		}
	}
	if s.waiting {
		s.send()
	}
}

// send puts the request on the wire. A target lets no new session begin while
// commands of the old one are in the kernel: then their answer is waited for.
func (s *server) send() {
	s.sent = s.w.now
	if s.flow != nil && len(s.flow.vols[s.g][s.i].pending) > 0 {
		return
	}
	s.opGen++
	n, opGen, gen := s.flow, s.opGen, s.gen
	if n == nil {
		return
	}
	s.w.after(s.w.between(200*us, 3*ms), func() {
		if s.opGen == opGen && s.gen == gen && n.awake() && n.portal[s.g] && n.vols[s.g][s.i].exported {
			s.arrive(n, opGen, gen)
		}
	})
}

// arrive is the request at the target.
func (s *server) arrive(n *node, opGen, gen int) {
	v, boot := n.vols[s.g][s.i], n.bootGen
	back := func(do func()) { // an answer needs the same module and the same session
		s.w.after(s.w.between(200*us, 3*ms), func() {
			if s.gen == gen && s.opGen == opGen && n.bootGen == boot && n.awake() && n.portal[s.g] {
				do()
				s.gap = max(s.gap, s.w.now-s.sent, s.w.now-s.first)
				s.waiting, s.lastDone = false, s.w.now
			}
		})
	}
	o := s.op
	switch o.kind {
	case opWrite:
		v.write(o.block, o.ver, func(ok bool) {
			if ok {
				back(func() {
					s.acked[o.block] = o.ver
					s.w.stats.Writes++
					v.trace("block %d version %d acknowledged", o.block, o.ver)
				})
			}
		})
	case opRead:
		got, ok := v.read(o.block)
		if !ok {
			s.hang(n, opGen, gen)
			return
		}
		back(func() {
			if got < o.floor[o.block] {
				s.w.fail("server %d.%d read version %d of block %d from %v, %d was acknowledged", s.g+1, s.i+1, got, o.block, n.side, o.floor[o.block])
			}
			s.acked[o.block] = max(s.acked[o.block], got)
		})
	case opFlush:
		// Without a leg of its own DRBD confirms a flush that the partner has not
		// seen yet; if the partner dies at that moment it is a third fault, which
		// docs/availability.md names. Here it waits.
		if !v.primary || v.frozen || n.diskStuck || v.disk <= pair.Failed && !v.alive() {
			s.hang(n, opGen, gen)
			return
		}
		v.flush()
		back(func() {
			v.trace("flush acknowledged of %v", o.floor)
			s.w.after(100*ms, func() { // the partner has flushed by the next barrier
				if s.gen == gen {
					for b := range blocks {
						s.flushed[b] = max(s.flushed[b], o.floor[b])
					}
				}
			})
		})
	}
}

// hang keeps a read or a flush in the kernel until the volume can answer.
func (s *server) hang(n *node, opGen, gen int) {
	boot := n.bootGen
	s.w.after(100*ms, func() {
		if s.opGen == opGen && s.gen == gen && n.bootGen == boot && n.awake() && n.vols[s.g][s.i].exported {
			s.arrive(n, opGen, gen)
		}
	})
}

// announced: a gratuitous ARP, which may get lost.
func (s *server) announced(n *node) {
	if s.w.lossy && s.w.chance(20) {
		return
	}
	s.arp = n
}

// tickled: the session is reset, and the initiator logs in again.
func (s *server) tickled(n *node) {
	if s.arp != n || s.flow == n && !s.waiting {
		return
	}
	gen := s.gen
	s.w.after(s.w.between(20*ms, 300*ms), func() {
		if s.gen == gen && s.arp == n {
			s.login()
		}
	})
}

// dropped: the target went away below a session.
func (s *server) dropped(n *node) {
	if s.flow == n {
		s.flow = nil
	}
}

// reset is the server's power control: what it had not flushed may be gone, and
// it knows nothing any more.
func (s *server) reset() {
	s.gen++
	s.w.trace("server %d.%d reset", s.g+1, s.i+1)
	s.on, s.waiting, s.flow = true, false, nil
	s.acked = s.flushed
	s.opGen++
	gen := s.gen
	s.w.after(s.w.between(1*sec, 3*sec), func() {
		if s.gen == gen {
			s.step()
		}
	})
}
