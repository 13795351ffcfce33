package task

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"baystream/daemon/domain"
)

// memory is a Store that behaves like the real one: records are copies.
type memory struct {
	mu  sync.Mutex
	all map[string]domain.Task
	seq int
}

func newMemory() *memory { return &memory{all: map[string]domain.Task{}} }

func (m *memory) Create(_ context.Context, t domain.Task) (domain.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	t.Created = domain.Stamp(time.Unix(int64(m.seq), 0))
	m.all[t.ID] = t
	return t, nil
}

func (m *memory) Get(_ context.Context, id string) (domain.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.all[id]
	if !ok {
		return t, domain.Errorf(domain.NotFound, id, "no such task")
	}
	return t, nil
}

func (m *memory) Update(ctx context.Context, id string, change func(*domain.Task) error) (domain.Task, error) {
	if ctx.Err() != nil {
		return domain.Task{}, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.all[id]
	if err := change(&t); err != nil {
		return t, err
	}
	m.all[id] = t
	return t, nil
}

func (m *memory) List(context.Context) ([]domain.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []domain.Task
	for _, t := range m.all {
		out = append(out, t)
	}
	return out, nil
}

func (m *memory) Delete(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, id)
	return nil
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// inEngine runs test inside a time bubble with a running engine.
func inEngine(t *testing.T, store *memory, kinds []Kind, test func(ctx context.Context, e *Engine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		e := New(store, quiet())
		for _, k := range kinds {
			e.Register(k)
		}
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		test(ctx, e)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestTaskRunsItsStepsInOrderAndEndsComplete(t *testing.T) {
	store := newMemory()
	var ran []string
	step := func(name string) Step {
		return Step{name, func(ctx context.Context, r *Run) error {
			ran = append(ran, name+r.Data("in"))
			return r.Set(ctx, "in", "+"+name)
		}}
	}
	inEngine(t, store, []Kind{{Name: "k", Steps: []Step{step("a"), step("b")}}}, func(ctx context.Context, e *Engine) {
		task, err := e.Submit(ctx, Request{Kind: "k", Name: "Work"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got, _ := store.Get(ctx, task.ID)
		if got.TaskState != domain.TaskCompleted || got.PercentComplete != 100 || got.CompletedSteps != 2 {
			t.Errorf("task = %s %d%% %d steps, want Completed 100%% 2", got.TaskState, got.PercentComplete, got.CompletedSteps)
		}
	})
	if got := strings.Join(ran, " "); got != "a b+a" {
		t.Errorf("ran %q, want %q", got, "a b+a")
	}
}

func TestTaskResumesAtTheStepThatWasInterrupted(t *testing.T) {
	store := newMemory()
	var first, second int
	block := true
	kinds := []Kind{{Name: "k", Steps: []Step{
		{"one", func(context.Context, *Run) error { first++; return nil }},
		{"two", func(ctx context.Context, _ *Run) error {
			second++
			if block {
				<-ctx.Done() // the process dies here
				return ctx.Err()
			}
			return nil
		}},
	}}}
	var id string
	inEngine(t, store, kinds, func(ctx context.Context, e *Engine) {
		task, _ := e.Submit(ctx, Request{Kind: "k", Name: "Work"})
		id = task.ID
		synctest.Wait()
	})
	if got := store.all[id].TaskState; got != domain.TaskRunning {
		t.Fatalf("after the end of the first engine the task is %s, want Running", got)
	}
	block = false
	inEngine(t, store, kinds, func(context.Context, *Engine) { synctest.Wait() })
	if got := store.all[id].TaskState; got != domain.TaskCompleted || first != 1 || second != 2 {
		t.Errorf("task %s, step one ran %d times, step two %d; want Completed, 1, 2", got, first, second)
	}
}

func TestFailedTaskIsUndoneOnceAndSaysWhatToDo(t *testing.T) {
	store := newMemory()
	undone := 0
	k := Kind{Name: "k",
		Steps: []Step{{"mount", func(context.Context, *Run) error {
			return domain.Errorf(domain.Invalid, "script x line 3", "no such file").Fix("correct the script")
		}}},
		Undo: func(_ context.Context, _ *Run, cause error) error {
			undone++
			return errors.New("busy")
		}}
	inEngine(t, store, []Kind{k}, func(ctx context.Context, e *Engine) {
		task, _ := e.Submit(ctx, Request{Kind: "k", Name: "Work"})
		synctest.Wait()
		got, _ := store.Get(ctx, task.ID)
		if got.TaskState != domain.TaskFailed || undone != 1 {
			t.Errorf("task %s, undone %d times; want Error, 1", got.TaskState, undone)
		}
		te := got.TaskErrors[0]
		for _, want := range []string{"mount: script x line 3: no such file", "clean-up: busy"} {
			if !strings.Contains(te.Message, want) {
				t.Errorf("message %q lacks %q", te.Message, want)
			}
		}
		if len(te.RecommendedActions) != 1 || te.RecommendedActions[0] != "correct the script" {
			t.Errorf("actions = %q", te.RecommendedActions)
		}
	})
}

func TestPanicEndsTheTaskNotTheEngine(t *testing.T) {
	store := newMemory()
	k := Kind{Name: "k", Steps: []Step{{"s", func(context.Context, *Run) error { panic("bug") }}}}
	inEngine(t, store, []Kind{k}, func(ctx context.Context, e *Engine) {
		task, _ := e.Submit(ctx, Request{Kind: "k", Name: "Work"})
		synctest.Wait()
		if got, _ := store.Get(ctx, task.ID); got.TaskState != domain.TaskFailed || !strings.Contains(got.TaskStatus, "panic: bug") {
			t.Errorf("task = %s %q, want Error with the panic", got.TaskState, got.TaskStatus)
		}
	})
}

func TestTasksWithOneLockRunOneAfterTheOther(t *testing.T) {
	store := newMemory()
	var mu sync.Mutex
	now, most := 0, 0
	k := Kind{Name: "k", Steps: []Step{{"s", func(context.Context, *Run) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		time.Sleep(time.Second)
		mu.Lock()
		now--
		mu.Unlock()
		return nil
	}}}}
	inEngine(t, store, []Kind{k}, func(ctx context.Context, e *Engine) {
		for range 3 {
			if _, err := e.Submit(ctx, Request{Kind: "k", Name: "Work", Lock: "profile 1"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, task := range store.all {
			if task.TaskState != domain.TaskCompleted {
				t.Errorf("task %s is %s, want Completed", task.ID, task.TaskState)
			}
		}
	})
	if most != 1 {
		t.Errorf("%d tasks with one lock ran at once, want 1", most)
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		step, steps int
		done, total int64
		want        int
	}{{0, 4, 0, 1, 0}, {1, 4, 1, 2, 37}, {3, 4, 10, 10, 99}, {3, 4, 20, 10, 99}, {4, 4, 0, 1, 100}, {0, 0, 0, 1, 100}} {
		if got := percent(c.step, c.steps, c.done, c.total); got != c.want {
			t.Errorf("percent(%d, %d, %d, %d) = %d, want %d", c.step, c.steps, c.done, c.total, got, c.want)
		}
	}
}

func TestLinesOfALongStepAreReadWhileItRuns(t *testing.T) {
	store := newMemory()
	step := Step{"long", func(ctx context.Context, r *Run) error {
		for range 100 {
			r.Logf("installing")
		}
		r.Logf("rebooting")
		time.Sleep(time.Hour)
		return nil
	}}
	inEngine(t, store, []Kind{{Name: "k", Steps: []Step{step}}}, func(ctx context.Context, e *Engine) {
		task, err := e.Submit(ctx, Request{Kind: "k", Name: "Work"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * minInterval)
		synctest.Wait()
		got, _ := store.Get(ctx, task.ID)
		last := got.ProgressUpdates[len(got.ProgressUpdates)-1]
		if got.Ended() || last.StatusUpdate != "rebooting" {
			t.Errorf("running task = %s, last line %q, want rebooting", got.TaskState, last.StatusUpdate)
		}
	})
}
