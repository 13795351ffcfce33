package library

import "sync"

// pins keep objects from being swept away between their upload and the row or
// task that names them. Neither waits for the other: an upload pins its object
// in the moment before it appears in the store, and a sweep leaves alone what
// is pinned, and what was while it looked around.
type pins struct {
	mu     sync.Mutex
	held   map[string]int  // pins by object
	during map[string]bool // pinned since the sweep began; nil: no sweep runs
}

func (p *pins) pin(object string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = map[string]int{}
	}
	p.held[object]++
	if p.during != nil {
		p.during[object] = true
	}
}

func (p *pins) unpin(object string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[object]--; p.held[object] <= 0 {
		delete(p.held, object)
	}
}

// begin begins a sweep; only one runs at a time. What is not pinned any more
// has its name on record by now.
func (p *pins) begin() (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.during = map[string]bool{}
	for o := range p.held {
		p.during[o] = true
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.during = nil
	}
}

// unlessPinned calls remove for an object that nobody pinned, and lets nobody
// pin it meanwhile.
func (p *pins) unlessPinned(object string, remove func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.during[object] {
		return nil
	}
	return remove()
}
