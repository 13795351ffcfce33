package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// childVar, in the environment, makes the test binary one of the programs
// below.
const childVar = "BAYSTREAM_INIT_CHILD"

func TestMain(m *testing.M) {
	if os.Args[0] == stubName {
		fmt.Fprintln(os.Stderr, stub(os.Args[1:]))
		os.Exit(127)
	}
	if kind := os.Getenv(childVar); kind != "" {
		os.Exit(program(kind))
	}
	os.Exit(m.Run())
}

// program is a service, and speaks the protocol through go-systemd as the
// daemon does.
func program(kind string) int {
	say := func(s string) {
		if ok, err := daemon.SdNotify(false, s); !ok || err != nil {
			fmt.Println("notify:", ok, err)
			os.Exit(9)
		}
	}
	deaf := make(chan os.Signal, 1)
	switch kind {
	case "ready": // ends in order
		signal.Notify(deaf, syscall.SIGTERM)
		interval, err := daemon.SdWatchdogEnabled(false)
		say(fmt.Sprintf("READY=1\nSTATUS=watchdog %v %v", interval, err))
		fmt.Println("hello", os.Getenv("GREETING"))
		<-deaf
		say("STOPPING=1")
		return 7
	case "silent": // ready, then nothing: its watchdog bites
		say("READY=1")
		forever()
	case "deaf": // does not stop when asked
		signal.Ignore(syscall.SIGTERM)
		say("READY=1")
		forever()
	case "crash":
		return 3
	case "helper": // a helper of a service says it is ready: not its place
		pid, err := syscall.ForkExec("/proc/self/exe", []string{"helper"}, &syscall.ProcAttr{
			Env: []string{childVar + "=silent", "NOTIFY_SOCKET=" + os.Getenv("NOTIFY_SOCKET")}, Files: []uintptr{0, 1, 2},
		})
		if err != nil {
			return 9
		}
		fmt.Println("helper", pid)
		forever()
	case "parent": // leaves a child of its own session behind
		if os.Getenv("PARENT") != "" {
			return 9 // it is one itself: no further
		}
		pid, err := syscall.ForkExec("/proc/self/exe", []string{"orphan"}, &syscall.ProcAttr{
			// A fresh environment: of two values of a variable the first would
			// win, and the orphan would be a parent too, for ever.
			Env:   []string{childVar + "=orphan", "PARENT=" + strconv.Itoa(os.Getpid()), "STAY=" + os.Getenv("STAY")},
			Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return 9
		}
		fmt.Println("orphan", pid)
		if os.Getenv("STAY") != "" {
			say("READY=1")
			forever()
		}
		return 4
	case "server": // keeps its socket with PID 1
		return serveKept(os.Getenv("AT"))
	case "bystander", "crasher", "bomb", "hog", "glutton":
		return torturer(kind)
	case "orphan": // ends when it has been adopted, or killed
		if os.Getenv("STAY") != "" {
			forever()
		}
		for strconv.Itoa(os.Getppid()) == os.Getenv("PARENT") {
			time.Sleep(10 * time.Millisecond)
		}
		return 0
	}
	return 9
}

// serveKept answers connections with where its listener comes from: "kept" by
// PID 1, or "made" and then stored there.
func serveKept(at string) int {
	how := "kept"
	listeners, err := activation.ListenersWithNames()
	if err == nil && len(listeners["s"]) == 0 {
		how = "made"
		var l *net.UnixListener
		if l, err = keptListener(at); err == nil {
			listeners = map[string][]net.Listener{"s": {l}}
		}
	}
	if err == nil {
		_, err = daemon.SdNotify(false, "READY=1")
	}
	for err == nil {
		var c net.Conn
		if c, err = listeners["s"][0].Accept(); err == nil {
			fmt.Fprint(c, how)
			c.Close()
		}
	}
	fmt.Println(err)
	return 9
}

// keptListener listens at a path and leaves the socket with PID 1.
func keptListener(at string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(sock)
	err = unix.Sendmsg(sock, []byte("FDSTORE=1\nFDNAME=s"), unix.UnixRights(int(f.Fd())), &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
	return l, err
}

// rig is a supervisor over real children.
type rig struct {
	t   *testing.T
	sup *supervisor
	ctx context.Context

	mu    sync.Mutex
	lines []string
}

// supervised runs services until the test ends. Each is {name, program}.
func supervised(t *testing.T, p policy, cgroups string, services ...Service) *rig {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range services {
		services[i].Env = append(services[i].Env, childVar+"="+services[i].Exec[0])
		services[i].Exec = []string{self}
		// A slow machine must not look like a slow service.
		if services[i].StartTimeoutSec == 0 {
			services[i].StartTimeoutSec = 3600
		}
		if services[i].StopTimeoutSec == 0 {
			services[i].StopTimeoutSec = 3600
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{t: t, ctx: ctx}
	dir, err := os.MkdirTemp("", "init") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	sock, err := listenNotify(filepath.Join(dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, syscall.SIGCHLD)
	l := &launcher{
		cgroups: cgroups, notify: sock.path,
		line: func(svc, text string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lines = append(r.lines, svc+": "+text)
		},
		warn: func(svc string, err error) { t.Errorf("%s: %v", svc, err) },
	}
	r.sup = newSupervisor(quiet, l, chld, p, services)
	var wg sync.WaitGroup
	wg.Go(func() { r.sup.run(ctx) })
	wg.Go(func() { sock.receive(func(n notification) { r.sup.notify(ctx, n) }) })
	t.Cleanup(func() {
		r.sup.call(ctx, func() { // whatever is left
			r.sup.closing = true
			for _, u := range r.sup.units {
				if u.pid > 0 {
					l.killAll(u.spec, u.pid)
				}
			}
		})
		r.sup.shutdown(ctx)
		cancel()
		sock.close()
		wg.Wait()
		signal.Stop(chld)
		os.RemoveAll(dir)
	})
	return r
}

// patience is how long a test waits for something that must happen.
const patience = time.Minute

// wait waits until service i satisfies ok.
func (r *rig) wait(what string, i int, ok func(ServiceStatus) bool) ServiceStatus {
	r.t.Helper()
	var last ServiceStatus
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		st, err := r.sup.services(r.ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		if last = st[i]; ok(last) {
			return last
		}
	}
	r.t.Fatalf("%s: not seen; last %+v, printed %q", what, last, r.printed())
	return last
}

func (r *rig) printed() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

// waitLine waits for a printed line with the prefix and returns what follows.
func (r *rig) waitLine(prefix string) string {
	r.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, l := range r.printed() {
			if rest, ok := strings.CutPrefix(l, prefix); ok {
				return rest
			}
		}
	}
	r.t.Fatalf("no line %q in %q", prefix, r.printed())
	return ""
}

func running(s ServiceStatus) bool { return s.State == stateRunning }

// fast is a policy for tests: events matter, not how long they take.
var fast = policy{
	backoff:    backoff{min: 10 * time.Millisecond, max: 40 * time.Millisecond, stable: time.Hour},
	abortGrace: patience, killRetry: patience,
}

func TestServiceReadyAndStopped(t *testing.T) {
	r := supervised(t, fast, "", Service{
		Name: "a", Exec: []string{"ready"}, Env: []string{"GREETING=world"}, Notify: true, WatchdogSec: 3600,
	})
	st := r.wait("running with a status", 0, func(s ServiceStatus) bool { return running(s) && s.Status != "" })
	if want := "watchdog 1h0m0s <nil>"; st.Status != want { // so WATCHDOG_PID is right too
		t.Errorf("status = %q, want %q", st.Status, want)
	}
	r.waitLine("a: hello world")
	if err := r.sup.shutdown(r.ctx); err != nil {
		t.Fatal(err)
	}
	st = r.wait("down", 0, func(s ServiceStatus) bool { return s.State == stateDown })
	if st.LastExit != "exit code 7" || st.PID != 0 || st.Restarts != 0 {
		t.Errorf("after stop: %+v, want exit code 7, no pid, no restart", st)
	}
}

func TestServiceWithoutSignOfLifeIsAborted(t *testing.T) {
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"silent"}, Notify: true, WatchdogSec: 0.05})
	st := r.wait("a restart", 0, func(s ServiceStatus) bool { return s.Restarts > 0 })
	if want := "exit code 2"; st.LastExit != want { // what a Go program makes of SIGABRT
		t.Errorf("last exit = %q, want %q", st.LastExit, want)
	}
	r.waitLine("a: SIGABRT: abort") // its stacks are in the log
}

func TestCrashingServiceIsStartedAgain(t *testing.T) {
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"crash"}, Notify: true})
	st := r.wait("three restarts", 0, func(s ServiceStatus) bool { return s.Restarts >= 3 })
	if st.LastExit != "exit code 3" {
		t.Errorf("last exit = %q, want exit code 3", st.LastExit)
	}
}

