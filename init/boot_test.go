package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// recorder is a logger whose lines can be read.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) logger() *slog.Logger {
	return slog.New(&handler{out: func(s string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lines = append(r.lines, s)
	}})
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

func TestStepsGoOnAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		do := func(name string, err error) func(context.Context) error {
			return func(context.Context) error { order = append(order, name); return err }
		}
		release := make(chan struct{})
		steps := []step{
			{name: "a", do: do("a", nil)},
			{name: "b", do: do("b", errors.New("no disk")), remedy: "add a disk"},
			{name: "c", do: do("c", errors.New("no button")), optional: true},
			{name: "d", do: func(context.Context) error { panic("bug") }, optional: true},
			{name: "e", do: func(context.Context) error { <-release; return nil }, limit: 3 * time.Second},
			{name: "f", do: do("f", nil)},
		}
		var rec recorder
		report := &bootLog{}
		began := time.Now()
		failed := runSteps(t.Context(), rec.logger(), report, steps)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("boot took %v, want the late step's 3s", took)
		}
		if diff := cmp.Diff([]string{"a", "b", "c", "f"}, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if len(failed) != 2 || failed[0].step.name != "b" || failed[1].step.name != "e" {
			t.Errorf("failed needed steps: %v", failed)
		}
		for _, want := range []string{`FAILED`, `step=b err="no disk" remedy="add a disk"`, `warn: optional boot step failed step=c`, "panic: bug"} {
			if !strings.Contains(rec.text(), want) {
				t.Errorf("log lacks %q:\n%s", want, rec.text())
			}
		}
		list := report.list()
		if len(list) != 6 || list[1].Error != "no disk" || list[0].Error != "" || list[4].Seconds != 3 {
			t.Errorf("report %+v", list)
		}
		close(release)
	})
}

func TestFailedStepsAreTriedAgainWithoutHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []float64
		began := time.Now()
		steps := []step{
			{name: "moody", do: func(context.Context) error {
				tries = append(tries, time.Since(began).Seconds())
				if len(tries) < 5 {
					return errors.New("not yet")
				}
				return nil
			}},
			// Late, never beside itself, and a success in the end.
			{name: "late", limit: time.Second, do: func() func(context.Context) error {
				runs := 0
				return func(context.Context) error {
					if runs++; runs > 1 {
						t.Error("started twice")
					}
					time.Sleep(10 * time.Second)
					return nil
				}
			}()},
		}
		var rec recorder
		report := &bootLog{}
		failed := runSteps(t.Context(), rec.logger(), report, steps)
		retrySteps(t.Context(), rec.logger(), report, failed, 5*time.Second)
		// Boot took 1 s; then pauses of 5, 10, 20, 40 s; the late step keeps
		// the first round waiting for 1 s.
		if diff := cmp.Diff([]float64{0, 6, 17, 37, 77}, tries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
		for _, st := range report.list() {
			if st.Error != "" {
				t.Errorf("step %s: %s", st.Name, st.Error)
			}
		}
		if n := strings.Count(rec.text(), "succeeded after all"); n != 2 {
			t.Errorf("%d successes in the log, want 2:\n%s", n, rec.text())
		}
	})
}

func TestBootStepsAreInOrder(t *testing.T) {
	at := map[string]int{}
	p := newInit()
	for i, s := range slices.Concat(p.bootSteps(), p.lateSteps()) {
		if _, dup := at[s.name]; dup || s.name == "" || s.do == nil {
			t.Errorf("step %d %q: no name, named twice, or nothing to do", i, s.name)
		}
		at[s.name] = i
	}
	for _, pair := range [][2]string{
		{"mount proc", "limits"}, {"mount devtmpfs", "console"}, {"mount run", "log"},
		{"mount sysfs", "mount cgroup2"}, {"configuration", "kernel modules"},
		{"mount devtmpfs", "programs"}, {"programs", "kernel modules"}, {"mount sysfs", "programs"},
		{"mount proc", "boot trace"}, {"kernel modules", "drivers of disks and ports"}, {"mount devtmpfs", "drivers of disks and ports"},
		{"drivers of disks and ports", "modules on demand"},
		{"mount cgroup2", "control groups"}, {"mount sysfs", "host name"},
	} {
		if at[pair[0]] >= at[pair[1]] {
			t.Errorf("%q comes after %q", pair[0], pair[1])
		}
	}
}

