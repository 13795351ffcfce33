package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestStorageWaitsForRESTButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		behind(t.Context(), make(chan struct{}), restFirst)
		if got := time.Since(start); got != restFirst {
			t.Errorf("without REST it waited %v, want %v", got, restFirst)
		}
		answering := make(chan struct{})
		close(answering)
		start = time.Now()
		behind(t.Context(), answering, restFirst)
		ended, end := context.WithCancel(t.Context())
		end()
		behind(ended, make(chan struct{}), restFirst)
		if got := time.Since(start); got != 0 {
			t.Errorf("with REST, and at the end, it waited %v", got)
		}
	})
}

// On an ordinary host the daemon serves management; it comes up, ends with its
// context, and what it stored is there again.
func TestDaemonOnAnOrdinaryHostStartsAndEnds(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	root := t.TempDir() // a machine that says nothing of itself
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		c := &console{ready: make(chan struct{})}
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, Config{State: state, Root: root, Listen: "127.0.0.1:0", Version: "test", Log: slog.New(slog.DiscardHandler), Console: c.line})
		}()
		select {
		case <-c.ready:
		case err := <-done:
			t.Fatalf("Run = %v before it was ready", err)
		}
		if c.code == "" {
			t.Error("no setup code on the console")
		}
		cancel()
		if err := <-done; err != nil && err != http.ErrServerClosed {
			t.Errorf("Run = %v", err)
		}
	}
}

// console takes the lines for whoever stands there.
type console struct {
	once  sync.Once
	ready chan struct{}
	code  string
}

func (c *console) line(format string, args ...any) {
	if format == "setup code %s" {
		c.code = fmt.Sprint(args...)
	}
	if format == "REST ready https://%s" {
		c.once.Do(func() { close(c.ready) })
	}
}
