package pair

import (
	"context"
	"fmt"
	"strings"
	"time"

	"baystream/qemu"
)

// How long one attempt to write may take, and the pause before the next: short
// against what is measured, and not so many that a module has nothing else to
// do than to encrypt.
const (
	attemptTime  = 2 * time.Second
	attemptPause = 50 * time.Millisecond
)

// Write creates a resource of that name at the service address, a plan script,
// and deletes it again.
func (s *Site) Write(ctx context.Context, name string) error {
	uri, err := s.create(ctx, name)
	if err == nil {
		err = s.REST.Do(ctx, "DELETE", uri, nil, nil)
	}
	return err
}

func (s *Site) create(ctx context.Context, name string) (uri string, err error) {
	var out struct {
		URI string `json:"uri"`
	}
	err = s.REST.Do(ctx, "POST", "/rest/plan-scripts", map[string]any{"type": "PlanScript", "name": name, "planType": "deploy", "content": "# nothing\n"}, &out)
	return out.URI, err
}

// FirstWrite tries to write at the service address until it is accepted, and
// returns how long after began that was. What was written is deleted again.
// Names of what is written begin with name.
func (s *Site) FirstWrite(ctx context.Context, name string, began time.Time) (time.Duration, error) {
	for n := 0; ; n++ {
		one, cancel := context.WithTimeout(ctx, attemptTime)
		_, err := s.create(one, fmt.Sprintf("%s %d", name, n))
		cancel()
		if err == nil {
			took := time.Since(began)
			return took, again(ctx, attemptTime, func(ctx context.Context) error { return s.forget(ctx, name) })
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no write was accepted: %w; the last attempt: %w", ctx.Err(), err)
		case <-time.After(attemptPause):
		}
	}
}

// again does f, which may be repeated, until it goes well or ctx ends. Each time
// has a limit: an answer does not come when the address has moved meanwhile.
func again(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	for {
		once, cancel := context.WithTimeout(ctx, qemu.Deadline(limit))
		err := f(once)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(attemptPause):
		}
	}
}

// forget deletes the plan scripts whose names begin so.
func (s *Site) forget(ctx context.Context, name string) error {
	var page struct {
		Members []struct{ Name, URI string }
	}
	if err := s.REST.Get(ctx, "/rest/plan-scripts", &page); err != nil {
		return err
	}
	for _, m := range page.Members {
		if strings.HasPrefix(m.Name, name) {
			if err := s.REST.Do(ctx, "DELETE", m.URI, nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
