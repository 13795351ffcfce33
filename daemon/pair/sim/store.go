package sim

import (
	"time"

	"baystream/daemon/pair"
)

// store is the domain state: etcd members inside the daemons, a leader among
// them, one linearizable history of the groups' records, and the election of
// the management leader with its lease.
type store struct {
	w        *World
	recs     [groups]pair.Record
	revision int64
	voters   []pair.Side

	leader   pair.Side // of etcd; lead says whether there is one
	lead     bool
	electing bool

	manager pair.Side     // who holds the election key
	renewed time.Duration // its lease, by the leader's clock
}

// etcd's lease of the election, and how long a holder trusts its own renewal.
const (
	leaseTTL  = 1500 * ms
	leaseHeld = 1000 * ms
)

func (s *store) init(w *World) {
	s.w = w
	for g := range s.recs {
		s.revision++
		home := pair.A + pair.Side(g%2)
		s.recs[g] = pair.Record{Epoch: 1, Owner: home, Home: home, Clean: true, Revision: s.revision}
	}
	s.voters = []pair.Side{pair.None, pair.A, pair.B}
	if w.cfg.Voters == 2 {
		s.voters = s.voters[1:]
	}
}

// majority says that member x reaches more than half of the voters.
func (s *store) majority(x pair.Side) bool {
	if !s.w.nodes[x].member() {
		return false
	}
	n := 0
	for _, y := range s.voters {
		if s.w.nodes[y].member() && s.w.reach(management, x, y) {
			n++
		}
	}
	return 2*n > len(s.voters)
}

func (s *store) voter(x pair.Side) bool {
	for _, y := range s.voters {
		if x == y {
			return true
		}
	}
	return false
}

// serves says that a request of x's daemon succeeds now. Without a leader an
// election is on its way.
func (s *store) serves(x pair.Side) bool {
	if !s.voter(x) {
		if s.lead && s.majority(s.leader) && s.w.nodes[x].member() && s.w.reach(management, x, s.leader) {
			s.voters = append(s.voters, x) // joins the new cluster, its old state is dropped
		}
		return false
	}
	if s.lead && s.majority(s.leader) {
		return s.w.nodes[x].member() && s.w.reach(management, x, s.leader)
	}
	s.lead = false
	s.elect()
	return false
}

// force makes x the only voter of a new cluster, by its own copy of the state.
func (s *store) force(x pair.Side) {
	s.voters, s.leader, s.lead = []pair.Side{x}, x, true
	s.w.trace("store: %v goes on alone by order", x)
}

func (s *store) elect() {
	if s.electing {
		return
	}
	s.electing = true
	s.w.after(s.w.between(1000*ms, 2000*ms), func() {
		s.electing = false
		first := s.w.rng.IntN(len(s.voters))
		for i := range s.voters {
			if x := s.voters[(first+i)%len(s.voters)]; s.majority(x) {
				s.leader, s.lead = x, true
				s.renewed = max(s.renewed, s.w.now) // a new leader extends all leases
				return
			}
		}
	})
}

// swap is one compare-and-swap of node n; done gets ok only when the answer
// arrives and says so. known is false when the outcome is not known to n.
func (s *store) swap(n *node, g int, revision int64, next pair.Record, done func(ok, known bool)) {
	w, incarnation, answered := s.w, n.daemonGen, false
	answer := func(ok, known bool) {
		if !answered && n.daemonGen == incarnation {
			answered = true
			done(ok, known)
		}
	}
	delay := w.between(2*ms, 15*ms)
	if w.lossy && w.chance(5) {
		delay += w.upTo(2 * sec)
	}
	var apply func()
	tries := 0
	apply = func() {
		if !s.serves(n.side) && !(n.daemonGen != incarnation && s.lead) { // sent before its daemon died
			if tries++; tries < 4 && n.daemonGen == incarnation {
				w.after(w.between(200*ms, 1000*ms), apply)
			}
			return
		}
		ok := s.recs[g].Revision == revision
		if ok {
			s.revision++
			next.Revision = s.revision
			s.recs[g] = next
			w.trace("store: group %d %+v (by %v)", g+1, next, n.side)
		}
		back := w.between(1*ms, 5*ms)
		if w.lossy && w.chance(5) {
			return // the answer is lost
		}
		w.after(back, func() {
			if w.reach(management, n.side, s.leader) {
				answer(ok, true)
			}
		})
	}
	w.after(delay, apply)
	w.after(sec, func() { answer(false, false) })
}

// read gives n the records and its place in the election.
func (s *store) read(n *node) bool {
	if !s.serves(n.side) {
		return false
	}
	n.records = s.recs
	n.readAt = s.w.now
	if n.side == pair.None {
		return true
	}
	switch {
	case s.manager == n.side:
		if s.w.now-s.renewed > leaseTTL {
			s.manager = pair.None // expired before it was renewed
			n.leads = -1
			return true
		}
		s.renewed, n.leads = s.w.now, s.w.now
	case s.manager == pair.None || s.w.now-s.renewed > leaseTTL:
		s.manager, s.renewed, n.leads = n.side, s.w.now, s.w.now
		s.w.trace("store: %v leads management", n.side)
	default:
		n.leads = -1
	}
	return true
}