func TestServiceKilledFromOutsideIsStartedAgain(t *testing.T) {
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"ready"}, Notify: true})
	first := r.wait("running", 0, running)
	syscall.Kill(first.PID, syscall.SIGKILL)
	st := r.wait("running anew", 0, func(s ServiceStatus) bool { return running(s) && s.PID != first.PID })
	if st.LastExit != "signal 9: killed" {
		t.Errorf("last exit = %q, want signal 9: killed", st.LastExit)
	}
}

func TestDeafServiceIsKilled(t *testing.T) {
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"deaf"}, Notify: true, StopTimeoutSec: 0.05})
	r.wait("running", 0, running)
	if err := r.sup.shutdown(r.ctx); err != nil {
		t.Fatal(err)
	}
	st := r.wait("down", 0, func(s ServiceStatus) bool { return s.State == stateDown })
	if st.LastExit != "signal 9: killed" {
		t.Errorf("last exit = %q, want signal 9: killed", st.LastExit)
	}
}

func TestRestartOnRequest(t *testing.T) {
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"ready"}, Notify: true})
	first := r.wait("running", 0, running)
	if err := r.sup.restart(r.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	st := r.wait("running anew", 0, func(s ServiceStatus) bool { return running(s) && s.PID != first.PID })
	if st.LastExit != "exit code 7" || st.Restarts != 1 {
		t.Errorf("after restart: %+v, want exit code 7, one restart", st)
	}
}

