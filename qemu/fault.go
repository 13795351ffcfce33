package qemu

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// A Fault is what a network, or one port of it, does to frames.
type Fault struct {
	Loss      float64       // probability that a frame is lost, 0 to 1; on a port: for each direction
	Duplicate float64       // probability that a frame from a station goes out twice
	Delay     time.Duration // added on the way to a station
	Jitter    time.Duration // up to this much more, at random; order is kept
	Reorder   float64       // probability that a frame is held back and others overtake it
}

func (f Fault) check() error {
	for _, p := range []float64{f.Loss, f.Duplicate, f.Reorder} {
		if p < 0 || p > 1 {
			return fmt.Errorf("loss %g, duplicate %g, reorder %g: want probabilities between 0 and 1", f.Loss, f.Duplicate, f.Reorder)
		}
	}
	if f.Delay < 0 || f.Jitter < 0 {
		return fmt.Errorf("delay %v, jitter %v: want none below zero", f.Delay, f.Jitter)
	}
	return nil
}

func (f Fault) delay(rng *rand.Rand) time.Duration {
	if f.Jitter > 0 {
		return f.Delay + time.Duration(rng.Int64N(int64(f.Jitter)))
	}
	return f.Delay
}

// A cut drops what goes from one port to another; "" stands for any port.
type cut struct{ from, to string }

// A deafness drops what a station sent before it leaves a port, by whatever
// port it came in: two interconnect modules have two ways between any two
// stations.
type deafness struct {
	station [6]byte
	port    string
}

// Deafen lets a port hear nothing more of stations, by their MAC addresses.
func (s *Switch) Deafen(port string, stations ...net.HardwareAddr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.port(port); err != nil {
		return err
	}
	for _, mac := range stations {
		s.deaf[deafness{[6]byte(mac), port}] = true
	}
	return nil
}

// Undeafen ends what Deafen did.
func (s *Switch) Undeafen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.deaf)
}

func (s *Switch) isDeaf(to *Port, source [6]byte) bool {
	return len(s.deaf) > 0 && s.deaf[deafness{source, to.cfg.Name}]
}

// SetFault replaces the fault of the whole network.
func (s *Switch) SetFault(f Fault) error {
	if err := f.check(); err != nil {
		return fmt.Errorf("network %s: %w", s.name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
	return nil
}

// Fault returns the fault of the whole network.
func (s *Switch) Fault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// Fault returns the fault of one port.
func (p *Port) Fault() Fault {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.fault
}

// SetFault replaces the fault of one port.
func (p *Port) SetFault(f Fault) error {
	if err := f.check(); err != nil {
		return fmt.Errorf("network %s: port %s: %w", p.sw.name, p.cfg.Name, err)
	}
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	p.fault = f
	return nil
}

// SetSilent takes a port out of service or back, silently: nothing is sent and
// nothing forwarded, but the station's carrier stays up. VM.SetLink takes the
// carrier away.
func (p *Port) SetSilent(silent bool) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	p.silent = silent
	p.sw.forget(p)
	if !silent {
		p.announce()
	}
}

// SetSilent takes the whole module out of service or back, silently.
func (s *Switch) SetSilent(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
	clear(s.fdb)
	for _, p := range s.ports {
		if !silent {
			p.announce()
		}
	}
}

// Cut drops what goes from one port to another, one way only. An empty name
// stands for every port: Cut("a", "") lets a hear but not be heard.
func (s *Switch) Cut(from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{from, to} {
		if name == "" {
			continue
		}
		if _, err := s.port(name); err != nil {
			return err
		}
	}
	if from == "" && to == "" {
		return fmt.Errorf("network %s: cut: name a port", s.name)
	}
	s.cuts[cut{from, to}] = true
	return nil
}

// Partition cuts each group of ports off from the other groups, both ways.
// Ports in no group reach everybody.
func (s *Switch) Partition(groups ...[]string) error {
	var errs []error
	for i, a := range groups {
		for j, b := range groups {
			if i == j {
				continue
			}
			for _, from := range a {
				for _, to := range b {
					errs = append(errs, s.Cut(from, to))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (s *Switch) isCut(from, to *Port) bool {
	if len(s.cuts) == 0 {
		return false
	}
	return s.cuts[cut{from.cfg.Name, to.cfg.Name}] || s.cuts[cut{"", to.cfg.Name}] || s.cuts[cut{from.cfg.Name, ""}]
}

// Filter calls keep for each frame that the network carries, and drops those
// for which it is false; nil ends that. keep must return at once and not use
// the Switch.
func (s *Switch) Filter(keep func(Frame8023) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter = keep
}

// Heal ends all faults of the network and its ports.
func (s *Switch) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = Fault{}
	s.filter, s.silent = nil, false
	clear(s.cuts)
	clear(s.deaf)
	for _, p := range s.ports {
		p.fault, p.silent = Fault{}, false
		p.announce()
	}
}
