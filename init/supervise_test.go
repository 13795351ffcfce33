package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestBackoffDoublesUpToItsBound(t *testing.T) {
	b := backoff{min: time.Second, max: 10 * time.Second}
	var got []time.Duration
	for n := range 7 {
		got = append(got, b.delay(n)/time.Second)
	}
	if diff := cmp.Diff([]time.Duration{1, 2, 4, 8, 10, 10, 10}, got); diff != "" {
		t.Errorf("delay (-want +got):\n%s", diff)
	}
	if d := b.delay(1 << 40); d != b.max {
		t.Errorf("delay of very many failures = %v, want %v", d, b.max)
	}
}

// short writes actions the way the table below does.
func short(acts []action) string {
	var out []string
	for _, a := range acts {
		switch a.do {
		case actSpawn:
			out = append(out, "spawn")
		case actSignal:
			out = append(out, map[syscall.Signal]string{syscall.SIGTERM: "term", syscall.SIGABRT: "abort"}[a.sig])
		case actKillAll:
			out = append(out, "kill")
		case actGiveUp:
			out = append(out, "give-up")
		}
	}
	return strings.Join(out, " ")
}

func TestMachine(t *testing.T) {
	type in struct {
		after float64 // seconds since the last
		ev    event
		acts  string
		state state
	}
	ev := func(k evKind) event { return event{kind: k} }
	secs := func(k evKind, s float64) event { return event{kind: k, d: seconds(s, 0)} }
	exit := event{kind: evExited, text: "exit code 1"}
	spec := Service{Name: "s", Exec: []string{"/s"}, Notify: true, WatchdogSec: 10, StartTimeoutSec: 30, StopTimeoutSec: 5}
	p := policy{backoff: backoff{min: time.Second, max: 4 * time.Second, stable: time.Minute}, abortGrace: 2 * time.Second, killRetry: 3 * time.Second}

	for _, tc := range []struct {
		name  string
		spec  func(*Service)
		steps []in
	}{
		{"ready and fed", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{29, ev(evReady), "", stateRunning},
			{9, ev(evPing), "", stateRunning},
			{9, ev(evTimer), "", stateRunning},
			{0.5, ev(evPing), "", stateRunning},
			{9.9, ev(evTimer), "", stateRunning},
		}},
		{"not ready in time", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{29.9, ev(evTimer), "", stateStarting},
			{0.1, ev(evTimer), "abort", stateAborting},
			{2, ev(evTimer), "kill", stateKilling},
			{3, ev(evTimer), "kill", stateKilling},
			{0, exit, "kill", stateWaiting},
			{0.9, ev(evTimer), "", stateWaiting},
			{0.1, ev(evTimer), "spawn", stateStarting},
		}},
		{"start extended", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{29, secs(evExtend, 10), "", stateStarting},
			{9.9, ev(evTimer), "", stateStarting},
			{0.1, ev(evTimer), "abort", stateAborting},
		}},
		{"an extension never shortens", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, secs(evExtend, 1), "", stateStarting},
			{2, ev(evTimer), "", stateStarting},
		}},
		{"watchdog missed", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{10, ev(evTimer), "abort", stateAborting},
			{1, ev(evPing), "", stateAborting}, // too late
			{0, exit, "kill", stateWaiting},
		}},
		{"watchdog by hand", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{1, ev(evTrigger), "abort", stateAborting},
		}},
		{"watchdog interval changed", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{1, secs(evWatchdog, 60), "", stateRunning},
			{59, ev(evTimer), "", stateRunning},
			{1, ev(evTimer), "abort", stateAborting},
		}},
		{"no notify: runs at once, no watchdog", func(s *Service) { s.Notify = false }, []in{
			{0, ev(evStart), "spawn", stateRunning},
			{1000, ev(evTimer), "", stateRunning},
			{0, ev(evStop), "term", stateStopping},
		}},
		{"crashes wait longer each time", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{1, ev(evTimer), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{1, ev(evTimer), "", stateWaiting},
			{1, ev(evTimer), "spawn", stateStarting},
			{0, event{kind: evSpawnFailed}, "kill", stateWaiting},
			{4, ev(evTimer), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{4, ev(evTimer), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{9, ev(evPing), "", stateRunning},
			{0, exit, "kill", stateWaiting}, // ready, but not for long: no success
			{3.9, ev(evTimer), "", stateWaiting},
			{0.1, ev(evTimer), "spawn", stateStarting},
		}},
		{"given up, tried now and then, started by hand", func(s *Service) { s.Name = "bounded" }, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{1, ev(evTimer), "spawn", stateStarting},
			{0, exit, "kill give-up", stateMaintenance},
			{99, ev(evTimer), "", stateMaintenance},
			{1, ev(evTimer), "spawn", stateStarting},
			{0, exit, "kill give-up", stateMaintenance},
			{1, ev(evStart), "spawn", stateStarting}, // two tries again
			{0, exit, "kill", stateWaiting},
			{1, ev(evTimer), "spawn", stateStarting},
			{0, exit, "kill give-up", stateMaintenance},
			{0, ev(evRestart), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{0, ev(evStop), "", stateDown},
		}},
		{"held back", nil, []in{
			{0, event{kind: evHold, text: "why"}, "give-up", stateMaintenance},
			{1e6, ev(evTimer), "", stateMaintenance},
			{0, ev(evStop), "", stateDown},
			{0, event{kind: evHold, text: "why"}, "give-up", stateMaintenance},
			{0, ev(evStart), "spawn", stateStarting},
		}},
		{"a stable run starts the series again", func(s *Service) { s.WatchdogSec = 0 }, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{1, ev(evTimer), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{2, ev(evTimer), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{60, exit, "kill", stateWaiting},
			{1, ev(evTimer), "spawn", stateStarting},
		}},
		{"stop", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{1, ev(evStop), "term", stateStopping},
			{1, ev(evStopping), "", stateStopping},
			{3.9, ev(evTimer), "", stateStopping},
			{0.1, ev(evTimer), "kill", stateKilling},
			{0, exit, "kill", stateDown},
			{100, ev(evTimer), "", stateDown},
		}},
		{"stop extended", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, ev(evStop), "term", stateStopping},
			{4, secs(evExtend, 10), "", stateStopping},
			{9.9, ev(evTimer), "", stateStopping},
			{0, exit, "kill", stateDown},
		}},
		{"stop while waiting", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{0, exit, "kill", stateWaiting},
			{0, ev(evStop), "", stateDown},
			{100, ev(evTimer), "", stateDown},
			{0, ev(evStart), "spawn", stateStarting},
		}},
		{"stop while it is being ended", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{30, ev(evTimer), "abort", stateAborting},
			{0, ev(evStop), "", stateAborting},
			{2, ev(evTimer), "kill", stateKilling},
			{0, exit, "kill", stateDown},
		}},
		{"restart", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{1, ev(evRestart), "term", stateStopping},
			{1, exit, "kill spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{1, exit, "kill", stateWaiting}, // asked once, not for ever
			{0, ev(evRestart), "spawn", stateStarting},
		}},
		{"leaves by itself", nil, []in{
			{0, ev(evStart), "spawn", stateStarting},
			{1, ev(evReady), "", stateRunning},
			{1, ev(evStopping), "", stateStopping},
			{5, ev(evTimer), "kill", stateKilling},
			{0, exit, "kill", stateWaiting},
		}},
		{"a word from the dead", nil, []in{
			{0, ev(evReady), "", stateDown},
			{0, ev(evPing), "", stateDown},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := spec
			if tc.spec != nil {
				tc.spec(&s)
			}
			p := p
			if s.Name == "bounded" {
				p.tries, p.retry = 2, 100*time.Second
			}
			m, now := newMachine(s, p), time.Unix(0, 0)
			for i, st := range tc.steps {
				now = now.Add(seconds(st.after, 0))
				got := short(m.step(now, st.ev))
				if got != st.acts || m.state != st.state {
					t.Fatalf("step %d: event %d at %v = %q, state %s, want %q, %s", i+1, st.ev.kind, now.UTC().Format("4:05.0"), got, m.state, st.acts, st.state)
				}
			}
		})
	}
}

