package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/netcfg/ether"
)

// DefaultInterval is the time between two rounds.
const DefaultInterval = 100 * time.Millisecond

const (
	readEvery  = 10 // rounds; oftener while something is missing
	fullEvery  = 50 // rounds between two frames of full size
	fullMissed = 3  // so many in a row are a finding
	maxAge     = 20 // rounds that a frame may take
	maxTargets = 8
)

// A Config says what to watch.
type Config struct {
	Bond      string
	Ports     [2]Port
	Preferred int // -1: none
	VLAN      int // probes carry this tag; 0: none. SetVLAN changes it
	// Neighbours returns addresses on the VLAN whose owners are likely to
	// answer ARP. It is asked while in doubt.
	Neighbours func() []netip.Addr
	// Changed, if set, is called after the Monitor has changed the active port.
	Changed  func(name string)
	Interval time.Duration // DefaultInterval if 0
	Log      *slog.Logger
}

// A Port is a slave of the bond: its name and its burnt-in address.
type Port struct {
	Name string
	MAC  net.HardwareAddr
}

// wire is a port's socket for one EtherType (ether.Conn).
type wire interface {
	Send(ether.Frame) error
	Receive(context.Context, func(ether.Frame)) error
}

// driver is the bond.
type driver interface {
	Read() (facts, error)
	SetActive(port int) error
	Close()
}

// facts are what the kernel knows.
type facts struct {
	active   int // -1: none, or not an active-backup bond
	mtu      int
	carrier  [2]bool
	received [2]uint64 // packets
}

// A Monitor keeps a bond on a port that works. See the package comment.
type Monitor struct {
	cfg    Config
	id     uint64
	macs   [2][6]byte
	probes [2]wire
	arps   [2]wire
	driver driver
	tag    atomic.Int32

	// used by Run only
	seq      uint32
	decider  *Decider
	facts    facts
	last     Decision
	warned   bool
	fullSent bool
	fullMiss [2]int

	mu       sync.Mutex
	seen     [2]Seen // since the last round
	fullSeen [2]bool
	friend   neighbour // answered last
	snapshot Snapshot
}

type neighbour struct {
	ip  netip.Addr
	mac [6]byte
}

// A Snapshot is what a Monitor knows.
type Snapshot struct {
	Bond    string
	Active  string // name of the port in use
	Ports   [2]PortSnapshot
	Rounds  uint64
	Changes uint64 // that the Monitor made
	Changed time.Time
	Reason  string // of the last change
	MTU     int    // of the bond, in bytes
}

// A PortSnapshot is one port of a Snapshot.
type PortSnapshot struct {
	Name    string
	Verdict Verdict
	Carrier bool
	// TooLong says that frames of full size from this port to the other one are
	// lost, while short ones arrive.
	TooLong   bool
	Delivered uint64 // rounds in which its probe arrived
	Missed    uint64 // and in which not
}

// SetVLAN changes the tag of probes.
func (m *Monitor) SetVLAN(id int) { m.tag.Store(int32(id)) }

func (m *Monitor) vlan() int { return int(m.tag.Load()) }

// Snapshot returns what is known now.
func (m *Monitor) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshot
}

func newMonitor(cfg Config, id uint64) *Monitor {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	m := &Monitor{cfg: cfg, id: id, decider: NewDecider(cfg.Preferred), facts: facts{active: -1}}
	m.SetVLAN(cfg.VLAN)
	m.snapshot = Snapshot{Bond: cfg.Bond}
	for i, p := range cfg.Ports {
		m.macs[i] = ether.OwnMAC(p.MAC)
		m.snapshot.Ports[i] = PortSnapshot{Name: p.Name, Verdict: Unknown}
	}
	return m
}

// Run watches until ctx ends, then it returns nil. An error means that a port
// or the bond is gone: open another Monitor when they are back. It closes what
// Open opened.
func (m *Monitor) Run(ctx context.Context) error {
	defer m.driver.Close()
	g, ctx := errgroup.WithContext(ctx)
	for i := range 2 {
		g.Go(func() error { return m.probes[i].Receive(ctx, func(f ether.Frame) { m.heardProbe(i, f) }) })
		g.Go(func() error { return m.arps[i].Receive(ctx, func(f ether.Frame) { m.heardARP(i, f) }) })
	}
	g.Go(func() error {
		// A pause between rounds, not a beat: after a stall there is one round,
		// and what arrived meanwhile is taken in before the next.
		t := time.NewTimer(0)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
			}
			if err := m.round(); err != nil {
				return fmt.Errorf("probe: %w", err)
			}
			t.Reset(m.pause())
		}
	})
	return g.Wait()
}

// pause is the time until the next round: less while it is open whether the
// port in use works.
func (m *Monitor) pause() time.Duration {
	if n := m.decider.Doubt(); n > 0 && n < 2*weakAfter {
		return m.cfg.Interval / 2
	}
	return m.cfg.Interval
}

// round judges what came in since the round before, and sends again.
func (m *Monitor) round() error {
	m.mu.Lock()
	seen, fullSeen := m.seen, m.fullSeen
	m.seen, m.fullSeen = [2]Seen{}, [2]bool{}
	m.mu.Unlock()

	complete := seen[0].Delivered && seen[1].Delivered && m.facts.active >= 0
	if !complete || m.seq%readEvery == 0 {
		now, err := m.driver.Read()
		if err != nil {
			return err
		}
		for i := range 2 {
			seen[i].Received = seen[i].Received || m.seq > 0 && now.received[i] > m.facts.received[i]
		}
		m.facts = now
	}
	for i := range 2 {
		seen[i].Carrier = m.facts.carrier[i] || seen[i].Delivered
	}
	m.last = m.decider.Round(m.facts.active, seen)
	m.act()
	m.note(seen, fullSeen)
	m.send()
	return nil
}

