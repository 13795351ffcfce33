package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baystream/internal/vmtest"
)

// These tests run in a VM whose first process is this package's program, as one
// of its services (TestTortureInVM starts it). They end the VM by crashes and
// resets; stage, which is on a disk, says how often.
const stageDisk = "/dev/vda"

func stage(t *testing.T) int {
	t.Helper()
	b := make([]byte, 1)
	f, err := os.Open(stageDisk)
	if err == nil {
		_, err = io.ReadFull(f, b)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return int(b[0])
}

func setStage(t *testing.T, n int) {
	t.Helper()
	sector := make([]byte, 512)
	sector[0] = byte(n)
	f, err := os.OpenFile(stageDisk, os.O_WRONLY|unix.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(sector)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// status asks PID 1 how it is: it must always answer.
func status(t *testing.T) Reply {
	t.Helper()
	r, err := askStatus()
	if err != nil {
		t.Fatalf("PID 1: %v", err)
	}
	return r
}

// tell gives PID 1 a command.
func tell(t *testing.T, command string) {
	t.Helper()
	conn, err := net.Dial("unix", controlPath)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, command)
	var r Reply
	if err := json.NewDecoder(conn).Decode(&r); err != nil || !r.OK {
		t.Fatalf("%s: %v %s", command, err, r.Error)
	}
}

func service(t *testing.T, name string) ServiceStatus {
	t.Helper()
	for _, s := range status(t).Services {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no service %s", name)
	return ServiceStatus{}
}

// until waits for what must happen.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not seen; PID 1 says %+v", what, status(t))
		}
	}
}

// unharmed checks that the service beside all this never stopped, and that
// PID 1 still keeps its log.
func unharmed(t *testing.T) {
	t.Helper()
	if s := service(t, "bystander"); s.State != stateRunning || s.Restarts != 0 {
		t.Errorf("the service beside it was harmed: %+v", s)
	}
}

