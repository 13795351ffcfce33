package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func lockThread() { runtime.LockOSThread() } // never unlocked: the thread ends with its goroutine

func TestControlSocket(t *testing.T) {
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"ready"}, Notify: true})
	first := r.wait("running", 0, running)
	path := filepath.Join(socketDir(t), "init.sock")
	l, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", st, err)
	}
	boot := &bootLog{}
	boot.add(StepStatus{Name: "mount proc", Seconds: 0.5})
	ring := newRing(1000)
	ring.add(noon, "s", "one")
	ring.add(noon, "s", "two")
	ends := make(chan how, 1)
	c := &control{
		log: quiet, sup: r.sup, boot: boot, ring: ring, uid: uint32(os.Getuid()),
		times: bootTimes{kernel: 2 * time.Second, steps: time.Second},
		end:   func(h how) { ends <- h }, uptime: func() time.Duration { return time.Minute },
	}
	go c.serve(r.ctx, l)

	dial := func() (func(cmd string) Reply, *net.UnixConn) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		in := bufio.NewReader(conn)
		return func(cmd string) Reply {
			t.Helper()
			if _, err := conn.Write([]byte(cmd + "\n")); err != nil {
				t.Fatal(err)
			}
			line, err := in.ReadBytes('\n')
			if err != nil {
				t.Fatalf("%s: %v", cmd, err)
			}
			var reply Reply
			if err := json.Unmarshal(line, &reply); err != nil {
				t.Fatalf("%s: %v in %s", cmd, err, line)
			}
			return reply
		}, conn
	}
	ask, _ := dial()
	st := ask("status")
	if !st.OK || st.UptimeSec != 60 || st.BootSec != 1 || st.KernelSec != 2 || len(st.Steps) != 1 || len(st.Services) != 1 ||
		st.Services[0].Name != "a" || st.Services[0].State != stateRunning || st.Services[0].PID != first.PID {
		t.Errorf("status = %+v", st)
	}
	if got := ask("log 1"); !got.OK || len(got.Lines) != 1 || !strings.HasSuffix(got.Lines[0], "s: two") {
		t.Errorf("log 1 = %+v", got)
	}
	if got := ask("log"); len(got.Lines) != 2 {
		t.Errorf("log = %+v", got)
	}
	for cmd, want := range map[string]string{
		"restart b": `"b"`, "restart": `""`, "log x": `"x"`, "dance\x1b": "restart NAME", "": "unknown",
	} {
		if got := ask(cmd); got.OK || !strings.Contains(got.Error, want) {
			t.Errorf("%q = %+v, want an error with %s", cmd, got, want)
		}
	}
	if got := ask("  restart   a "); !got.OK {
		t.Errorf("restart a = %+v", got)
	}
	r.wait("running anew", 0, func(s ServiceStatus) bool { return running(s) && s.PID != first.PID })
	if got := ask("poweroff"); !got.OK || <-ends != poweroff {
		t.Errorf("poweroff = %+v", got)
	}
	if got := ask("reboot"); !got.OK || <-ends != reboot {
		t.Errorf("reboot = %+v", got)
	}

	_, conn := dial()
	conn.Write([]byte(strings.Repeat("x", 10*maxCommand)))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("an endless command gets an answer")
	}
}

func TestControlSocketIsForRootAlone(t *testing.T) {
	path := filepath.Join(socketDir(t), "init.sock")
	l, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &control{log: quiet, uid: uint32(os.Getuid()) + 1}
	done := make(chan struct{})
	go func() { defer close(done); c.serve(t.Context(), l) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "only root") {
		t.Errorf("answer %q, %v", line, err)
	}
	l.Close()
	<-done
}

func TestSignals(t *testing.T) {
	for s, want := range map[syscall.Signal]how{
		syscall.SIGINT: reboot, syscall.SIGTERM: reboot, 39: reboot,
		syscall.SIGPWR: poweroff, syscall.SIGUSR1: poweroff, syscall.SIGUSR2: poweroff, 38: poweroff,
		syscall.SIGHUP: "", syscall.SIGQUIT: "", syscall.SIGPIPE: "", syscall.SIGWINCH: "",
	} {
		if got := meaning(s); got != want {
			t.Errorf("meaning(%v) = %q, want %q", s, got, want)
		}
	}
}

// The test process would die of most of these.
func TestStraySignalsAreHarmless(t *testing.T) {
	chld, rest := catchSignals()
	t.Cleanup(func() { signal.Reset() })
	for _, s := range []syscall.Signal{
		syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGPIPE,
		syscall.SIGALRM, syscall.SIGTSTP, syscall.SIGXCPU, syscall.SIGSYS, 40, 64,
	} {
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		for got := range rest {
			if got == s {
				break // others may come from outside
			}
		}
	}
	syscall.Kill(os.Getpid(), syscall.SIGCHLD)
	<-chld
}

func TestPowerKey(t *testing.T) {
	for bitmap, want := range map[string]bool{
		"10000000000000 0":   true, // ACPI's power button: bit 116
		"10000000000000 0\n": true,
		"402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe": true, // a keyboard with the key
		"70000 0 0 0 0": false, // a mouse
		"":              false,
		"1":             false,
		"x 0":           false,
	} {
		if got := hasKey(bitmap, keyPower); got != want {
			t.Errorf("hasKey(%q) = %v, want %v", bitmap, got, want)
		}
	}
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, 24)
		binary.NativeEndian.PutUint16(b[16:], kind)
		binary.NativeEndian.PutUint16(b[18:], code)
		binary.NativeEndian.PutUint32(b[20:], value)
		return b
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range [][]byte{
		event(evKey, keyPower, 1), event(0, 0, 0), event(evKey, keyPower, 0),
		event(evKey, keyPower, 2), event(evKey, 30, 1), event(3, keyPower, 1), {1, 2, 3},
	} {
		w.Write(ev)
	}
	w.Close()
	pressed := 0
	readKeys(r, func() { pressed++ })
	if pressed != 1 {
		t.Errorf("%d presses, want 1", pressed)
	}
}