func TestMountLoadsWhatTheKernelLacks(t *testing.T) {
	type result struct {
		errs  []error // of the mounts, in turn
		load  error
		loads int
		ok    bool
	}
	for name, tc := range map[string]result{
		"known":          {errs: []error{nil}, ok: true},
		"mounted":        {errs: []error{unix.EBUSY}, ok: true},
		"module":         {errs: []error{unix.ENODEV, nil}, loads: 1, ok: true},
		"no module":      {errs: []error{unix.ENODEV}, load: errors.New("none"), loads: 1},
		"still unknown":  {errs: []error{unix.ENODEV, unix.ENODEV}, loads: 1},
		"another reason": {errs: []error{unix.EINVAL}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			loads, mounts := 0, 0
			err := fsMount{"testfs", dir, plain, "opt"}.do(
				func(source, target, fstype string, flags uintptr, data string) error {
					if target != dir || fstype != "testfs" || flags != plain || data != "opt" {
						t.Errorf("mount(%q, %q, %q, %#x, %q)", source, target, fstype, flags, data)
					}
					mounts++
					return tc.errs[mounts-1]
				},
				func(modules ...string) error {
					loads++
					if diff := cmp.Diff([]string{"testfs"}, modules); diff != "" {
						t.Errorf("modules (-want +got):\n%s", diff)
					}
					return tc.load
				})
			if (err == nil) != tc.ok || loads != tc.loads || mounts != len(tc.errs) {
				t.Errorf("error %v after %d mounts and %d loads, want ok %v, %d, %d", err, mounts, loads, tc.ok, len(tc.errs), tc.loads)
			}
			if err != nil && !strings.Contains(err.Error(), dir) {
				t.Errorf("error %q does not name the place", err)
			}
			if _, err := os.Stat(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStepsForHardwareThatMayBeMissing(t *testing.T) {
	ran := false
	do := func(context.Context) error { ran = true; return nil }
	dir := t.TempDir()
	if err := ifThere(filepath.Join(dir, "none"), do)(t.Context()); err != nil || ran {
		t.Errorf("missing: %v, ran %v", err, ran)
	}
	if err := ifThere(dir, do)(t.Context()); err != nil || !ran {
		t.Errorf("there: %v, ran %v", err, ran)
	}
}

func TestModulesFailOneByOne(t *testing.T) {
	var mu sync.Mutex
	got := map[string]string{}
	err := loadEach([]string{"good", "bonding  max_bonds=0 x=1", "bad", "absent", "there", "worse"}, 2, func(name, params string) error {
		mu.Lock()
		defer mu.Unlock()
		got[name] = params
		return map[string]error{"bad": errors.New("broken"), "absent": unix.ENODEV, "there": unix.EEXIST, "worse": unix.ENOENT}[name]
	})
	want := map[string]string{"good": "", "bonding": "max_bonds=0 x=1", "bad": "", "absent": "", "there": "", "worse": ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err == nil || err.Error() != "module bad: broken\nmodule worse: no such file or directory" {
		t.Errorf("error = %v", err)
	}
	if err := loadModules(); err != nil {
		t.Errorf("no modules: %v", err)
	}
}

func TestModprobeIsToldByItsArguments(t *testing.T) {
	if c := canonical("x[0-9]-y-z"); c != "x[0-9]_y_z" {
		t.Errorf("canonical = %q", c)
	}
	if name, ok := isModprobe([]string{"/init", "-q", "--", "fs-vfat"}); !ok || name != "fs-vfat" {
		t.Errorf("isModprobe = %q, %v", name, ok)
	}
	if _, ok := isModprobe([]string{"/init"}); ok {
		t.Error("PID 1 takes itself for modprobe")
	}
}

func TestLoopbackComesUp(t *testing.T) {
	done := make(chan struct{})
	var skip, err error
	go func() { // in a thread, and a network, of its own that end with it
		defer close(done)
		lockThread()
		if skip = unix.Unshare(unix.CLONE_NEWNET); skip == nil {
			err = loopbackUp()
			if err == nil {
				var b []byte
				if b, err = os.ReadFile("/proc/thread-self/net/fib_trie"); err == nil && !bytes.Contains(b, []byte("127.0.0.1")) {
					err = errors.New("no 127.0.0.1")
				}
			}
		}
	}()
	<-done
	if skip != nil {
		t.Skipf("needs CAP_SYS_ADMIN: unshare: %v", skip)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestHostname(t *testing.T) {
	for in, want := range map[string]string{
		"VAPP0001\n":                           "baystream-vapp0001",
		"CZ 12/34.x-":                          "baystream-cz1234x",
		"":                                     "baystream",
		"--":                                   "baystream",
		strings.Repeat("a", 100):               "baystream-" + strings.Repeat("a", 48),
		strings.Repeat("a", 47) + "-" + "bbbb": "baystream-" + strings.Repeat("a", 47),
	} {
		if got := hostname(in); got != want || len(got) > 63 {
			t.Errorf("hostname(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestClockIsNeverBeforeTheImage(t *testing.T) {
	built := noon
	for _, tc := range []struct {
		now, built time.Time
		wrong      bool
	}{
		{noon.Add(time.Second), built, false},
		{noon, built, false},
		{noon.Add(-time.Second), built, true},
		{time.Unix(0, 0), time.Time{}, false}, // nobody knows
	} {
		got, wrong := clockAfter(tc.now, tc.built)
		if wrong != tc.wrong || !got.Equal(tc.built) {
			t.Errorf("clockAfter(%v, %v) = %v, %v", tc.now, tc.built, got, wrong)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c, err := parseConfig([]byte(`{"modules":["virtio_pci"],"build_time":"2026-11-22T12:00:00Z","services":[
		{"name":"baystreamd","exec":["/bin/baystreamd","-state","/data"],"env":["K=V"],"notify":true,"watchdog_sec":60,"start_timeout_sec":120,"stop_timeout_sec":20,"limits":{"pids_max":9}},
		{"name":"../x","exec":["/x"]},{"name":"baystreamd","exec":["/y"]},{"name":"z","exec":["z"]},{"name":"","exec":["/x"]}]}`))
	want := Config{
		Modules: []string{"virtio_pci"}, BuildTime: "2026-11-22T12:00:00Z", built: noon,
		Services: []Service{{
			Name: "baystreamd", Exec: []string{"/bin/baystreamd", "-state", "/data"}, Env: []string{"K=V"},
			Notify: true, WatchdogSec: 60, StartTimeoutSec: 120, StopTimeoutSec: 20, Limits: Limits{PidsMax: 9},
		}},
	}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(Config{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, part := range []string{`"../x"`, "named twice", "service z:", `service 5: name ""`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v lacks %q", err, part)
		}
	}
	if _, err := parseConfig([]byte("{")); err == nil {
		t.Error("broken JSON: no error")
	}
	p := filepath.Join(t.TempDir(), "init.json")
	if _, err := readConfig(p); !os.IsNotExist(err) {
		t.Errorf("missing: %v", err)
	}
	os.WriteFile(p, []byte(`{}`), 0o600)
	os.Chtimes(p, noon, noon)
	if c, err := readConfig(p); err != nil || !c.built.Equal(noon) {
		t.Errorf("built = %v, %v, want the file's time", c.built, err)
	}
}
