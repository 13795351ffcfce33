package main

import (
	"cmp"
	"fmt"
	"syscall"
	"time"
)

// Service is one program that PID 1 keeps running.
type Service struct {
	Name string   `json:"name"`
	Exec []string `json:"exec"`
	Env  []string `json:"env,omitempty"`
	// Notify tells that the program speaks the sd_notify protocol: it counts
	// as running from its READY=1 on. Without it, it counts as running at once.
	Notify bool `json:"notify,omitempty"`
	// WatchdogSec is how often, in seconds, the program must say WATCHDOG=1
	// once it is ready. 0: no watchdog.
	WatchdogSec float64 `json:"watchdog_sec,omitempty"`
	// StartTimeoutSec is how long it may take to READY=1; 0 means 90 s.
	StartTimeoutSec float64 `json:"start_timeout_sec,omitempty"`
	// StopTimeoutSec is how long it may take to exit after SIGTERM; 0 means 20 s.
	StopTimeoutSec float64 `json:"stop_timeout_sec,omitempty"`
	// Down is a command that ends what the service keeps running in the kernel.
	// It runs when the machine ends, after all services have stopped, and not
	// when the service is restarted.
	Down []string `json:"down,omitempty"`
	// DownTimeoutSec is how long Down may take before it is killed; 0 means 60 s.
	DownTimeoutSec float64 `json:"down_timeout_sec,omitempty"`
	// Limits bound the service's cgroup.
	Limits Limits `json:"limits,omitzero"`
	// KeepFDs is how many descriptors the service may leave with PID 1 for its
	// next process (FDSTORE=1). 0: none.
	KeepFDs int `json:"keep_fds,omitempty"`
	// Late services start when the others are up, or have failed once.
	Late bool `json:"late,omitempty"`
	// Maintenance tells that the service is for finding out what is wrong: it
	// runs also when the others are held back because the kernel crashed again
	// and again.
	Maintenance bool `json:"maintenance,omitempty"`
	// Tries is after how many failures in a row it is given up; 0 means 10.
	Tries int `json:"tries,omitempty"`
	// GivenUp is a command that runs when the service is given up, or held back.
	GivenUp []string `json:"given_up,omitempty"`
	// Remedy is what an operator can do when the service has been given up.
	Remedy string `json:"remedy,omitempty"`
}

// seconds turns a number of a config into a duration, or def if it is 0.
func seconds(s float64, def time.Duration) time.Duration {
	if s <= 0 {
		return def
	}
	return time.Duration(s * float64(time.Second))
}

// state is where a service is in its life.
type state string

const (
	stateDown     state = "down"     // not wanted, or not started yet
	stateStarting state = "starting" // has a process, not yet ready
	stateRunning  state = "running"
	stateAborting state = "aborting" // was sent SIGABRT: it did not keep its promises
	stateStopping state = "stopping" // was sent SIGTERM, or said STOPPING=1
	stateKilling  state = "killing"  // was sent SIGKILL
	stateWaiting  state = "waiting"  // until it is started again
	// stateMaintenance is for a service that failed too often, or is held back:
	// somebody is to look at it and to start it again.
	stateMaintenance state = "maintenance"
)

// backoff is how long a service that ended waits for its next start: min, then
// twice as long each time up to max. A run that was ready for stable counts as
// a success and starts the series again.
type backoff struct{ min, max, stable time.Duration }

func (b backoff) delay(failures int) time.Duration {
	d := b.min
	for ; failures > 0 && d < b.max; failures-- {
		d *= 2
	}
	return min(d, b.max)
}

// policy is the timing that is the same for every service.
type policy struct {
	backoff
	// tries is after how many failures in a row a service is given up; 0: never.
	// From then on it gets one try each retry, for what was wrong may pass.
	tries      int
	retry      time.Duration
	abortGrace time.Duration // from SIGABRT to SIGKILL: time to write stacks
	killRetry  time.Duration // from SIGKILL to the next
}

var defaultPolicy = policy{
	backoff:    backoff{min: 500 * time.Millisecond, max: 30 * time.Second, stable: time.Minute},
	tries:      10,
	retry:      10 * time.Minute,
	abortGrace: 5 * time.Second,
	killRetry:  10 * time.Second,
}

// evKind is what may happen to a service.
type evKind int

