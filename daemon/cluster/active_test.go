package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"
)

// council watches over electors: at no time may two be active.
type council struct {
	t *testing.T

	mu     sync.Mutex
	active map[string]Term
	terms  []Term
	wake   chan struct{}
}

func newCouncil(t *testing.T) *council {
	return &council{t: t, active: map[string]Term{}, wake: make(chan struct{}, 1)}
}

func (c *council) serve(ctx context.Context, term Term) error {
	c.mu.Lock()
	c.active[term.Holder] = term
	c.terms = append(c.terms, term)
	if len(c.active) > 1 {
		c.t.Errorf("two are active: %v", c.active)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.active, term.Holder)
	return ctx.Err()
}

// latest is the last term that began.
func (c *council) latest() Term {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.terms[len(c.terms)-1]
}

// waitTerm returns the first term after epoch that not is not the holder of.
func (c *council) waitTerm(epoch uint64, not string) Term {
	c.t.Helper()
	for {
		c.mu.Lock()
		for _, t := range c.terms {
			if t.Epoch > epoch && t.Holder != not {
				c.mu.Unlock()
				return t
			}
		}
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-time.After(5 * time.Minute):
			c.t.Fatalf("nobody but %q became active after epoch %d", not, epoch)
		}
	}
}

// run runs an elector on m until stop.
//
// A lease is five times as long as an appliance's: several members share a
// machine here, which may be busy.
func (c *council) run(m *member) (e *Elector, stop func()) {
	e = NewElector(m.node.Client(), m.name, 5*time.Second, slog.New(slog.NewTextHandler(c.t.Output(), nil)).With("member", m.name))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx, c.serve); err != nil {
			c.t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	c.t.Cleanup(stop)
	return e, stop
}

func TestOneApplianceIsActive(t *testing.T) {
	r, a, b, w := trio(t)
	c := newCouncil(t)
	electors := map[string]*Elector{}
	stops := map[string]func(){}
	by := map[string]*member{"a": a, "b": b}
	for name, m := range by {
		electors[name], stops[name] = c.run(m)
	}
	other := func(name string) string { return map[string]string{"a": "b", "b": "a"}[name] }
	term := c.waitTerm(0, "")

	t.Run("handed over by command", func(t *testing.T) {
		for range 2 {
			to := other(term.Holder)
			if err := electors["a"].HandOver(t.Context(), to); err != nil { // once from the active one, once from the standby
				t.Fatal(err)
			}
			next := c.waitTerm(term.Epoch, term.Holder)
			if next.Holder != to || next.Epoch <= term.Epoch {
				t.Errorf("after the hand-over of %v: %v, want %s with a later epoch", term, next, to)
			}
			term = next
		}
	})

	t.Run("known to be dead", func(t *testing.T) {
		begun := time.Now()
		if err := electors[other(term.Holder)].Depose(t.Context(), term); err != nil {
			t.Fatal(err)
		}
		next := c.waitTerm(term.Epoch, "")
		t.Logf("epoch %d at %s after %v", next.Epoch, next.Holder, time.Since(begun))
		old := term.Context(t.Context())
		_, err := scriptTable(by[term.Holder].node).Create(old, named("written by a ghost"))
		if !errors.Is(err, ErrDeposed) {
			t.Errorf("a write of the term that is over = %v, want ErrDeposed", err)
		}
		eventually(t, "write of the present term", func() error {
			_, err := scriptTable(w.node).Create(c.latest().Context(t.Context()), named("written by the active one"))
			return err
		})
		term = next
	})

	t.Run("killed", func(t *testing.T) {
		term = c.latest()
		for _, lead := range []string{"w", term.Holder} { // who leads the domain state decides how long it takes
			for _, m := range []*member{a, b, w} {
				if _, err := m.node.Lead(t.Context(), lead); err != nil {
					t.Fatal(err)
				}
			}
			dead := by[term.Holder]
			begun := time.Now()
			r.isolate(dead.name)
			next := c.waitTerm(term.Epoch, dead.name)
			took := time.Since(begun)
			eventually(t, "write of the active one", func() error { // on a slow machine its term may be over already
				now := c.latest()
				_, err := scriptTable(by[now.Holder].node).Create(now.Context(t.Context()), named(fmt.Sprint("first write of ", now.Epoch)))
				return err
			})
			t.Logf("with the lead at %s, %s took over after %v, first write after %v", lead, next.Holder, took, time.Since(begun))
			stops[dead.name]()
			dead.stop()
			r.heal()
			dead.start(nil)
			if err := dead.node.Advertise(t.Context(), dead.url); err != nil {
				t.Fatal(err)
			}
			electors[dead.name], stops[dead.name] = c.run(dead)
			term = c.latest()
		}
	})

	t.Run("cut off from the others", func(t *testing.T) {
		for range 2 {
			begun := time.Now()
			term = c.latest()
			r.isolate(term.Holder)
			next := c.waitTerm(term.Epoch, term.Holder)
			t.Logf("cut off from %s: %s took over after %v", term.Holder, next.Holder, time.Since(begun))
			r.heal()
			eventually(t, "all serve again", func() error { return write(by[term.Holder].node, fmt.Sprint("healed ", next.Epoch)) })
			term = next
		}
	})

	c.mu.Lock()
	defer c.mu.Unlock()
	var last uint64
	for _, term := range c.terms {
		if term.Epoch <= last {
			t.Errorf("epochs went from %d to %d", last, term.Epoch)
		}
		last = term.Epoch
	}
}

func TestElectorOfASingleMember(t *testing.T) {
	n := node(t)
	e := NewElector(n.Client(), "a1", 0, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	terms := 0
	err := e.Run(ctx, func(ctx context.Context, term Term) error {
		if now, err := CurrentTerm(ctx, n.Client()); err != nil || now.Holder != "a1" || now.Epoch != term.Epoch || now.Attempt != term.Attempt {
			t.Errorf("CurrentTerm = %v, %v; want %v", now, err, term)
		}
		if terms++; terms == 3 {
			cancel()
		}
		return nil // resigns
	})
	if err != nil || terms != 3 {
		t.Errorf("Run = %v after %d terms, want three", err, terms)
	}
}
