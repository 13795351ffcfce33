// Package task runs long work that survives its process.
//
// A kind of task is a list of named steps; a task is a record (domain.Task) of
// one run of it. The record in the store is the truth: it says which step is
// next and carries the data that the steps hand on, so an engine that starts
// after a crash goes on with the step that was interrupted. Steps must
// therefore be safe to repeat. When a step fails, the kind's Undo runs once
// and the task ends in Error with what a person can do about it.
//
// Tasks with the same Lock never run at the same time. One Engine runs on the
// active appliance, in the epoch of its term (RunAs): it owns a task from its
// first write to the record on, and an engine of an earlier epoch that still
// runs finds the record taken, leaves the task as it is and undoes nothing.
// Everything here is safe for concurrent use.
package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"sort"
	"strconv"
	"sync"
	"time"

	"baystream/daemon/domain"
)

// Store keeps task records. Update applies change to the current record.
type Store interface {
	Create(ctx context.Context, t domain.Task) (domain.Task, error)
	Get(ctx context.Context, id string) (domain.Task, error)
	Update(ctx context.Context, id string, change func(*domain.Task) error) (domain.Task, error)
	List(ctx context.Context) ([]domain.Task, error)
	Delete(ctx context.Context, id string) error
}

// Step is one part of a kind of task. Do must be safe to repeat.
type Step struct {
	Name string
	Do   func(ctx context.Context, r *Run) error
}

// Kind is a sort of long work.
type Kind struct {
	Name  string // unique, stored with each task
	Steps []Step
	// Undo removes what a failed task left half-made. It may be nil, must be
	// safe to repeat, and its error is logged and added to the task.
	Undo func(ctx context.Context, r *Run, cause error) error
}

// Delete is the name of every task that deletes its associated resource: HPE's
// Python client knows by exactly this word that there is nothing to get after.
const Delete = "Delete"

// Request asks for one run of a kind.
type Request struct {
	Kind       string
	Name       string // for people, such as "Deploy"; see Delete
	Owner      string // user name
	Associated domain.AssociatedResource
	Lock       string            // tasks with the same lock run one after the other; empty: free
	Data       map[string]string // handed to the steps; stored, never secrets
}

const (
	dataKind  = "baystream.kind"
	dataLock  = "baystream.lock"
	dataEpoch = "baystream.epoch" // of the engine that owns the task

	maxUpdates  = 200             // log lines kept in a record
	minInterval = time.Second / 2 // between progress writes of one task
	keepEnded   = 500             // ended tasks kept in the store
	parallel    = 4               // tasks running at once
)

// Engine runs tasks.
type Engine struct {
	store Store
	log   *slog.Logger
	now   func() time.Time

	kinds map[string]Kind
	wake  chan struct{}

	mu      sync.Mutex
	epoch   uint64
	running map[string]bool // by task id
	locks   map[string]bool
}

// New makes an engine over store. Register the kinds before Run.
func New(store Store, log *slog.Logger) *Engine {
	return &Engine{
		store: store, log: log, now: time.Now,
		kinds: map[string]Kind{}, wake: make(chan struct{}, 1),
		running: map[string]bool{}, locks: map[string]bool{},
	}
}

// Register adds a kind; a second one of the same name is a bug and panics.
func (e *Engine) Register(k Kind) {
	if _, dup := e.kinds[k.Name]; dup {
		panic("task: kind " + k.Name + " registered twice")
	}
	e.kinds[k.Name] = k
}

// Submit stores a task and returns its record; Run carries it out.
func (e *Engine) Submit(ctx context.Context, req Request) (domain.Task, error) {
	k, ok := e.kinds[req.Kind]
	if !ok {
		return domain.Task{}, fmt.Errorf("task: no kind %q", req.Kind)
	}
	data := map[string]string{dataKind: req.Kind, dataLock: req.Lock}
	for key, v := range req.Data {
		data[key] = v
	}
	t := domain.Task{
		Resource:           domain.Resource{Name: req.Name, Status: domain.StatusOK},
		AssociatedResource: req.Associated,
		TotalSteps:         len(k.Steps),
		Owner:              req.Owner,
		ProgressUpdates:    []domain.ProgressUpdate{},
		TaskErrors:         []domain.TaskError{},
		TaskOutput:         []string{},
		TaskState:          domain.TaskNew,
		TaskStatus:         "Accepted",
		TaskType:           "User",
		UserInitiated:      true,
		Data:               data,
	}
	if t.AssociatedResource.AssociationType == "" {
		t.AssociatedResource.AssociationType = "MANAGED_BY"
	}
	t.SetID(domain.NewID())
	t, err := e.store.Create(ctx, t)
	if err != nil {
		return domain.Task{}, fmt.Errorf("task %s: %w", req.Name, err)
	}
	e.kick()
	return t, nil
}

func (e *Engine) kick() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// RunAs is Run in an epoch, which is greater than that of any engine that ran
// before. Run is in none, for an appliance that is always alone.
func (e *Engine) RunAs(ctx context.Context, epoch uint64) error {
	e.mu.Lock()
	e.epoch = epoch
	e.mu.Unlock()
	return e.Run(ctx)
}

