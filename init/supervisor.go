package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// host is what a supervisor needs from the system.
type host interface {
	// spawn starts the service's process and returns its pid.
	spawn(svc Service) (pid int, err error)
	// signal sends sig to the process pid, which is not reaped yet.
	signal(pid int, sig syscall.Signal) error
	// killAll sends SIGKILL to all that the service has running; pid is that
	// of its last main process, which may be gone.
	killAll(svc Service, pid int)
	// reap collects the processes that have ended.
	reap() []child
}

// unit is a service with its machine and its present process.
type unit struct {
	*machine
	pid int // 0: none
}

// supervisor keeps the services running. All its state belongs to the
// goroutine in run; others reach it through channels.
type supervisor struct {
	log     *slog.Logger
	host    host
	sigchld <-chan os.Signal
	notes   chan notification
	calls   chan func()

	units   []*unit
	others  map[int]chan<- child // waited for by runToEnd, by pid
	orphans int                  // reaped processes that were no service
	closing bool
	stopped chan struct{} // closed when closing and all services are down
	started chan struct{} // closed when each service has been started, and is ready or has failed once
}

func newSupervisor(log *slog.Logger, h host, sigchld <-chan os.Signal, p policy, services []Service) *supervisor {
	s := &supervisor{
		log: log, host: h, sigchld: sigchld,
		notes: make(chan notification, 16), calls: make(chan func()),
		stopped: make(chan struct{}), started: make(chan struct{}),
		others: map[int]chan<- child{},
	}
	for _, svc := range services {
		s.units = append(s.units, &unit{machine: newMachine(svc, p)})
	}
	return s
}

// run starts the services and keeps them until ctx ends. It reaps all
// children of this process, its own or inherited.
func (s *supervisor) run(ctx context.Context) {
	for _, u := range s.units {
		s.apply(u, event{kind: evStart})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sigchld:
			for _, c := range s.host.reap() {
				s.exited(c)
			}
		case n := <-s.notes:
			s.notified(n)
		case f := <-s.calls:
			f()
		case <-timer.C:
		}
		for _, u := range s.units {
			s.apply(u, event{kind: evTimer})
		}
		s.stopNext()
		s.noteStarted()
		timer.Reset(s.untilDeadline())
	}
}

// untilDeadline is the time to the first deadline of a unit.
func (s *supervisor) untilDeadline() time.Duration {
	next := time.Hour
	for _, u := range s.units {
		if !u.deadline.IsZero() {
			next = min(next, time.Until(u.deadline))
		}
	}
	return max(next, 0)
}

// apply gives a unit's machine an event and does what it answers.
func (s *supervisor) apply(u *unit, ev event) {
	for _, a := range u.step(time.Now(), ev) {
		switch a.do {
		case actLog:
			s.log.Info(a.text, "service", u.spec.Name, "pid", u.pid)
		case actSignal:
			if err := s.host.signal(u.pid, a.sig); err != nil {
				s.log.Warn("signal", "service", u.spec.Name, "pid", u.pid, "signal", a.sig, "err", err)
			}
		case actKillAll:
			s.host.killAll(u.spec, u.pid)
		case actSpawn:
			pid, err := s.host.spawn(u.spec)
			if err != nil {
				u.pid = 0
				s.apply(u, event{kind: evSpawnFailed, text: err.Error()})
				continue
			}
			u.pid = pid
		}
	}
	if !u.hasProcess() {
		u.pid = 0
	}
}

func (s *supervisor) exited(c child) {
	for _, u := range s.units {
		if u.pid == c.pid {
			s.apply(u, event{kind: evExited, text: describeExit(c.status)})
			return
		}
	}
	if ended, ok := s.others[c.pid]; ok {
		delete(s.others, c.pid)
		ended <- c // buffered
		return
	}
	s.orphans++
}

// notified passes a notification on, if a service's main process sent it: its
// helpers, and everybody else, have no say (NotifyAccess=main of
// systemd.service(5)).
func (s *supervisor) notified(n notification) {
	for _, u := range s.units {
		if u.pid == n.pid && u.pid != 0 {
			for _, ev := range n.events {
				s.apply(u, ev)
			}
			return
		}
	}
}

// stopNext stops the services in reverse order, each after the next is down.
func (s *supervisor) stopNext() {
	if !s.closing {
		return
	}
	for i := len(s.units) - 1; i >= 0; i-- {
		u := s.units[i]
		if u.wantUp {
			s.apply(u, event{kind: evStop})
		}
		if u.state != stateDown {
			return
		}
	}
	select {
	case <-s.stopped:
	default:
		close(s.stopped)
	}
}

// noteStarted closes started when it is time.
func (s *supervisor) noteStarted() {
	select {
	case <-s.started:
		return
	default:
	}
	for _, u := range s.units {
		if u.state == stateStarting {
			return
		}
	}
	close(s.started)
}

// call runs f in the supervisor's goroutine and waits for it.
func (s *supervisor) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case s.calls <- func() { f(); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// notify hands a notification to the supervisor.
func (s *supervisor) notify(ctx context.Context, n notification) {
	select {
	case s.notes <- n:
	case <-ctx.Done():
	}
}

// shutdown stops the services in reverse order and returns when all are down,
// or when ctx ends. It may be called more than once.
func (s *supervisor) shutdown(ctx context.Context) error {
	if err := s.call(ctx, func() { s.closing = true }); err != nil {
		return err
	}
	select {
	case <-s.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop services: %w", ctx.Err())
	}
}

var errShuttingDown = errors.New("the machine is shutting down")

// restart stops the named service and starts it again.
func (s *supervisor) restart(ctx context.Context, name string) error {
	err := fmt.Errorf("no service %q: see status for their names", name)
	if callErr := s.call(ctx, func() {
		for _, u := range s.units {
			if u.spec.Name != name {
				continue
			}
			if err = errShuttingDown; !s.closing {
				s.apply(u, event{kind: evRestart})
				err = nil
			}
		}
	}); callErr != nil {
		return callErr
	}
	return err
}

// ServiceStatus is a service as the control socket shows it.
type ServiceStatus struct {
	Name     string `json:"name"`
	State    state  `json:"state"`
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	Status   string `json:"status,omitempty"`    // its last STATUS=
	LastExit string `json:"last_exit,omitempty"` // how its last process ended
	ReadySec int64  `json:"ready_sec,omitempty"` // seconds since READY=1
}

// services returns the state of all services, in their order.
func (s *supervisor) services(ctx context.Context) ([]ServiceStatus, error) {
	var out []ServiceStatus
	err := s.call(ctx, func() {
		for _, u := range s.units {
			st := ServiceStatus{
				Name: u.spec.Name, State: u.state, PID: u.pid,
				Restarts: u.restarts, Status: u.status, LastExit: u.lastExit,
			}
			if !u.readyAt.IsZero() {
				st.ReadySec = int64(time.Since(u.readyAt).Seconds())
			}
			out = append(out, st)
		}
	})
	return out, err
}
