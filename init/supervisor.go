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
	// spawn starts the service's process, with descriptors that it inherits,
	// and returns its pid.
	spawn(svc Service, inherited []storedFD) (pid int, err error)
	// signal sends sig to the process pid, which is not reaped yet.
	signal(pid int, sig syscall.Signal) error
	// killAll sends SIGKILL to all that the service has running; pid is that
	// of its last main process, which may be gone.
	killAll(svc Service, pid int)
	// reap collects the processes that have ended.
	reap() []child
	// usage reads what the service takes of its limits.
	usage(svc Service) Usage
}

// unit is a service with its machine and its present process.
type unit struct {
	*machine
	pid      int // 0: none
	stored   fdStore
	oomKills int              // that are told
	upAt     [2]time.Duration // uptime when it was first started, and first ready
}

// supervisor keeps the services running. All its state belongs to the
// goroutine in run; others reach it through channels.
type supervisor struct {
	log     *slog.Logger
	host    host
	sigchld <-chan os.Signal
	notes   chan notification
	calls   chan func()

	units     []*unit
	others    map[int]chan<- child // waited for by runToEnd, by pid
	orphans   int                  // reaped processes that were no service
	closing   bool
	lateBegun bool
	stopped   chan struct{} // closed when closing and all services are down
	started   chan struct{} // closed when each service but the late ones has been started, and is ready or has failed once

	held   string                        // why services are not to start by themselves; "" if they are
	gaveUp func(svc Service, why string) // told when a service comes into maintenance; may be nil
	uptime func() time.Duration
}

func newSupervisor(log *slog.Logger, h host, sigchld <-chan os.Signal, p policy, services []Service) *supervisor {
	s := &supervisor{
		log: log, host: h, sigchld: sigchld,
		notes: make(chan notification, 16), calls: make(chan func()),
		stopped: make(chan struct{}), started: make(chan struct{}),
		others: map[int]chan<- child{}, uptime: uptime,
	}
	for _, svc := range services {
		s.units = append(s.units, &unit{machine: newMachine(svc, p)})
	}
	return s
}

// run starts the services and keeps them until ctx ends. It reaps all
// children of this process, its own or inherited.
func (s *supervisor) run(ctx context.Context) {
	s.startAll(false)
	late := time.AfterFunc(lateServices, func() { _ = s.call(ctx, s.startLate) })
	defer late.Stop()
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

// lateServices is how long late services wait for the others.
const lateServices = 20 * time.Second

// startAll starts the late services, or those that are not late.
func (s *supervisor) startAll(late bool) {
	for _, u := range s.units {
		switch {
		case u.spec.Late != late:
		case s.held != "" && !u.spec.Maintenance:
			s.apply(u, event{kind: evHold, text: s.held})
		default:
			s.apply(u, event{kind: evStart})
		}
	}
}

// startLate starts the late services, once.
func (s *supervisor) startLate() {
	if !s.lateBegun && !s.closing {
		s.lateBegun = true
		s.startAll(true)
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
			pid, err := s.host.spawn(u.spec, u.stored.files)
			if err != nil {
				u.pid = 0
				s.apply(u, event{kind: evSpawnFailed, text: err.Error()})
				continue
			}
			u.pid = pid
			u.first(0, s.uptime())
		case actGiveUp:
			s.log.Error("SERVICE GIVEN UP: somebody is to look at it and start it again", "service", u.spec.Name, "reason", a.text, "remedy", u.remedy())
			if s.gaveUp != nil {
				s.gaveUp(u.spec, a.text)
			}
		}
	}
	if u.state == stateRunning {
		u.first(1, s.uptime())
	}
	if !u.hasProcess() {
		u.pid = 0
	}
}

// first notes when something happened for the first time.
func (u *unit) first(i int, at time.Duration) {
	if u.upAt[i] == 0 {
		u.upAt[i] = at
	}
}

// remedy is what an operator can do about a service in maintenance.
func (u *unit) remedy() string {
	if u.spec.Remedy != "" {
		return u.spec.Remedy
	}
	return "read its last lines, remove the cause, then start it again: on the serial console, maintenance, services"
}

// ending says how a unit's process ended, and whether that was for want of
// memory.
func (s *supervisor) ending(u *unit, c child) string {
	text := describeExit(c.status)
	if use := s.host.usage(u.spec); use.OOMKills > u.oomKills {
		u.oomKills = use.OOMKills
		text += ": out of memory"
		if use.MemoryMax > 0 {
			text += fmt.Sprintf(", of which it may have %d MiB", use.MemoryMax>>20)
		}
	}
	return text
}

func (s *supervisor) exited(c child) {
	for _, u := range s.units {
		if u.pid == c.pid {
			s.apply(u, event{kind: evExited, text: s.ending(u, c)})
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
			if n.keeping.drop {
				u.stored.drop(n.keeping.name)
			}
			if err := u.stored.keep(n.keeping.name, n.fds, u.spec.KeepFDs); err != nil {
				s.log.Warn("descriptors", "service", u.spec.Name, "err", err)
			}
			return
		}
	}
	closeAll(n.fds)
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
		if u.state == stateStarting && !u.spec.Late {
			return
		}
	}
	close(s.started)
	s.startLate()
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

// begin starts what is in maintenance: the named service, or all with "".
func (s *supervisor) begin(ctx context.Context, name string) error {
	err := fmt.Errorf("no service %q in maintenance: see status", name)
	if name == "" {
		err = nil
	}
	if callErr := s.call(ctx, func() {
		for _, u := range s.units {
			if u.state != stateMaintenance || name != "" && u.spec.Name != name {
				continue
			}
			if err = errShuttingDown; !s.closing {
				s.apply(u, event{kind: evStart})
				err = nil
			}
		}
	}); callErr != nil {
		return callErr
	}
	return err
}

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
	Name     string    `json:"name"`
	State    state     `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Restarts int       `json:"restarts"`
	Status   string    `json:"status,omitempty"`    // its last STATUS=
	LastExit string    `json:"last_exit,omitempty"` // how its last process ended
	ReadySec int64     `json:"ready_sec,omitempty"` // seconds since READY=1
	Reason   string    `json:"reason,omitempty"`    // why it is in maintenance
	Remedy   string    `json:"remedy,omitempty"`    // and what to do
	Problems []Problem `json:"problems,omitempty"`  // its last X_PROBLEMS=
	// When it was first started, and first ready: seconds since the kernel's
	// start.
	BegunAt float64  `json:"begun_at,omitempty"`
	UpAt    float64  `json:"up_at,omitempty"`
	Usage   Usage    `json:"usage,omitzero"`
	Lines   []string `json:"lines,omitempty"` // its last words, if it is in maintenance
}

// services returns the state of all services, in their order.
func (s *supervisor) services(ctx context.Context) ([]ServiceStatus, error) {
	var out []ServiceStatus
	err := s.call(ctx, func() {
		for _, u := range s.units {
			st := ServiceStatus{
				Name: u.spec.Name, State: u.state, PID: u.pid,
				Restarts: u.restarts, Status: u.status, LastExit: u.lastExit, Reason: u.reason, Problems: u.problems,
				BegunAt: u.upAt[0].Seconds(), UpAt: u.upAt[1].Seconds(), Usage: s.host.usage(u.spec),
			}
			if u.state == stateMaintenance {
				st.Remedy = u.remedy()
			}
			if !u.readyAt.IsZero() {
				st.ReadySec = int64(time.Since(u.readyAt).Seconds())
			}
			out = append(out, st)
		}
	})
	return out, err
}
