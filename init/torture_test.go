package main

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
	"time"

	"baystream/image"
	"baystream/internal/vmtest"
)

const (
	tortureWatchdog = 12 // seconds
	bombPids        = 100
)

// A boot step that never ends is left behind at its deadline, and told; all else
// comes up. The file that it mounts is a pipe to which nobody writes. The machine
// has no watchdog but the kernel's.
func TestStepThatHangsInVM(t *testing.T) {
	config, err := json.Marshal(Config{WatchdogSec: tortureWatchdog, Services: []Service{
		{Name: "bystander", Exec: []string{"/test"}, Env: []string{childVar + "=bystander"}},
		{Name: "health", Exec: []string{"/init", "health"}},
		{Name: "tests", Exec: []string{"/vmtest"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	out := vmtest.Run(t, vmtest.Config{
		Package: "baystream/init", Run: "^TestHangGuest$", Init: "baystream/init",
		Modules: []string{"softdog", "loop", "squashfs", "configfs", "evdev", "button"},
		Files: []image.File{
			image.Text("etc/init.json", string(config)), image.Dir("usr"), {Path: "usr.squashfs", Mode: fs.ModeNamedPipe | 0o600},
			{Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		},
		Memory: 256, Timeout: 4 * time.Minute,
	})
	if want := `BOOT STEP FAILED: it is tried again, the rest goes on step=programs err="no end in time (30s)"`; !strings.Contains(out, want) {
		t.Errorf("the console does not say %q", want)
	}
}

// One VM, four boots: two crashes and a reset by the watchdog are between
// them. What happens is in torture_guest_test.go.
func TestTortureInVM(t *testing.T) {
	torture := func(kind string, change func(*Service)) Service {
		s := Service{Name: kind, Exec: []string{"/test"}, Env: []string{childVar + "=" + kind}, Tries: 1}
		if change != nil {
			change(&s)
		}
		return s
	}
	config, err := json.Marshal(Config{
		BuildTime: "2026-01-01T00:00:00Z", WatchdogSec: tortureWatchdog,
		Services: []Service{
			torture("bystander", func(s *Service) { s.Limits = Limits{MemoryMax: 64 << 20} }),
			torture("bomb", func(s *Service) { s.Limits = Limits{PidsMax: bombPids} }),
			torture("hog", func(s *Service) { s.Limits = Limits{MemoryMax: 64 << 20} }),
			torture("glutton", nil), torture("crasher", nil),
			{Name: "health", Exec: []string{"/init", "health"}, Limits: Limits{MemoryMax: 32 << 20, PidsMax: 64}, Maintenance: true},
			{Name: "tests", Exec: []string{"/vmtest"}, Maintenance: true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	out := vmtest.Run(t, vmtest.Config{
		Package: "baystream/init", Run: "^TestTortureGuest$", Init: "baystream/init", Resets: true,
		Modules: []string{"virtio_pci", "virtio_blk", "i6300esb", "ramoops", "configfs", "evdev", "button"},
		Files:   []image.File{image.Text("etc/init.json", string(config)), {Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1}},
		Disks:   []int{1}, Memory: 320, Timeout: 8 * time.Minute,
		Cmdline: "oops=panic memmap=1M$128M",
		Extra:   []string{"-device", "i6300esb", "-action", "watchdog=reset", "-rtc", "base=1970-01-01T00:00:10"},
	})
	for _, want := range []string{"the clock was before the image's build time", "torture: stage 3, 0 crashes", "SERVICE GIVEN UP", "SERVICES ARE HELD BACK", "init: hog said: "} {
		if !strings.Contains(out, want) {
			t.Errorf("the console does not say %q", want)
		}
	}
}