// act makes the decision true.
func (m *Monitor) act() {
	to := m.last.Active
	if to < 0 {
		return
	}
	name := m.cfg.Ports[to].Name
	if err := m.driver.SetActive(to); err != nil {
		m.cfg.Log.Warn("cannot change the active port", "bond", m.cfg.Bond, "link", name, "err", err)
		return
	}
	m.facts.active = to
	m.cfg.Log.Warn("active port changed", "bond", m.cfg.Bond, "link", name, "reason", m.last.Reason)
	m.mu.Lock()
	m.snapshot.Changes++
	m.snapshot.Changed, m.snapshot.Reason = time.Now(), m.last.Reason
	m.mu.Unlock()
	if m.cfg.Changed != nil {
		m.cfg.Changed(name)
	}
}

// note keeps the snapshot up to date.
func (m *Monitor) note(seen [2]Seen, fullSeen [2]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.snapshot
	s.Rounds++
	s.Active, s.MTU = "", m.facts.mtu
	if a := m.facts.active; a >= 0 {
		s.Active = m.cfg.Ports[a].Name
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		p.Verdict, p.Carrier = m.last.Verdicts[i], seen[i].Carrier
		if seen[i].Delivered {
			p.Delivered++
		} else if m.seq > 0 {
			p.Missed++
		}
		m.noteFull(i, seen[i].Delivered, fullSeen[i])
	}
}

// noteFull judges the frame of full size that port i sent in the last round.
func (m *Monitor) noteFull(i int, short, long bool) {
	switch {
	case long:
		m.fullMiss[i] = 0
	case m.fullSent && short:
		m.fullMiss[i]++
	}
	m.snapshot.Ports[i].TooLong = m.fullMiss[i] >= fullMissed
}

// send sends the probes of a new round. A link that is down refuses them; the
// next round shows that they did not arrive.
func (m *Monitor) send() {
	m.seq++
	m.fullSent = m.facts.mtu > messageLen && m.seq%fullEvery == 0
	var errs []error
	for i := range 2 {
		other := m.macs[1-i]
		errs = append(errs, m.probes[i].Send(m.probeFrame(i, other, cross, 0)))
		if m.fullSent {
			errs = append(errs, m.probes[i].Send(m.probeFrame(i, other, full, m.facts.mtu)))
		}
	}
	if m.last.Ask {
		errs = append(errs, m.ask())
	}
	err := errors.Join(errs...)
	if err != nil && !m.warned {
		m.cfg.Log.Debug("probes not sent", "bond", m.cfg.Bond, "err", err)
	}
	m.warned = err != nil
}

// ask asks other modules and known neighbours out of both ports: all
// neighbours while it is open whether the port in use works; later the one that
// answered last, and only it.
func (m *Monitor) ask() error {
	var questions []neighbour
	m.mu.Lock()
	friend := m.friend
	m.mu.Unlock()
	if friend.ip.IsValid() && m.decider.Doubt() == 0 {
		questions = []neighbour{friend}
	} else if m.cfg.Neighbours != nil {
		for _, ip := range m.cfg.Neighbours() {
			if ip.Is4() && len(questions) < maxTargets {
				questions = append(questions, neighbour{ip, ether.Broadcast})
			}
		}
	}
	var errs []error
	for i := range m.probes {
		errs = append(errs, m.probes[i].Send(m.probeFrame(i, group, ask, 0)))
		for _, q := range questions {
			errs = append(errs, m.arps[i].Send(ether.Frame{
				Dst: q.mac, Src: m.macs[i], VLAN: m.vlan(), Type: ether.ARP, Payload: arpProbe(m.macs[i], q.ip),
			}))
		}
	}
	return errors.Join(errs...)
}

// heardProbe takes a probe that port i received.
func (m *Monitor) heardProbe(i int, f ether.Frame) {
	msg, err := parseMessage(f.Payload)
	if err != nil {
		return
	}
	if msg.id != m.id && msg.kind == ask {
		back := ether.Frame{Dst: f.Src, Src: m.macs[i], VLAN: m.vlan(), Type: ether.Probe}
		back.Payload = message{kind: answer, port: msg.port, id: msg.id, seq: msg.seq}.marshal(0)
		if err := m.probes[i].Send(back); err != nil {
			m.cfg.Log.Debug("probe not answered", "link", m.cfg.Ports[i].Name, "err", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if msg.id != m.id {
		m.seen[i].Received = true
		return
	}
	switch {
	case msg.kind == answer && msg.port == i:
		m.seen[i].Answered = true
	case msg.kind == full && msg.port == 1-i:
		m.fullSeen[1-i] = true
	case (msg.kind == cross || msg.kind == ask) && msg.port == 1-i && m.recent(msg.seq):
		m.seen[1-i].Delivered = true
	}
	m.seen[i].Received = m.seen[i].Received || msg.port != i || msg.kind == answer
}

// recent says whether a probe is young enough to prove something. It is called
// with mu held.
func (m *Monitor) recent(seq uint32) bool {
	return uint64(seq)+maxAge > m.snapshot.Rounds
}

// heardARP takes an ARP packet that port i received.
func (m *Monitor) heardARP(i int, f ether.Frame) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[i].Received = true
	if ip, ok := arpAnswer(f.Payload, m.macs[i]); ok {
		m.seen[i].Answered = true
		m.friend = neighbour{ip, f.Src}
	}
}