// fakeHost makes processes out of pids. All of it belongs to the supervisor's
// goroutine, except what the channel guards.
type fakeHost struct {
	pid   int
	chld  chan os.Signal
	dead  chan child
	trace func(string)
	fail  int // the next spawns that fail
	deaf  map[string]bool
	names map[int]string
}

func (h *fakeHost) usage(Service) Usage { return Usage{} }

func (h *fakeHost) spawn(s Service, _ []storedFD) (int, error) {
	if h.fail > 0 {
		h.fail--
		return 0, errors.New("no such file")
	}
	h.pid++
	h.names[h.pid] = s.Name
	h.trace(fmt.Sprintf("spawn %s %d", s.Name, h.pid))
	return h.pid, nil
}

func (h *fakeHost) signal(pid int, sig syscall.Signal) error {
	h.trace(fmt.Sprintf("%v %d", sig, pid))
	if sig == syscall.SIGTERM && !h.deaf[h.names[pid]] {
		h.die(pid)
	}
	return nil
}

func (h *fakeHost) killAll(s Service, pid int) {
	if _, alive := h.names[pid]; alive {
		h.trace(fmt.Sprintf("killed %d", pid))
		h.die(pid)
	}
}

func (h *fakeHost) die(pid int) {
	delete(h.names, pid)
	h.dead <- child{pid: pid}
	select {
	case h.chld <- syscall.SIGCHLD:
	default: // signals merge
	}
}