const (
	evStart       evKind = iota // somebody wants it up
	evStop                      // somebody wants it down
	evRestart                   // somebody wants it stopped and started
	evSpawnFailed               // no process could be made; text says why
	evExited                    // its process ended; text says how
	evReady                     // READY=1
	evStopping                  // STOPPING=1
	evPing                      // WATCHDOG=1
	evTrigger                   // WATCHDOG=trigger
	evExtend                    // EXTEND_TIMEOUT_USEC; d
	evWatchdog                  // WATCHDOG_USEC; d
	evStatus                    // STATUS=; text
	evProblems                  // X_PROBLEMS=; problems
	evTimer                     // time has passed
	evHold                      // it must not start until somebody says so; text says why
)

type event struct {
	kind     evKind
	text     string
	problems []Problem
	d        time.Duration
}

// action is what a machine wants done, in order.
type action struct {
	do   actKind
	sig  syscall.Signal // for actSignal
	text string         // for actLog: what an operator should know
}

type actKind int

const (
	actSpawn   actKind = iota // start the process
	actSignal                 // send sig to the main process
	actKillAll                // SIGKILL to everything the service has left running
	actLog
	actGiveUp // tell whoever looks that the service is in maintenance; text says why
)

// machine decides what becomes of one service. It does no I/O: events go in
// with the time they happened, actions come out.
type machine struct {
	spec   Service
	policy policy

	state    state
	wantUp   bool
	again    bool      // start at once when the process has ended: evRestart
	deadline time.Time // when evTimer is due; zero: never
	readyAt  time.Time // of the present process; zero: not ready
	watchdog time.Duration
	failures int // ends in a row without a stable run
	restarts int // starts after the first
	status   string
	problems []Problem // what of its work it cannot do, as it says
	lastExit string
	reason   string // why it is in maintenance
	started  bool
	stuck    time.Time // since when its process survives SIGKILL; zero: it does not
}

func newMachine(spec Service, p policy) *machine {
	return &machine{spec: spec, policy: p, state: stateDown}
}

// hasProcess tells whether the main process exists.
func (m *machine) hasProcess() bool {
	switch m.state {
	case stateDown, stateWaiting, stateMaintenance:
		return false
	}
	return true
}

// step takes one event and returns what to do about it.
func (m *machine) step(now time.Time, ev event) []action {
	switch ev.kind {
	case evStart:
		m.wantUp, m.failures = true, 0
		if !m.hasProcess() {
			return m.spawn(now)
		}
	case evHold:
		m.wantUp = true
		if !m.hasProcess() {
			return m.giveUp(time.Time{}, ev.text)
		}
	case evStop:
		m.wantUp, m.again = false, false
		return m.stop(now)
	case evRestart:
		m.wantUp, m.failures = true, 0
		if !m.hasProcess() {
			return m.spawn(now)
		}
		m.again = true
		return m.stop(now)
	case evSpawnFailed, evExited:
		return m.ended(now, ev.text)
	case evTimer:
		if !m.deadline.IsZero() && !now.Before(m.deadline) {
			return m.timeout(now)
		}
	default:
		if m.hasProcess() {
			return m.notified(now, ev)
		}
	}
	return nil
}

func (m *machine) spawn(now time.Time) []action {
	if m.started {
		m.restarts++
	}
	m.started = true
	m.status, m.reason, m.problems = "", "", nil
	m.watchdog = seconds(m.spec.WatchdogSec, 0)
	m.readyAt = time.Time{}
	m.state = stateStarting
	m.deadline = now.Add(seconds(m.spec.StartTimeoutSec, 90*time.Second))
	if !m.spec.Notify {
		m.ready(now)
	}
	return []action{{do: actSpawn}}
}

func (m *machine) ready(now time.Time) {
	m.state, m.readyAt = stateRunning, now
	m.feed(now)
}

// feed sets the watchdog's deadline anew.
func (m *machine) feed(now time.Time) {
	m.deadline = time.Time{}
	if m.spec.Notify && m.watchdog > 0 {
		m.deadline = now.Add(m.watchdog)
	}
}

