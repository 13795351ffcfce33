package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDownCommandsRunWhenAllServicesHaveStopped(t *testing.T) {
	services := []Service{
		{Name: "a", Down: []string{"/a", "-down"}},
		{Name: "b"},
		{Name: "c", Down: []string{"/c", "-down"}, DownTimeoutSec: 5},
	}
	got := inBubble(t, services, func(ctx context.Context, s *supervisor, h *fakeHost) {
		if err := s.restart(ctx, "a"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if err := s.shutdown(ctx); err != nil {
			t.Error(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); s.takeDown(ctx) }()
		time.Sleep(10 * time.Second) // that of c hangs and is killed
		_ = s.call(ctx, func() { h.die(6) })
		synctest.Wait()
		<-done
	})
	want := []string{
		"0 spawn a 1", "0 spawn b 2", "0 spawn c 3",
		"0 terminated 1", "0 spawn a 4",
		"1 terminated 3", "1 terminated 2", "1 terminated 4",
		"1 spawn c-down 5", "6 killed 5", "6 spawn a-down 6",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
