package block

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// An op is what a request wants.
type op int

const (
	opRead op = iota
	opWrite
	opTrim
	opFlush
)

// A Fault is what a drive does to requests until it is healed.
type Fault struct {
	ReadErrors  bool // every read in the range fails
	WriteErrors bool // every write, trim and flush
	Full        bool // writes fail for want of space
	Stall       bool // nothing is answered
	Delay       time.Duration
	PerSecond   int   // operations; 0: no limit
	From, To    int64 // range of ReadErrors and WriteErrors, in bytes; 0, 0: all
}

func (f Fault) check() error {
	if f.From < 0 || f.To < f.From || f.Delay < 0 || f.PerSecond < 0 {
		return fmt.Errorf("fault of a drive: range %d to %d, delay %v, %d operations per second: want none below zero, and an end behind the beginning", f.From, f.To, f.Delay, f.PerSecond)
	}
	return nil
}

// faults is the present Fault and those that wait for its end.
type faults struct {
	mu      sync.Mutex
	now     Fault
	changed chan struct{} // closed when now changes
	abort   bool          // stalled requests fail instead
	next    time.Time     // of PerSecond
}

func (s *faults) init() { s.changed = make(chan struct{}) }

// SetFault replaces the drive's fault. Requests that stalled go on if it has no
// Stall.
func (d *Drive) SetFault(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	d.faults.set(f, false)
	return nil
}

// Fault returns the drive's present fault.
func (d *Drive) Fault() Fault {
	d.faults.mu.Lock()
	defer d.faults.mu.Unlock()
	return d.faults.now
}

// Heal ends all faults but bit rot.
func (d *Drive) Heal() { d.faults.set(Fault{}, false) }

// Abort makes requests that stall fail while it is set: what a controller's
// reset does to them.
func (d *Drive) Abort(abort bool) { d.faults.set(d.Fault(), abort) }

func (s *faults) set(f Fault, abort bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.abort = f, abort
	close(s.changed)
	s.changed = make(chan struct{})
}

// before is asked before each request: it waits as long as the fault says and
// returns the error that the request ends with.
func (s *faults) before(o op, at int64, n int) error {
	s.mu.Lock()
	for s.now.Stall {
		if s.abort {
			s.mu.Unlock()
			return ErrIO
		}
		changed := s.changed
		s.mu.Unlock()
		<-changed
		s.mu.Lock()
	}
	f := s.now
	wait := f.Delay
	if f.PerSecond > 0 {
		now := time.Now()
		if s.next.Before(now) {
			s.next = now
		}
		wait += s.next.Sub(now)
		s.next = s.next.Add(time.Second / time.Duration(f.PerSecond))
	}
	s.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
	return f.refuses(o, at, n)
}

func (f Fault) refuses(o op, at int64, n int) error {
	hit := f.To == 0 || at < f.To && at+int64(n) > f.From
	switch {
	case o == opRead && f.ReadErrors && hit, o != opRead && f.WriteErrors && (hit || o == opFlush):
		return ErrIO
	case o == opWrite && f.Full:
		return ErrFull
	}
	return nil
}

// Rot flips one bit in each of n places that have data, chosen by the seed, and
// returns the offsets of the bytes.
func (d *Drive) Rot(n int) ([]int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	extents, err := d.data(0, d.size)
	if err != nil {
		return nil, err
	}
	var total int64
	for _, e := range extents {
		total += e[1] - e[0]
	}
	if total == 0 {
		return nil, errors.New("bit rot: the drive has no data")
	}
	var places []int64
	for range n {
		k := d.rng.Int64N(total)
		for _, e := range extents {
			if k < e[1]-e[0] {
				places = append(places, e[0]+k)
				break
			}
			k -= e[1] - e[0]
		}
	}
	for _, at := range places {
		if err := d.flip(at, byte(1)<<d.rng.IntN(8)); err != nil {
			return nil, err
		}
	}
	return places, nil
}

// RotAt flips the lowest bit of the byte at an offset.
func (d *Drive) RotAt(at int64) error {
	if err := d.check(at, 1); err != nil {
		return fmt.Errorf("bit rot at %d: %w; the drive has %d bytes", at, err, d.size)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flip(at, 1)
}

func (d *Drive) flip(at int64, bit byte) error {
	var b [1]byte
	if _, err := d.file.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= bit
	_, err := d.file.WriteAt(b[:], at)
	return err
}
