package fence

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A Desk holds the fence handlers that wait for an answer, by the name of the
// resource. It is safe for concurrent use; the zero value will not do.
type Desk struct {
	mu      sync.Mutex
	last    uint64 // number of the last ask
	waiting map[string][]*caller
	expect  map[string]bool // answers to asks that a step of our own brings about
	wake    func()
}

type caller struct {
	number uint64
	answer chan bool // buffered by one
}

// NewDesk makes a desk. wake is called when somebody has come to it.
func NewDesk(wake func()) *Desk {
	return &Desk{waiting: map[string][]*caller{}, expect: map[string]bool{}, wake: wake}
}

// Serve listens at socket until ctx ends. Handlers that wait then ask whoever
// listens there next.
func (d *Desk) Serve(ctx context.Context, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fence: %w", err)
		}
		all.Go(func() { d.attend(ctx, conn) })
	}
}

func (d *Desk) attend(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	gone := make(chan struct{})
	go func() { // a handler says nothing more: this ends when it does
		_, _ = conn.Read(make([]byte, 1))
		close(gone)
	}()
	won, ok := d.Wait(ctx, strings.TrimSpace(line), gone)
	if !ok {
		return
	}
	word := "lost"
	if won {
		word = "won"
	}
	fmt.Fprintln(conn, word)
}

// Wait asks for resource until it is answered; ok is false when ctx or gone
// came first.
func (d *Desk) Wait(ctx context.Context, resource string, gone <-chan struct{}) (won, ok bool) {
	d.mu.Lock()
	if won, ok := d.expect[resource]; ok {
		d.mu.Unlock()
		return won, true
	}
	d.last++
	a := &caller{number: d.last, answer: make(chan bool, 1)}
	d.waiting[resource] = append(d.waiting[resource], a)
	d.mu.Unlock()
	d.wake()
	select {
	case won := <-a.answer:
		return won, true
	case <-gone:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(resource, func(o *caller) bool { return o == a })
	return false, false
}

// Last is the number of the last ask of any resource: what a decision that is
// made now may answer.
func (d *Desk) Last() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// Asking says whether a handler waits for resource.
func (d *Desk) Asking(resource string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.waiting[resource]) > 0
}

// Answer answers those that came for resource up to the ask of that number.
func (d *Desk) Answer(resource string, upTo uint64, won bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(resource, func(a *caller) bool {
		if a.number > upTo {
			return false
		}
		a.answer <- won
		return true
	})
}

func (d *Desk) drop(resource string, which func(*caller) bool) {
	var stay []*caller
	for _, a := range d.waiting[resource] {
		if !which(a) {
			stay = append(stay, a)
		}
	}
	if d.waiting[resource] = stay; len(stay) == 0 {
		delete(d.waiting, resource)
	}
}

// Expect answers whoever comes for resource until the returned function is
// called: a promotion asks, and waits for, the handler itself.
func (d *Desk) Expect(resource string, won bool) (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expect[resource] = won
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.expect, resource)
	}
}