// provoke lets a service that waits for it do its worst, once.
func provoke(t *testing.T, name string) ServiceStatus {
	t.Helper()
	until(t, name+" waits", func() bool { return service(t, name).State == stateMaintenance })
	if err := os.WriteFile("/run/go-"+name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tell(t, "start "+name)
	until(t, name+" is given up", func() bool {
		s := service(t, name)
		return s.State == stateMaintenance && s.Restarts == 1
	})
	return service(t, name)
}

func TestTortureGuest(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	began := stage(t)
	st := status(t)
	fmt.Printf("torture: stage %d, %d crashes, watchdog %+v\n", began, st.Crashes, st.Watchdog)
	if !st.Keeps {
		t.Errorf("a crash would leave nothing: %+v", st.Steps)
	}
	switch began {
	case 0:
		t.Run("first boot", testFirstBoot)
		t.Run("signals", testSignals)
		t.Run("orphans", testOrphans)
		t.Run("fork bomb", testForkBomb)
		t.Run("memory of a service", testServiceOutOfMemory)
		t.Run("memory of the machine", testMachineOutOfMemory)
		t.Run("full disk", testFullDisk)
		t.Run("health", func(t *testing.T) { testHealth(t, 503, "service hog") })
		fmt.Printf("bench init-rss-kib %d\n", residentKiB(t))
	case 1:
		testCrashLeftItsText(t, 1)
		noteKernel(fmt.Sprintf("%s%d", crashMarker, crashLimit-1)) // saves a boot
	case 2:
		testCrashLoopEndsInMaintenance(t)
		setStage(t, 3)
		hang(t) // only the watchdog helps
	case 3:
		if st.Crashes != 0 {
			t.Errorf("%d crashes are told after a reset by the watchdog", st.Crashes)
		}
		return
	}
	if t.Failed() {
		return
	}
	setStage(t, began+1)
	crashKernel(t)
}

func TestHangGuest(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	until(t, "the service beside", func() bool { return service(t, "bystander").State == stateRunning })
	for _, s := range status(t).Steps {
		switch late := strings.Contains(s.Error, errLate.Error()); {
		case s.Name == "programs" && (!late || s.Remedy == ""):
			t.Errorf("the step that hangs: %+v", s)
		case s.Name != "programs" && (late || s.Error != "" && !s.Optional):
			t.Errorf("another step: %+v", s)
		}
	}
	testHealth(t, 503, "boot step programs")
	until(t, "a watchdog", func() bool { return status(t).Watchdog != nil })
	if w := status(t).Watchdog; w.Identity != softwareWatchdog || w.TimeoutSec != tortureWatchdog || w.Starving != "" {
		t.Errorf("watchdog %+v, want the kernel's, %d s, fed", w, tortureWatchdog)
	}
}

func testFirstBoot(t *testing.T) {
	if time.Now().Year() < 2020 {
		t.Errorf("the clock was at 1970 and is at %v", time.Now())
	}
	until(t, "a watchdog", func() bool { return status(t).Watchdog != nil })
	if w := status(t).Watchdog; w.Identity != "i6300ESB timer" || w.TimeoutSec != tortureWatchdog {
		t.Errorf("watchdog %+v, want the chip's, %d s", w, tortureWatchdog)
	}
	until(t, "the service beside", func() bool { return service(t, "bystander").State == stateRunning })
	testHealth(t, 503, "") // some services wait to be provoked
}

// No signal harms PID 1: those that mean something are for the end of the machine.
func testSignals(t *testing.T) {
	sent := 0
	for s := syscall.Signal(1); s <= 64; s++ {
		if meaning(s) != "" {
			continue
		}
		if err := syscall.Kill(1, s); err != nil {
			t.Errorf("signal %d: %v", s, err)
		}
		sent++
	}
	// While it starts services its threads block them, one or the other.
	for range 20 {
		tell(t, "restart crasher")
		for range 50 {
			for _, s := range unheard {
				if err := syscall.Kill(1, s); err != nil {
					t.Errorf("signal %d: %v", s, err)
				}
			}
		}
	}
	if sent < 55 {
		t.Errorf("sent %d signals only", sent)
	}
	unharmed(t)
}

// forker is a program that leaves a number of dead children behind: by clone(2)
// with CLONE_VM and CLONE_VFORK, so that each costs little. The number is at
// forkerCount.
var forker = func() []byte {
	code := []byte{
		0xbb, 0, 0, 0, 0, // mov ebx, count
		0xb8, 56, 0, 0, 0, // mov eax, SYS_clone
		0xbf, 0x11, 0x41, 0, 0, // mov edi, CLONE_VM | CLONE_VFORK | SIGCHLD
		0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0, // the other arguments: 0
		0x0f, 0x05, // syscall
		0x85, 0xc0, 0x74, 0x04, // the child exits
		0xff, 0xcb, 0x75, 0xe2, // the parent goes on
		0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, // exit(0)
	}
	const at, head = 0x400000, 64 + 56
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	le := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	le([]uint16{2, 62})
	le(uint32(1))
	le([]uint64{at + head, 64, 0}) // entry, program headers, no sections
	le(uint32(0))
	le([]uint16{64, 56, 1, 0, 0, 0})
	le([]uint32{1, 5}) // loaded, read and executed
	size := uint64(head + len(code))
	le([]uint64{0, at, at, size, size, 0x1000})
	b.Write(code)
	return b.Bytes()
}()

const forkerCount = 64 + 56 + 1

func testOrphans(t *testing.T) {
	const each, times = 1000, 100
	program := bytes.Clone(forker)
	binary.LittleEndian.PutUint32(program[forkerCount:], each)
	path := filepath.Join(t.TempDir(), "forker")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	before, began := status(t).Reaped, time.Now()
	for range times {
		if out, err := exec.Command(path).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	until(t, "the end of all orphans", func() bool { return status(t).Reaped >= before+each*times })
	fmt.Printf("torture: %d orphans in %v\n", each*times, time.Since(began).Round(time.Millisecond))
	unharmed(t)
}

func testForkBomb(t *testing.T) {
	s := provoke(t, "bomb")
	if s.Usage.PidsRefused == 0 || s.Usage.PidsMax != bombPids {
		t.Errorf("the bomb was not kept in its limits: %+v", s.Usage)
	}
	until(t, "the end of the bomb", func() bool { return service(t, "bomb").Usage.Pids == 0 })
	unharmed(t)
}

func testServiceOutOfMemory(t *testing.T) {
	s := provoke(t, "hog")
	if s.Usage.OOMKills == 0 || !strings.Contains(s.LastExit, "out of memory, of which it may have 64 MiB") {
		t.Errorf("%+v, want killed for want of memory", s)
	}
	unharmed(t)
}

// Without a limit it is the machine that runs out, and the kernel chooses.
func testMachineOutOfMemory(t *testing.T) {
	s := provoke(t, "glutton")
	if s.LastExit != "signal 9: killed: out of memory" {
		t.Errorf("%+v, want killed", s)
	}
	unharmed(t)
}

func testFullDisk(t *testing.T) {
	for _, dir := range []string{"/run", "/tmp"} {
		f, err := os.Create(filepath.Join(dir, "fill"))
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 1<<20)
		for n := 0; err == nil && n < 1<<14; n++ {
			_, err = f.Write(block)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v, want it full", dir, err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
	}
	tell(t, "restart crasher") // its lines go into the log, and its cgroup is there
	until(t, "a restart", func() bool { return service(t, "crasher").LastExit == "exit code 3" })
	unharmed(t)
}

func testHealth(t *testing.T, code int, what string) {
	t.Helper()
	until(t, "health", func() bool { return service(t, "health").State == stateRunning })
	var answer string
	until(t, "an answer", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", HealthPort))
		if err != nil {
			return false
		}
		defer c.Close()
		io.WriteString(c, "GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
		b, err := io.ReadAll(c)
		answer = string(b)
		return err == nil
	})
	if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", code)) || !strings.Contains(answer, what) {
		t.Errorf("health: %s; want %d, %q", answer, code, what)
	}
}

func testCrashLeftItsText(t *testing.T, times int) {
	st := status(t)
	if st.Crashes != times || st.LastCrash != "sysrq triggered crash" {
		t.Errorf("%d crashes, %q; want %d by sysrq", st.Crashes, st.LastCrash, times)
	}
	text, err := filepath.Glob(crashDir + "/dmesg-*")
	if err != nil || len(text) == 0 {
		t.Fatalf("no text in %s: %v", crashDir, err)
	}
	log, err := os.ReadFile(ringPath)
	if err != nil || !strings.Contains(string(log), "crash: ") || !strings.Contains(string(log), "sysrq triggered crash") {
		t.Errorf("the log does not have it: %v", err)
	}
	if left, _ := filepath.Glob(pstoreDir + "/dmesg-*"); len(left) > 0 {
		t.Errorf("%v are still in the way of the next crash", left)
	}
}

func testCrashLoopEndsInMaintenance(t *testing.T) {
	testCrashLeftItsText(t, crashLimit)
	s := service(t, "bystander")
	if s.State != stateMaintenance || !strings.Contains(s.Reason, "crashed 3 times in a row") || s.Remedy == "" {
		t.Errorf("after %d crashes: %+v, want it held back", crashLimit, s)
	}
	testHealth(t, 503, "crashed 3 times in a row")
	tell(t, "start")
	until(t, "a start by hand", func() bool { return service(t, "bystander").State == stateRunning })
}

func crashKernel(t *testing.T) {
	t.Helper()
	fmt.Println("torture: the kernel is made to crash")
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
		t.Fatal(err)
	}
	select {}
}

