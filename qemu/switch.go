package qemu

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	nativeVLAN = 1               // untagged traffic of trunks, and all of a network without VLANs
	portQueue  = 4096            // frames waiting to leave a port; more are dropped, as in a real switch
	fdbAge     = 5 * time.Minute // IEEE 802.1Q-2018 table 8-6, ageing time
	maxFrame   = 65536 + 18      // an offloaded TCP segment and its header
)

// A PortConfig says which VLANs a port is a member of.
type PortConfig struct {
	Name string
	// Access is the VLAN of an untagged port. 0 makes the port a trunk: VLAN 1
	// untagged, the others tagged.
	Access uint16
	// Allowed limits the VLANs of a trunk; nil allows all.
	Allowed []uint16
	// LLDP is what the network says of itself here; nil: it is silent, and
	// LLDP of stations passes like any other frame.
	LLDP *LLDP
}

func (c PortConfig) carries(vlan uint16) bool {
	if c.Access != 0 {
		return vlan == c.Access
	}
	return c.Allowed == nil || slices.Contains(c.Allowed, vlan)
}

// A Switch is one layer 2 network: it learns addresses per VLAN, floods what
// it does not know, and breaks on demand (see Fault).
type Switch struct {
	name string
	log  *slog.Logger

	mu       sync.Mutex
	ports    map[string]*Port
	fdb      map[station]entry
	fault    Fault
	cuts     map[cut]bool
	deaf     map[deafness]bool
	rng      *rand.Rand
	taps     map[*tap]bool
	recorder *recorder // nil: nothing is remembered
	filter   func(Frame8023) bool
	silent   bool
	closed   bool
}

type station struct {
	vlan uint16
	mac  [6]byte
}

type entry struct {
	port *Port
	seen time.Time
}

// NewSwitch returns a network without ports. The seed makes its random faults
// repeatable.
func NewSwitch(name string, seed uint64, log *slog.Logger) *Switch {
	return &Switch{
		name: name, log: log,
		ports: map[string]*Port{}, fdb: map[station]entry{}, cuts: map[cut]bool{}, deaf: map[deafness]bool{}, taps: map[*tap]bool{},
		rng: rand.New(rand.NewPCG(seed, seed)),
	}
}

// Name returns the network's name.
func (s *Switch) Name() string { return s.name }

// Ports returns the names of the ports, sorted.
func (s *Switch) Ports() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.ports))
}

// Port returns the port of that name.
func (s *Switch) Port(name string) (*Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port(name)
}

func (s *Switch) port(name string) (*Port, error) {
	if p := s.ports[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("network %s: no port %q; it has %v", s.name, name, slices.Sorted(maps.Keys(s.ports)))
}

// A Port joins one station, or another switch, to a network.
type Port struct {
	sw  *Switch
	cfg PortConfig

	out    chan queued // frames to the station
	cameUp chan struct{}
	done   chan struct{}
	wg     sync.WaitGroup

	// below: under sw.mu
	fault       Fault
	silent      bool
	neighbour   []byte
	stats       PortStats
	deliver     func(frame []byte)
	undelivered func() // ends the transport
	closed      bool
}

// PortStats counts frames. In is from the station, Out to it.
type PortStats struct {
	In      uint64 `json:"in"`
	Out     uint64 `json:"out"`
	Dropped uint64 `json:"dropped"` // by a fault, a VLAN rule or a full queue
}

type queued struct {
	frame []byte
	due   time.Time // zero: now
}

// Attach adds a port. Frames for the station go to deliver, one at a time,
// which must not keep the slice; the station sends with Port.Send.
func (s *Switch) Attach(cfg PortConfig, deliver func(frame []byte)) (*Port, error) {
	p := &Port{sw: s, cfg: cfg, out: make(chan queued, portQueue), cameUp: make(chan struct{}, 1), done: make(chan struct{}), deliver: deliver}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("network %s: port %s: %w", s.name, cfg.Name, net.ErrClosed)
	}
	if s.ports[cfg.Name] != nil {
		return nil, fmt.Errorf("network %s: port %s exists; choose another name", s.name, cfg.Name)
	}
	s.ports[cfg.Name] = p
	p.wg.Go(p.transmit)
	if cfg.LLDP != nil {
		p.wg.Go(p.advertise)
	}
	return p, nil
}

// Link joins two networks by a trunk, with a port on each that bears the
// other's name unless its configuration has one.
func Link(a, b *Switch, atA, atB PortConfig) error {
	atA.Name, atB.Name = cmp.Or(atA.Name, b.name), cmp.Or(atB.Name, a.name)
	var pa, pb atomic.Pointer[Port]
	to := func(peer *atomic.Pointer[Port]) func([]byte) {
		return func(f []byte) {
			if p := peer.Load(); p != nil {
				p.Send(f)
			}
		}
	}
	p, err := a.Attach(atA, to(&pb))
	if err != nil {
		return err
	}
	pa.Store(p)
	if p, err = b.Attach(atB, to(&pa)); err != nil {
		return err
	}
	pb.Store(p)
	return nil
}