func (e *Engine) epochNow() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.epoch
}

// Run carries tasks out until ctx ends, beginning with those that an earlier
// process left unfinished. A task interrupted by the end of ctx stays in the
// store and goes on in the next Run.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	retry := time.NewTicker(30 * time.Second)
	defer retry.Stop()
	for {
		if err := e.start(ctx, &wg); err != nil && ctx.Err() == nil {
			e.log.Warn("start tasks", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-retry.C:
		}
	}
}

// start launches every task that may run now.
func (e *Engine) start(ctx context.Context, wg *sync.WaitGroup) error {
	all, err := e.store.List(ctx)
	if err != nil {
		return err
	}
	open, ended := split(all)
	for _, t := range open {
		if !e.claim(t) {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer e.kick() // another task may have waited for this one's lock
			defer e.release(t)
			e.run(ctx, t)
		}()
	}
	for _, t := range ended[:max(0, len(ended)-keepEnded)] {
		if err := e.store.Delete(ctx, t.ID); err != nil {
			return err
		}
	}
	return nil
}

// split parts unfinished from ended tasks, each oldest first.
func split(all []domain.Task) (open, ended []domain.Task) {
	sort.SliceStable(all, func(i, j int) bool { return all[i].Created < all[j].Created })
	for _, t := range all {
		if t.Ended() {
			ended = append(ended, t)
		} else {
			open = append(open, t)
		}
	}
	return open, ended
}

func (e *Engine) claim(t domain.Task) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	lock := t.Data[dataLock]
	if e.running[t.ID] || len(e.running) >= parallel || (lock != "" && e.locks[lock]) {
		return false
	}
	e.running[t.ID] = true
	if lock != "" {
		e.locks[lock] = true
	}
	return true
}

func (e *Engine) release(t domain.Task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, t.ID)
	delete(e.locks, t.Data[dataLock])
}

// run carries out one task from its next step on.
func (e *Engine) run(ctx context.Context, t domain.Task) {
	log := e.log.With("task", t.ID, "name", t.Name, "resource", t.AssociatedResource.ResourceName)
	// A record may have ended between the listing and the claim.
	t, err := e.store.Get(ctx, t.ID)
	if err != nil || t.Ended() {
		return
	}
	k, ok := e.kinds[t.Data[dataKind]]
	r := &Run{engine: e, task: t, log: log, epoch: e.epochNow(), noted: make(chan struct{}, 1)}
	defer r.publishing(ctx)()
	if !ok {
		r.end(ctx, domain.TaskFailed, domain.Errorf(domain.Internal, t.Name, "this version does not know tasks of kind %q", t.Data[dataKind]))
		return
	}
	if t.TaskState == domain.TaskRunning {
		r.Logf("resumed at step %d of %d", t.CompletedSteps+1, t.TotalSteps)
	}
	for i := t.CompletedSteps; i < len(k.Steps); i++ {
		if err = r.begin(ctx, i, k.Steps[i].Name); err == nil {
			err = protect(func() error { return k.Steps[i].Do(ctx, r) })
		}
		if ctx.Err() != nil || errors.Is(err, domain.ErrDeposed) {
			return // stays Running: the next Run, here or elsewhere, resumes it
		}
		if err != nil {
			e.fail(ctx, k, r, fmt.Errorf("%s: %w", k.Steps[i].Name, err))
			return
		}
	}
	r.end(ctx, domain.TaskCompleted, nil)
	log.Info("task completed")
}

func (e *Engine) fail(ctx context.Context, k Kind, r *Run, cause error) {
	r.log.Warn("task failed", "err", cause)
	if k.Undo != nil {
		if err := r.write(ctx); errors.Is(err, domain.ErrDeposed) {
			return // whoever has it now will see for themselves
		}
		if err := protect(func() error { return k.Undo(ctx, r, cause) }); err != nil {
			r.log.Error("task not undone", "err", err)
			cause = errors.Join(cause, fmt.Errorf("clean-up: %w", err))
		}
	}
	if ctx.Err() == nil {
		r.end(ctx, domain.TaskFailed, cause)
	}
}

// protect turns a panic into an error: one task's bug must not end the daemon.
func protect(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return do()
}

// Run is one task being carried out; steps talk to the record through it.
type Run struct {
	engine *Engine
	log    *slog.Logger
	epoch  uint64 // of the engine's term

	noted chan struct{} // somebody called Logf; buffered by one

	mu      sync.Mutex
	task    domain.Task // what the record should be
	written time.Time
	dirty   bool // lines are in task that the record does not have yet
}

// ID returns the task's id.
func (r *Run) ID() string { return r.task.ID }

// Owner returns the name of the user who asked for the task.
func (r *Run) Owner() string { return r.task.Owner }

// Data returns what an earlier step or the request stored under key.
func (r *Run) Data(key string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.task.Data[key]
}