// hang stops all threads of PID 1, as nothing but a debugger can.
func hang(t *testing.T) {
	t.Helper()
	fmt.Println("torture: PID 1 is made to hang")
	seen := map[int]bool{}
	for more := true; more; {
		more = false
		tasks, err := os.ReadDir("/proc/1/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tasks {
			tid, err := strconv.Atoi(d.Name())
			if err != nil || seen[tid] {
				continue
			}
			seen[tid], more = true, true
			if err := unix.PtraceSeize(tid); err != nil {
				t.Fatalf("thread %d: %v", tid, err)
			}
			if err := unix.PtraceInterrupt(tid); err != nil {
				t.Fatalf("thread %d: %v", tid, err)
			}
		}
	}
	time.Sleep(patience)
	t.Error("nobody reset the machine")
}

func residentKiB(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/1/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n := 0
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// torturer is a service of these tests.
func torturer(kind string) int {
	if kind != "bystander" && kind != "crasher" {
		if _, err := os.Stat("/run/go-" + kind); err != nil {
			fmt.Println("waits for its turn")
			return 1
		}
	}
	switch kind {
	case "bystander":
		forever()
	case "crasher":
		return 3
	case "bomb":
		bomb := bytes.Clone(forker)
		// mov ebx, 0x7fffffff; clone without CLONE_VM and CLONE_VFORK; the child goes on like its parent
		copy(bomb[forkerCount:], []byte{0xff, 0xff, 0xff, 0x7f})
		copy(bomb[64+56+11:], []byte{0x11, 0, 0, 0})
		copy(bomb[64+56+29:], []byte{0x90, 0x90})
		if err := os.WriteFile("/tmp/bomb", bomb, 0o700); err != nil {
			fmt.Println(err)
			return 2
		}
		cmd := exec.Command("/tmp/bomb")
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 2
		}
		for readUsage("/sys/fs/cgroup/baystream/bomb").PidsRefused == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		return 4 // PID 1 cleans up
	case "hog", "glutton":
		for {
			if _, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
				fmt.Println(err)
			}
		}
	}
	return 9
}
