package task

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
)

// Two engines on one domain state. The first is stopped at each point of each
// step and the second takes over; then the first wakes up again as a ghost that
// does not know yet, and goes on.
func TestTakenOverTaskEndsOnce(t *testing.T) {
	node, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	store := cluster.NewStore(node.Client()).Tasks
	for step := range 3 {
		for _, point := range []string{"before its effect", "after its effect", "failing"} {
			t.Run(fmt.Sprintf("step %d, %s", step+1, point), func(t *testing.T) {
				takeover(t, store, step, point)
			})
		}
	}
}

func takeover(t *testing.T, store Store, at int, point string) {
	var mu sync.Mutex
	made := map[string][]string{} // by step: who carried it out to its end
	undone := 0
	reached, wake := make(chan struct{}), make(chan struct{})
	kind := func(who string) Kind {
		k := Kind{Name: "deploy", Undo: func(context.Context, *Run, error) error {
			mu.Lock()
			defer mu.Unlock()
			undone++
			return nil
		}}
		for i := range 3 {
			name := fmt.Sprint("step ", i+1)
			k.Steps = append(k.Steps, Step{Name: name, Do: func(ctx context.Context, r *Run) error {
				stop := func(here string) error {
					if who != "first" || i != at || here != point {
						return nil
					}
					close(reached)
					<-wake // the ghost has slept and knows nothing of it
					if point == "failing" {
						return errors.New("the disk is gone")
					}
					return nil
				}
				if err := errors.Join(stop("failing"), stop("before its effect")); err != nil {
					return err
				}
				if who == "first" && i > at {
					t.Errorf("the ghost began %s", name)
				}
				if err := r.Set(ctx, name, who); err != nil {
					return err
				}
				mu.Lock()
				made[name] = append(made[name], who)
				mu.Unlock()
				return stop("after its effect")
			}})
		}
		return k
	}
	run := func(who string, epoch uint64) (e *Engine, end func()) {
		e = New(store, quiet())
		e.Register(kind(who))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := e.RunAs(ctx, epoch); err != nil {
				t.Error(err)
			}
		})
		return e, func() { cancel(); wg.Wait() }
	}

	first, endFirst := run("first", 7)
	task, err := first.Submit(t.Context(), Request{Kind: "deploy", Name: "Deploy", Lock: "volume"})
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	_, endSecond := run("second", 8)
	defer endSecond()
	waitEnd(t, store, task.ID)
	close(wake)
	for idle := false; !idle; time.Sleep(time.Millisecond) { // the ghost does what it will before it is ended
		first.mu.Lock()
		idle = !first.running[task.ID]
		first.mu.Unlock()
	}
	endFirst()

	got, err := store.Get(t.Context(), task.ID)
	if err != nil || got.TaskState != domain.TaskCompleted || undone != 0 || len(got.TaskErrors) != 0 {
		t.Errorf("task ended %s %v, undone %d times, %v; want Completed, never undone", got.TaskState, got.TaskErrors, undone, err)
	}
	for i := range 3 {
		name := fmt.Sprint("step ", i+1)
		want := "second"
		switch {
		case i < at:
			want = "first"
		case i == at && point == "after its effect":
			want = "first,second" // repeated, as steps may be
		}
		if have := strings.Join(made[name], ","); have != want || got.Data[name] != want[strings.LastIndex(want, ",")+1:] {
			t.Errorf("%s was carried out by %s and recorded for %s, want %s", name, have, got.Data[name], want)
		}
	}
}

func waitEnd(t *testing.T, store Store, id string) {
	t.Helper()
	w, ok := store.(interface {
		Watch(context.Context) <-chan struct{}
	})
	if !ok {
		t.Fatal("this store cannot be watched")
	}
	for range w.Watch(t.Context()) {
		task, err := store.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if task.Ended() {
			return
		}
	}
}
