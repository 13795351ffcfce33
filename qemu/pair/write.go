package pair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"baystream/qemu"
)

// How long one attempt to write may take, and the pause after one that failed:
// short against what is measured.
const (
	attempt = 500 * time.Millisecond
	pause   = 20 * time.Millisecond
)

// Write creates a resource of that name at the service address, a plan script,
// and deletes it again.
func (s *Site) Write(ctx context.Context, name string) error {
	uri, err := s.create(ctx, name)
	if err != nil {
		return err
	}
	return s.REST.Do(ctx, "DELETE", uri, nil, nil)
}

func (s *Site) create(ctx context.Context, name string) (uri string, err error) {
	var out struct {
		URI string `json:"uri"`
	}
	err = s.REST.Do(ctx, "POST", "/rest/plan-scripts", map[string]any{"type": "PlanScript", "name": name, "planType": "deploy", "content": "# nothing\n"}, &out)
	return out.URI, err
}

// FirstWrite tries to write at the service address until it is accepted, and
// returns how long after began that was. What it wrote is deleted again.
func (s *Site) FirstWrite(ctx context.Context, name string, began time.Time) (time.Duration, error) {
	for {
		one, cancel := context.WithTimeout(ctx, qemu.Deadline(attempt))
		uri, err := s.create(one, name)
		cancel()
		var refused *qemu.RESTError
		if errors.As(err, &refused) && refused.Code == "DUPLICATE_NAME" || errors.As(err, &refused) && refused.Status == 409 {
			// An attempt whose answer was lost was the first.
			return time.Since(began), s.forget(ctx, name)
		}
		if err == nil {
			took := time.Since(began)
			return took, s.REST.Do(ctx, "DELETE", uri, nil, nil)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no write was accepted: %w; the last attempt: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// forget deletes the plan script of that name.
func (s *Site) forget(ctx context.Context, name string) error {
	var page struct {
		Members []struct{ Name, URI string }
	}
	if err := s.REST.Get(ctx, "/rest/plan-scripts", &page); err != nil {
		return err
	}
	for _, m := range page.Members {
		if m.Name == name {
			return s.REST.Do(ctx, "DELETE", m.URI, nil, nil)
		}
	}
	return nil
}
