package pair

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Attempts to write begin so often and last so long: one that began before a
// takeover waits for a machine that is dead, so others must not wait for it.
const (
	attemptEach = 100 * time.Millisecond
	attemptTime = 2 * time.Second
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
	type result struct {
		at  time.Duration
		err error
	}
	results := make(chan result)
	trying, stop := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	end := sync.OnceFunc(func() {
		stop()
		go func() { attempts.Wait(); close(results) }()
		for range results { // attempts that came too late
		}
	})
	defer end()
	next := time.NewTicker(attemptEach)
	defer next.Stop()
	var last error
	for n := 0; ; n++ {
		attempts.Go(func() {
			one, cancel := context.WithTimeout(trying, attemptTime)
			defer cancel()
			_, err := s.create(one, fmt.Sprintf("%s %d", name, n))
			results <- result{time.Since(began), err}
		})
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return 0, fmt.Errorf("no write was accepted: %w; the last attempt: %w", ctx.Err(), last)
			case r := <-results:
				if r.err == nil {
					end()
					return r.at, s.forget(ctx, name)
				}
				last = r.err
			case <-next.C:
				waiting = false
			}
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
