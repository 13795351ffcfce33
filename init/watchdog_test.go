package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWatchdogDriversBestFirst(t *testing.T) {
	byAlias := func(m string) []string {
		if strings.HasPrefix(m, "pci:v00008086d000025AB") {
			return []string{"i6300esb"}
		}
		return nil
	}
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"none", nil, []string{"softdog"}},
		{"chip", map[string]string{"sys/bus/pci/devices/0000:00:05.0/modalias": "pci:v00008086d000025ABsv0\n"}, []string{"i6300esb", "softdog"}},
		{"controller and chip", map[string]string{
			"sys/bus/pci/devices/0000:00:05.0/modalias":       "pci:v00008086d000025ABsv0\n",
			"sys/bus/platform/devices/dmi-ipmi-si.0/modalias": "platform:dmi-ipmi-si\n",
		}, []string{"ipmi_si", "i6300esb", "softdog"}},
		{"controller by ACPI", map[string]string{"sys/bus/acpi/devices/IPI0001:00/modalias": "acpi:IPI0001:\n"}, []string{"ipmi_si", "softdog"}},
	} {
		root := t.TempDir()
		for file, text := range tc.files {
			at := filepath.Join(root, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, d := range watchdogDrivers(root, byAlias, watchdogTimeout) {
			name, _ := splitModule(d.modules[0])
			got = append(got, name)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: drivers (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestIllness(t *testing.T) {
	well := vitals{answers: true}
	for _, tc := range []struct {
		name   string
		change func(*vitals)
		want   string // a part of it; "" is well
	}{
		{"well", func(*vitals) {}, ""},
		{"booting", func(v *vitals) { v.booting, v.answers = time.Minute, false }, ""},
		{"booting for ever", func(v *vitals) { v.booting, v.answers = bootLimit+1, false }, "boot steps"},
		{"supervisor hangs", func(v *vitals) { v.answers = false }, "does not answer"},
		{"supervisor hangs, and the console is being read", func(v *vitals) { v.answers, v.reading = false, true }, ""},
		{"stuck for a while", func(v *vitals) { v.stuck, v.stuckFor = "a", stuckLimit }, ""},
		{"stuck", func(v *vitals) { v.stuck, v.stuckFor = "a", stuckLimit+1 }, "service a has survived SIGKILL"},
		{"stuck again and again", func(v *vitals) { v.stuck, v.stuckFor, v.resigned = "a", time.Hour, true }, ""},
		{"ending", func(v *vitals) { v.ending = endLimit }, ""},
		{"ending for ever", func(v *vitals) { v.ending = endLimit + 1 }, "end of the machine"},
	} {
		v := well
		tc.change(&v)
		got := v.illness()
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: illness() = %q, want %q", tc.name, got, tc.want)
		}
	}
}

// A pipe stands for the device: what is written to it is food.
func TestWatchdogStarvesTheIll(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	dog := &watchdog{log: quiet}
	if err := dog.feed(""); err != nil || dog.status() != nil {
		t.Errorf("without a watchdog: %v, %v", err, dog.status())
	}
	dog.file, dog.identity, dog.timeout = w, softwareWatchdog, 60
	for _, why := range []string{"", "ill", "ill", ""} {
		if err := dog.feed(why); err != nil {
			t.Fatal(err)
		}
		if got := dog.status().Starving; got != why {
			t.Errorf("starving = %q, want %q", got, why)
		}
	}
	b := make([]byte, 8)
	if n, _ := r.Read(b); n != 2 {
		t.Errorf("fed %d times, want 2", n)
	}
}

// machineInNeed notes what the last resort does.
type machineInNeed struct {
	crashes int
	counted bool
	did     []string
}

func (m *machineInNeed) say(line string)       { m.did = append(m.did, line) }
func (m *machineInNeed) row() int              { return m.crashes }
func (m *machineInNeed) kept() bool            { return m.counted }
func (m *machineInNeed) pause(d time.Duration) { m.did = append(m.did, "pause "+d.String()) }
func (m *machineInNeed) sync()                 { m.did = append(m.did, "sync") }
func (m *machineInNeed) crash()                { m.did = append(m.did, "crash"); panic("ends here") }
func (m *machineInNeed) resign()               { m.did = append(m.did, "resign"); panic("ends here") }

func TestLastResortIsTakenLateAndNotForEver(t *testing.T) {
	for _, tc := range []struct {
		m    machineInNeed
		want []string
	}{
		{machineInNeed{crashes: 0, counted: true}, []string{"pause 5m0s", "sync", "crash"}},
		{machineInNeed{crashes: 0, counted: false}, []string{"pause 1h0m0s", "sync", "crash"}},
		{machineInNeed{crashes: crashLimit - 1, counted: true}, []string{"resign"}},
	} {
		func() {
			defer func() { recover() }()
			lastResort(&tc.m, "why")
		}()
		var got []string
		for _, d := range tc.m.did {
			if d == "sync" || d == "crash" || d == "resign" || strings.HasPrefix(d, "pause") {
				got = append(got, d)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || !strings.Contains(tc.m.did[0], "why") {
			t.Errorf("%d crashes, counted %v (-want +got):\n%s%q", tc.m.crashes, tc.m.counted, diff, tc.m.did[0])
		}
	}
}