func (h *fakeHost) reap() []child {
	var out []child
	for {
		select {
		case c := <-h.dead:
			out = append(out, c)
		default:
			return out
		}
	}
}

// inBubble runs a supervisor over a fake host. The trace has seconds since
// the start.
func inBubble(t *testing.T, services []Service, f func(ctx context.Context, s *supervisor, h *fakeHost), prepare ...func(*supervisor)) []string {
	t.Helper()
	var trace []string
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		h := &fakeHost{
			chld: make(chan os.Signal, 1), dead: make(chan child, 100),
			deaf: map[string]bool{}, names: map[int]string{},
		}
		h.trace = func(s string) {
			trace = append(trace, fmt.Sprintf("%g %s", time.Since(began).Seconds(), s))
		}
		p := policy{backoff: backoff{min: time.Second, max: 8 * time.Second, stable: time.Minute}, abortGrace: 5 * time.Second, killRetry: 10 * time.Second}
		s := newSupervisor(quiet, h, h.chld, p, services)
		for _, f := range prepare {
			f(s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx) }()
		synctest.Wait()
		f(ctx, s, h)
		cancel()
		<-done
	})
	return trace
}

func TestSupervisorStopsInReverseOrder(t *testing.T) {
	three := []Service{{Name: "a"}, {Name: "b", StopTimeoutSec: 7}, {Name: "c"}}
	got := inBubble(t, three, func(ctx context.Context, s *supervisor, h *fakeHost) {
		s.call(ctx, func() { h.deaf["b"] = true })
		time.Sleep(time.Second)
		if err := s.shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := s.restart(ctx, "a"); !errors.Is(err, errShuttingDown) {
			t.Errorf("restart while shutting down = %v", err)
		}
		time.Sleep(time.Hour)
	})
	want := []string{
		"0 spawn a 1", "0 spawn b 2", "0 spawn c 3",
		"1 terminated 3", "1 terminated 2", "8 killed 2", "8 terminated 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSupervisorEndsTheSilent(t *testing.T) {
	svc := []Service{{Name: "a", Notify: true, WatchdogSec: 10, StartTimeoutSec: 20}}
	got := inBubble(t, svc, func(ctx context.Context, s *supervisor, h *fakeHost) {
		say := func(pid int, k evKind) {
			s.notify(ctx, notification{pid: pid, events: []event{{kind: k}}})
			synctest.Wait()
		}
		say(1, evReady)
		for range 5 { // lives as long as it says so
			time.Sleep(9 * time.Second)
			say(1, evPing)
		}
		say(99, evPing) // a stranger's word does not count
		time.Sleep(9 * time.Second)
		say(99, evPing)
		time.Sleep(30 * time.Second)
	})
	want := []string{
		"0 spawn a 1",
		"55 aborted 1", "60 killed 1", "61 spawn a 2",
		"81 aborted 2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSupervisorTriesAgainAfterFailedStarts(t *testing.T) {
	got := inBubble(t, []Service{{Name: "a"}}, func(ctx context.Context, s *supervisor, h *fakeHost) {
		s.call(ctx, func() { h.fail = 3; h.die(1) })
		time.Sleep(time.Minute)
		st, err := s.services(ctx)
		if err != nil || len(st) != 1 || st[0].State != stateRunning || st[0].Restarts != 4 || st[0].LastExit != "no such file" || st[0].PID != 2 {
			t.Errorf("services = %+v, %v", st, err)
		}
	})
	// 1 s after the crash, then 2, 4 and 8 s after the failed starts.
	if diff := cmp.Diff([]string{"0 spawn a 1", "15 spawn a 2"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSupervisorCountsOrphans(t *testing.T) {
	inBubble(t, []Service{{Name: "a"}}, func(ctx context.Context, s *supervisor, h *fakeHost) {
		s.call(ctx, func() { h.die(77); h.die(78) }) // one SIGCHLD for two
		synctest.Wait()
		s.call(ctx, func() {
			if s.orphans != 2 || s.units[0].state != stateRunning {
				t.Errorf("orphans = %d, service %s, want 2, running", s.orphans, s.units[0].state)
			}
		})
		if err := s.restart(ctx, "b"); err == nil || !strings.Contains(err.Error(), `"b"`) {
			t.Errorf("restart of an unknown service = %v", err)
		}
	})
}

// A module whose kernel crashed again and again starts what helps to find out
// why, and the rest when somebody says so.
func TestHeldBackServicesStartWhenToldTo(t *testing.T) {
	services := []Service{{Name: "a"}, {Name: "console", Late: true, Maintenance: true}}
	var told []string
	inBubble(t, services, func(ctx context.Context, s *supervisor, _ *fakeHost) {
		want := func(when, want string) {
			t.Helper()
			synctest.Wait()
			list, err := s.services(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, st := range list {
				got = append(got, st.Name+" "+string(st.State))
			}
			if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		want("at first", "a maintenance, console running")
		time.Sleep(24 * time.Hour)
		want("a day later", "a maintenance, console running")
		if err := s.begin(ctx, "console"); err == nil {
			t.Error("a service that runs was started again")
		}
		if err := s.begin(ctx, ""); err != nil {
			t.Error(err)
		}
		want("when told to start", "a running, console running")
	}, func(s *supervisor) {
		s.held, s.gaveUp = "crashes", func(svc Service, why string) { told = append(told, svc.Name+" "+why) }
	})
	if diff := cmp.Diff([]string{"a crashes"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestServicesCountAsStartedWhenReadyOrFailed(t *testing.T) {
	services := []Service{{Name: "a"}, {Name: "b", Notify: true, StartTimeoutSec: 20}, {Name: "c", Notify: true, StartTimeoutSec: 20}}
	inBubble(t, services, func(ctx context.Context, s *supervisor, h *fakeHost) {
		started := func() bool {
			synctest.Wait()
			select {
			case <-s.started:
				return true
			default:
				return false
			}
		}
		if started() {
			t.Error("started before anyone is ready")
		}
		s.notify(ctx, notification{pid: 2, events: []event{{kind: evReady}}})
		if started() {
			t.Error("started before the last one is ready")
		}
		time.Sleep(time.Minute) // c never is
		if !started() {
			t.Error("a service that fails keeps the others waiting")
		}
	})
}
