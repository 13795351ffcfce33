package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// takeDown runs the Down commands of the services, in reverse order, each to
// its end or its limit. It is for the end of the machine alone, when all
// services have stopped: what a service keeps running in the kernel goes on
// while the service itself is restarted.
func (s *supervisor) takeDown(ctx context.Context) {
	for _, u := range slices.Backward(s.units) { // the list never changes
		if len(u.spec.Down) == 0 {
			continue
		}
		limit := seconds(u.spec.DownTimeoutSec, time.Minute)
		err := s.runToEnd(ctx, Service{Name: u.spec.Name + "-down", Exec: u.spec.Down, Env: u.spec.Env}, limit)
		if err != nil {
			s.log.Error("shutdown goes on", "service", u.spec.Name, "err", err)
		}
	}
}

// runToEnd starts a program as a service is started and waits for its end. One
// that takes longer than limit is killed.
func (s *supervisor) runToEnd(ctx context.Context, svc Service, limit time.Duration) error {
	ended := make(chan child, 1)
	var pid int
	var spawnErr error
	if err := s.call(ctx, func() {
		if pid, spawnErr = s.host.spawn(svc, nil); spawnErr == nil {
			s.others[pid] = ended
		}
	}); err != nil || spawnErr != nil {
		return fmt.Errorf("%s: %w", svc.Name, firstOf(err, spawnErr))
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case c := <-ended:
		if c.status.ExitStatus() != 0 {
			return fmt.Errorf("%s: %s", svc.Name, describeExit(c.status))
		}
		return nil
	case <-t.C:
		_ = s.call(ctx, func() { s.host.killAll(svc, pid) })
		return fmt.Errorf("%s: no end within %v: killed", svc.Name, limit)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", svc.Name, ctx.Err())
	}
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