// Close removes all ports and waits for their goroutines.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	ports := slices.Collect(maps.Values(s.ports))
	taps := slices.Collect(maps.Keys(s.taps))
	s.mu.Unlock()
	for _, p := range ports {
		p.Close()
	}
	var errs []error
	for _, t := range taps {
		errs = append(errs, s.stopTap(t))
	}
	return errors.Join(errs...)
}

// Close takes the port out of the network and waits until nothing is
// delivered to the station any more.
func (p *Port) Close() {
	p.sw.mu.Lock()
	if !p.closed {
		p.closed = true
		delete(p.sw.ports, p.cfg.Name)
		p.sw.forget(p)
		close(p.done)
		if p.undelivered != nil {
			p.undelivered()
		}
	}
	p.sw.mu.Unlock()
	p.wg.Wait()
}

// Name returns the port's name.
func (p *Port) Name() string { return p.cfg.Name }

// Stats returns the port's counters.
func (p *Port) Stats() PortStats {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.stats
}

// transmit delivers the queue in order. A delayed frame holds back those
// behind it, so that a delay never reorders.
func (p *Port) transmit() {
	for {
		select {
		case <-p.done:
			return
		case q := <-p.out:
			if wait := time.Until(q.due); !q.due.IsZero() && wait > 0 {
				select {
				case <-p.done:
					return
				case <-time.After(wait):
				}
			}
			p.deliver(q.frame)
		}
	}
}

// Send takes a frame from the station and forwards it. The slice may be used
// again afterwards.
func (p *Port) Send(frame []byte) {
	s := p.sw
	s.mu.Lock()
	defer s.mu.Unlock()
	p.stats.In++
	f, ok := parse8023(frame)
	if !ok || p.closed || p.silent || s.silent {
		p.stats.Dropped++
		return
	}
	switch {
	case f.vlan == 0 && p.cfg.Access != 0:
		f.vlan = p.cfg.Access
	case f.vlan == 0:
		f.vlan = nativeVLAN
	}
	f.From = p.cfg.Name
	if !p.cfg.carries(f.vlan) {
		p.stats.Dropped++
		return
	}
	f.body = slices.Clone(f.body)
	if src := f.source(); src[0]&1 == 0 {
		s.fdb[station{f.vlan, src}] = entry{p, time.Now()}
	}
	if s.filter != nil && !s.filter(f) || s.lose(s.fault.Loss) || s.lose(p.fault.Loss) {
		p.stats.Dropped++
		return
	}
	if f.destination() == lldpAddress && p.cfg.LLDP != nil {
		s.tapped(f)
		p.neighbour = f.body
		return
	}
	copies := 1
	if s.lose(max(s.fault.Duplicate, p.fault.Duplicate)) {
		copies = 2
	}
	for range copies {
		s.tapped(f)
		s.forward(p, f)
	}
}

// lose throws a dice: true with the given probability.
func (s *Switch) lose(probability float64) bool {
	return probability > 0 && s.rng.Float64() < probability
}

func (s *Switch) forward(from *Port, f Frame8023) {
	dst := f.destination()
	if e, ok := s.fdb[station{f.vlan, dst}]; ok && dst[0]&1 == 0 && time.Since(e.seen) < fdbAge {
		if e.port != from {
			s.emit(from, e.port, f)
		}
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		if to := s.ports[name]; to != from {
			s.emit(from, to, f)
		}
	}
}

// emit sends a frame on to one port, unless a rule or a cut forbids it.
func (s *Switch) emit(from, to *Port, f Frame8023) {
	if !to.cfg.carries(f.vlan) {
		return
	}
	if s.isCut(from, to) || s.isDeaf(to, f.source()) {
		to.stats.Dropped++
		return
	}
	if to.cfg.Access == 0 && f.vlan != nativeVLAN {
		s.queue(to, f.tagged())
		return
	}
	s.queue(to, f.untagged())
}

// queue puts what is sent to a station into the queue of its port, unless a
// fault forbids it.
func (s *Switch) queue(to *Port, frame []byte) {
	if to.silent || s.lose(to.fault.Loss) {
		to.stats.Dropped++
		return
	}
	q := queued{frame: frame}
	if d := s.fault.delay(s.rng) + to.fault.delay(s.rng); d > 0 {
		q.due = time.Now().Add(d)
	}
	if s.lose(max(s.fault.Reorder, to.fault.Reorder)) {
		time.AfterFunc(overtaken, func() { to.push(q) })
		return
	}
	to.enqueue(q)
}

// overtaken is how long a frame is held back that others shall overtake.
const overtaken = 20 * time.Millisecond

// push is enqueue for one who does not hold the switch.
func (p *Port) push(q queued) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	p.enqueue(q)
}

func (p *Port) enqueue(q queued) {
	select {
	case p.out <- q:
		p.stats.Out++
	default:
		p.stats.Dropped++
	}
}

func (s *Switch) forget(p *Port) {
	maps.DeleteFunc(s.fdb, func(_ station, e entry) bool { return e.port == p })
}
