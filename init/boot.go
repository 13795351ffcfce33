package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// step is one thing to do at boot. Its place in the list is part of the design.
type step struct {
	name string
	do   func(context.Context) error
	// optional: the module can live without it. A needed step that fails is
	// shown on the console and tried again for ever, while the boot goes on:
	// whatever can live helps to find out what is wrong.
	optional bool
	// beside: the boot does not wait for it, and it is not needed.
	beside bool
	limit  time.Duration // how long it may take; 0 means stepLimit
	remedy string        // what an operator can do when it fails
}

func (s step) whatToDo() string {
	if s.remedy == "" {
		return "check the image and the kernel's messages"
	}
	return s.remedy
}

// stepLimit leaves room for an emulated machine on a busy host.
const stepLimit = 30 * time.Second

// StepStatus is a boot step as the control socket shows it.
type StepStatus struct {
	Name     string  `json:"name"`
	Optional bool    `json:"optional,omitempty"`
	BegunAt  float64 `json:"begun_at"` // seconds since the kernel's start
	Seconds  float64 `json:"seconds"`
	Running  bool    `json:"running,omitempty"`
	Remedy   string  `json:"remedy,omitempty"` // if it failed
	Error    string  `json:"error,omitempty"`
}

// bootLog is what became of the boot steps.
type bootLog struct {
	mu    sync.Mutex
	steps []StepStatus
}

func (b *bootLog) add(st StepStatus) (place int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.steps = append(b.steps, st)
	return len(b.steps) - 1
}

func (b *bootLog) set(place int, st StepStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.steps[place] = st
}

func (b *bootLog) list() []StepStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]StepStatus(nil), b.steps...)
}

// attempt is one run of a step. A step that misses its limit is left behind,
// running; it must not be started a second time beside itself.
type attempt struct {
	done chan struct{}
	err  error // after done
}

func start(ctx context.Context, s step) *attempt {
	a := &attempt{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		a.err = s.do(ctx)
	}()
	return a
}

var errLate = errors.New("no end in time")

// wait waits for the end of an attempt, or for limit.
func (a *attempt) wait(limit time.Duration) error {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-a.done:
		return a.err
	case <-t.C:
		return fmt.Errorf("%w (%v)", errLate, limit)
	}
}

// runSteps does the steps in order and returns the failed needed ones.
func runSteps(ctx context.Context, log *slog.Logger, report *bootLog, steps []step) []failedStep {
	var failed []failedStep
	for _, s := range steps {
		place := report.add(StepStatus{Name: s.name, Optional: s.optional, BegunAt: uptime().Seconds(), Running: true})
		if s.beside {
			go func() { runStep(ctx, log, report, s, place) }()
			continue
		}
		if a, err := runStep(ctx, log, report, s, place); err != nil && !s.optional {
			failed = append(failed, failedStep{place, s, a})
		}
	}
	return failed
}

// runStep does a step within its limit and reports at place what became of it.
func runStep(ctx context.Context, log *slog.Logger, report *bootLog, s step, place int) (*attempt, error) {
	limit := s.limit
	if limit == 0 {
		limit = stepLimit
	}
	began := time.Now()
	stepCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a := start(stepCtx, s)
	err := a.wait(limit)
	st := report.list()[place]
	st.Seconds, st.Running = time.Since(began).Seconds(), false
	if err != nil {
		st.Error, st.Remedy = err.Error(), s.whatToDo()
		logFailure(log, s, err)
	}
	report.set(place, st)
	return a, err
}

func logFailure(log *slog.Logger, s step, err error) {
	if s.optional {
		log.Warn("optional boot step failed", "step", s.name, "err", err)
		return
	}
	log.Error("BOOT STEP FAILED: it is tried again, the rest goes on", "step", s.name, "err", err, "remedy", s.whatToDo())
}

// failedStep is a needed step that did not succeed, and its last attempt.
type failedStep struct {
	place int // in the report
	step  step
	last  *attempt
}

// retrySteps tries failed steps again, in order, until all have succeeded or
// ctx ends: at first after pause, then ever more slowly up to a minute.
func retrySteps(ctx context.Context, log *slog.Logger, report *bootLog, failed []failedStep, pause time.Duration) {
	for len(failed) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Minute)
		var still []failedStep
		for _, f := range failed {
			began := time.Now()
			select {
			case <-f.last.done: // also one that came late, and may have succeeded
				if f.last.err != nil {
					f.last = start(ctx, f.step)
				}
			default: // still at it
			}
			limit := f.step.limit
			if limit == 0 {
				limit = stepLimit
			}
			err := f.last.wait(limit)
			st := report.list()[f.place]
			st.Seconds, st.Error, st.Remedy = time.Since(began).Seconds(), "", ""
			if err != nil {
				st.Error, st.Remedy = err.Error(), f.step.whatToDo()
				logFailure(log, f.step, err)
				still = append(still, f)
			} else {
				log.Info("boot step succeeded after all", "step", f.step.name)
			}
			report.set(f.place, st)
		}
		failed = still
	}
}