// Set stores value under key before it returns, so that a resumed step finds
// it.
func (r *Run) Set(ctx context.Context, key, value string) error {
	r.mu.Lock()
	data := make(map[string]string, len(r.task.Data)+1)
	for k, v := range r.task.Data {
		data[k] = v
	}
	data[key] = value
	r.task.Data = data
	r.mu.Unlock()
	return r.write(ctx)
}

// Logf adds a line to the task's log. The record has it with the next change,
// and half a second later at the latest, also while the step goes on.
func (r *Run) Logf(format string, args ...any) {
	r.mu.Lock()
	r.logf(format, args...)
	r.mu.Unlock()
	select {
	case r.noted <- struct{}{}:
	default:
	}
}

// publishing writes what Logf notes, at most once in minInterval, until the
// function that it returns is called or ctx ends.
func (r *Run) publishing(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.noted:
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(minInterval): // for lines that come together
			}
			if err := r.publish(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("task log", "err", err)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// publish writes the record if it lacks a line.
func (r *Run) publish(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.dirty {
		return nil
	}
	return r.writeLocked(ctx)
}

func (r *Run) logf(format string, args ...any) {
	ups := r.task.ProgressUpdates
	id := 1
	if len(ups) > 0 {
		id = ups[len(ups)-1].ID + 1
	}
	ups = append(ups, domain.ProgressUpdate{ID: id, StatusUpdate: fmt.Sprintf(format, args...), Timestamp: domain.Stamp(r.engine.now())})
	r.task.ProgressUpdates = ups[max(0, len(ups)-maxUpdates):]
	r.dirty = true
}

// Progress says how much of the present step is done, as done of total in any
// unit. It writes at most twice a second.
func (r *Run) Progress(ctx context.Context, done, total int64) {
	if total <= 0 {
		return
	}
	r.mu.Lock()
	p := percent(r.task.CompletedSteps, r.task.TotalSteps, done, total)
	skip := p == r.task.PercentComplete || r.engine.now().Sub(r.written) < minInterval
	if !skip {
		r.task.PercentComplete, r.task.ComputedPercentComplete = p, p
	}
	r.mu.Unlock()
	if skip {
		return
	}
	if err := r.write(ctx); err != nil && ctx.Err() == nil {
		r.log.Warn("task progress", "err", err)
	}
}

// percent of a task with a number of equal steps; 100 only when all are done.
func percent(step, steps int, done, total int64) int {
	if steps == 0 {
		return 100
	}
	p := (float64(step) + min(1, float64(done)/float64(total))) * 100 / float64(steps)
	if step < steps {
		p = min(p, 99)
	}
	return int(p)
}

func (r *Run) begin(ctx context.Context, step int, name string) error {
	r.mu.Lock()
	r.task.TaskState, r.task.TaskStatus = domain.TaskRunning, name
	r.task.CompletedSteps = step
	p := percent(step, r.task.TotalSteps, 0, 1)
	r.task.PercentComplete, r.task.ComputedPercentComplete = p, p
	r.logf("step %d of %d: %s", step+1, r.task.TotalSteps, name)
	r.mu.Unlock()
	return r.write(ctx)
}

func (r *Run) end(ctx context.Context, state string, cause error) {
	r.mu.Lock()
	r.task.TaskState = state
	if cause == nil {
		r.task.TaskStatus = "Completed"
		r.task.CompletedSteps = r.task.TotalSteps
		r.task.PercentComplete, r.task.ComputedPercentComplete = 100, 100
	} else {
		te := domain.Explain(cause)
		r.task.Status = domain.StatusCritical
		r.task.TaskStatus, r.task.StateReason = te.Message, te.ErrorCode
		r.task.TaskErrors = []domain.TaskError{te}
		r.logf("failed: %s", te.Message)
	}
	r.mu.Unlock()
	if err := r.write(ctx); err != nil && ctx.Err() == nil {
		r.log.Error("task end", "state", state, "err", err)
	}
}

func (r *Run) write(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writeLocked(ctx)
}

func (r *Run) writeLocked(ctx context.Context) error {
	want := r.task
	got, err := r.engine.store.Update(ctx, want.ID, func(t *domain.Task) error {
		if owner := epochOf(*t); owner > r.epoch {
			return fmt.Errorf("epoch %d, taken over in epoch %d: this appliance %w", r.epoch, owner, domain.ErrDeposed)
		}
		meta := t.Resource // the store's: eTag, created, modified
		*t = want
		if r.epoch > 0 {
			t.Data = maps.Clone(want.Data)
			t.Data[dataEpoch] = strconv.FormatUint(r.epoch, 10)
		}
		t.ETag, t.Created, t.Modified = meta.ETag, meta.Created, meta.Modified
		return nil
	})
	if err != nil {
		return fmt.Errorf("task %s: %w", want.ID, err)
	}
	r.task, r.written, r.dirty = got, r.engine.now(), false
	return nil
}

// epochOf is the epoch of the engine that owns the task, 0 if none does.
func epochOf(t domain.Task) uint64 {
	n, err := strconv.ParseUint(t.Data[dataEpoch], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