func (m *machine) stop(now time.Time) []action {
	switch m.state {
	case stateWaiting, stateMaintenance:
		m.state, m.deadline = stateDown, time.Time{}
	case stateStarting, stateRunning, stateStopping:
		m.state = stateStopping
		m.deadline = now.Add(seconds(m.spec.StopTimeoutSec, 20*time.Second))
		return []action{{do: actSignal, sig: syscall.SIGTERM}}
	}
	return nil // aborting, killing: it is on its way already
}

// abort asks the process to say what it was doing and end.
func (m *machine) abort(now time.Time, why string) []action {
	m.state, m.deadline = stateAborting, now.Add(m.policy.abortGrace)
	return []action{{do: actLog, text: why}, {do: actSignal, sig: syscall.SIGABRT}}
}

func (m *machine) kill(now time.Time, why string) []action {
	if m.state != stateKilling {
		m.stuck = now
	}
	m.state, m.deadline = stateKilling, now.Add(m.policy.killRetry)
	return []action{{do: actLog, text: why}, {do: actKillAll}}
}

func (m *machine) timeout(now time.Time) []action {
	switch m.state {
	case stateWaiting, stateMaintenance:
		return m.spawn(now)
	case stateStarting:
		return m.abort(now, fmt.Sprintf("not ready within %v: ending it", seconds(m.spec.StartTimeoutSec, 90*time.Second)))
	case stateRunning:
		return m.abort(now, fmt.Sprintf("watchdog: no sign of life for %v: ending it", m.watchdog))
	case stateAborting:
		return m.kill(now, "survived SIGABRT: killing it")
	case stateStopping:
		return m.kill(now, "did not stop in time: killing it")
	case stateKilling:
		return m.kill(now, "survives SIGKILL: waits for the kernel, perhaps for a dead disk")
	}
	m.deadline = time.Time{}
	return nil
}

// ended decides what follows the end of the process, whatever the cause.
func (m *machine) ended(now time.Time, how string) []action {
	acts := []action{{do: actKillAll}}
	m.lastExit = how
	stable := !m.readyAt.IsZero() && now.Sub(m.readyAt) >= m.policy.stable
	m.readyAt, m.deadline, m.stuck = time.Time{}, time.Time{}, time.Time{}
	switch {
	case !m.wantUp:
		m.state = stateDown
		return append(acts, action{do: actLog, text: "stopped: " + how})
	case m.again:
		m.again = false
		return append(append(acts, action{do: actLog, text: "restarting: " + how}), m.spawn(now)...)
	}
	if stable {
		m.failures = 0
	}
	d := m.policy.delay(m.failures)
	m.failures++
	if tries := cmp.Or(m.spec.Tries, m.policy.tries); tries > 0 && m.failures >= tries {
		why := fmt.Sprintf("ended %d times in a row, the last time with: %s", m.failures, how)
		return append(acts, m.giveUp(now.Add(m.policy.retry), why)...)
	}
	m.state, m.deadline = stateWaiting, now.Add(d)
	return append(acts, action{do: actLog, text: fmt.Sprintf("ended: %s: starting again in %v", how, d)})
}

// giveUp puts the service into maintenance until next, or until somebody starts
// it.
func (m *machine) giveUp(next time.Time, why string) []action {
	m.state, m.deadline, m.reason = stateMaintenance, next, why
	return []action{{do: actGiveUp, text: why}}
}

// notified takes what the process says about itself.
func (m *machine) notified(now time.Time, ev event) []action {
	switch ev.kind {
	case evReady:
		if m.state == stateStarting {
			m.ready(now)
			return []action{{do: actLog, text: "ready"}}
		}
	case evStatus:
		m.status = ev.text
	case evProblems:
		m.problems = ev.problems
	case evStopping:
		if m.state == stateRunning || m.state == stateStarting {
			m.state = stateStopping
			m.deadline = now.Add(seconds(m.spec.StopTimeoutSec, 20*time.Second))
		}
	case evPing:
		if m.state == stateRunning {
			m.feed(now)
		}
	case evTrigger:
		if m.state == stateRunning {
			return m.abort(now, "asks to be restarted by its watchdog")
		}
	case evWatchdog:
		m.watchdog = ev.d
		if m.state == stateRunning {
			m.feed(now)
		}
	case evExtend:
		if (m.state == stateStarting || m.state == stateStopping) && now.Add(ev.d).After(m.deadline) {
			m.deadline = now.Add(ev.d)
		}
	}
	return nil
}