func TestHelpersHaveNoSay(t *testing.T) {
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"helper"}, Notify: true})
	helper, err := strconv.Atoi(r.waitLine("a: helper "))
	if err != nil {
		t.Fatal(err)
	}
	// The helper's words are not just late: others come after them.
	st := r.wait("starting", 0, func(s ServiceStatus) bool { return s.State == stateStarting })
	r.sup.notify(r.ctx, notification{pid: helper, events: []event{{kind: evReady}}})
	r.sup.notify(r.ctx, notification{pid: st.PID, events: []event{{kind: evStatus, text: "later"}}})
	r.wait("still starting", 0, func(s ServiceStatus) bool { return s.Status == "later" && s.State == stateStarting })
}

func TestProgramThatIsMissing(t *testing.T) {
	l := &launcher{}
	_, err := l.spawn(Service{Name: "a", Exec: []string{"/nowhere/a"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/a") || !strings.Contains(err.Error(), configPath) {
		t.Errorf("spawn = %v, want the program and where to correct it", err)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skipf("needs to adopt orphans: %v", err)
	}
	t.Cleanup(func() { unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	slow := fast
	slow.backoff = backoff{min: time.Hour, max: time.Hour}
	r := supervised(t, slow, "", Service{Name: "a", Exec: []string{"parent"}})
	st := r.wait("the end of the service", 0, func(s ServiceStatus) bool { return s.State == stateWaiting })
	if st.LastExit != "exit code 4" {
		t.Errorf("last exit = %q, want exit code 4", st.LastExit)
	}
	pid := r.waitLine("a: orphan ")
	gone := func() bool { _, err := os.Stat("/proc/" + pid); return os.IsNotExist(err) }
	for end := time.Now().Add(patience); !gone(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("orphan %s is still there", pid)
		}
	}
	orphans := 0
	r.sup.call(r.ctx, func() { orphans = r.sup.orphans })
	if orphans == 0 {
		t.Error("nobody counted the orphan")
	}
}

func TestCgroupEndsWithItsService(t *testing.T) {
	top := cgroup2(t)
	dir := filepath.Join(top, fmt.Sprintf("baystream-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("needs cgroup2 to write to: %v", err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if _, err := os.Stat(dir + "/cgroup.kill"); err != nil {
		t.Skipf("needs cgroup.kill, Linux 5.14: %v", err)
	}
	// After t.Cleanup of the supervisor, so before the line above.
	t.Cleanup(func() {
		for range 500 { // the killed leave it one by one
			if err := os.Remove(dir + "/a"); err == nil || os.IsNotExist(err) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	r := supervised(t, fast, dir, Service{Name: "a", Exec: []string{"parent"}, Env: []string{"STAY=1"}, Notify: true})
	first := r.wait("running", 0, running)
	orphan := r.waitLine("a: orphan ")
	if b, err := os.ReadFile("/proc/" + orphan + "/cgroup"); err != nil || !strings.Contains(string(b), filepath.Base(dir)+"/a") {
		t.Errorf("cgroup of the child's child = %q, %v", b, err)
	}
	syscall.Kill(first.PID, syscall.SIGKILL)
	r.wait("running anew", 0, func(s ServiceStatus) bool { return running(s) && s.PID != first.PID })
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile("/proc/" + orphan + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			break // dead; its adopter may be slow to reap it
		}
		if time.Now().After(end) {
			t.Fatalf("child %s survived its service", orphan)
		}
	}
}

// cgroup2 is where this machine has its cgroup2 file system.
func cgroup2(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	for l := range strings.Lines(string(mounts)) {
		if f := strings.Fields(l); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("needs cgroup2: not mounted")
	return ""
}

func TestLimitFiles(t *testing.T) {
	got := limitFiles(Limits{MemoryMax: 1 << 20, MemoryPercent: 50, PidsMax: 5, CPUWeight: 200}, 1<<30)
	want := "map[cpu.weight:200 memory.max:1048576 memory.oom.group:1 pids.max:5]"
	if fmt.Sprint(got) != want {
		t.Errorf("limitFiles = %v, want %s", got, want)
	}
	if got := limitFiles(Limits{MemoryPercent: 50}, 1000)["memory.max"]; got != "500" {
		t.Errorf("half of 1000 bytes = %s", got)
	}
	if n := len(limitFiles(Limits{}, 1<<30)); n != 0 {
		t.Errorf("no limits write %d files", n)
	}
}

// forever outlasts every test, but not by much: a test process that was killed
// must not leave programs behind.
func forever() {
	time.Sleep(10 * patience)
	os.Exit(8)
}
