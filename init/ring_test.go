package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestRingKeepsTheLastLines(t *testing.T) {
	r := newRing(200)
	for i := range 100 {
		r.add(noon, "s", fmt.Sprint("line ", i))
	}
	tail := r.tail(1000)
	if r.size > 200 || len(tail) < 3 || tail[len(tail)-1] != "2026-11-22T12:00:00.000Z s: line 99" {
		t.Errorf("%d bytes, tail %q", r.size, tail)
	}
	if got := r.tail(1); len(got) != 1 || !strings.HasSuffix(got[0], "line 99") {
		t.Errorf("tail(1) = %q", got)
	}
	if got := r.tail(-1); len(got) != 0 {
		t.Errorf("tail(-1) = %q", got)
	}
}

func TestRingFileIsBoundedAndInOrder(t *testing.T) {
	r := newRing(1 << 20)
	r.add(noon, "s", "line 0") // before there is a file
	p := filepath.Join(t.TempDir(), "log", "ring")
	const size = 1000
	if err := r.attach(p, size); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 200; i++ {
		r.add(noon, "s", fmt.Sprint("line ", i))
	}
	older, err := os.ReadFile(p + ".1")
	if err != nil {
		t.Fatal(err)
	}
	newer, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	all := append(older, newer...)
	if len(all) > size || len(all) < size/2 {
		t.Errorf("%d bytes in the file, want %d to %d", len(all), size/2, size)
	}
	lines := strings.Split(strings.TrimSuffix(string(all), "\n"), "\n")
	for i, l := range lines {
		if want := fmt.Sprint("s: line ", 200-len(lines)+i); !strings.HasSuffix(l, want) {
			t.Fatalf("line %d of the file = %q, want %q", i, l, want)
		}
	}
	if st, _ := os.Stat(p); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

func TestRingSurvivesALostFile(t *testing.T) {
	r := newRing(1 << 20)
	dir := filepath.Join(t.TempDir(), "log")
	if err := r.attach(filepath.Join(dir, "ring"), 200); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(dir)
	for i := range 50 {
		r.add(noon, "s", fmt.Sprint("line ", i))
	}
	if got := r.tail(50); len(got) != 50 {
		t.Errorf("%d lines in memory, want 50", len(got))
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext ü":         "plain\ttext ü",
		"\x1b[2J\a\r\x7f\u009b": "?[2J????",
		"bad \xff utf":          "bad ? utf",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
	if n := len(printable(strings.Repeat("x", 3*maxLine))); n != maxLine {
		t.Errorf("a long line has %d bytes, want %d", n, maxLine)
	}
}

// heldConsole is a console that takes nothing until it is released.
type heldConsole struct {
	release chan struct{}
	buf     bytes.Buffer
}

func (h *heldConsole) Write(b []byte) (int, error) {
	<-h.release
	return h.buf.Write(b)
}

func TestConsoleNeverMakesWritersWait(t *testing.T) {
	h := &heldConsole{release: make(chan struct{})}
	c := newConsole(h)
	const lines = 5000
	for i := range lines {
		c.print(fmt.Sprint(i))
	}
	c.flush(time.Millisecond) // held: gives up
	close(h.release)
	c.flush(time.Minute)
	printed, dropped := 0, 0
	for l := range strings.Lines(h.buf.String()) {
		if strings.HasPrefix(l, "init: ") {
			n := 0
			if _, err := fmt.Sscanf(l, "init: %d lines left out", &n); err != nil {
				t.Fatalf("%q: %v", l, err)
			}
			dropped += n
		} else {
			printed++
		}
	}
	if printed+dropped != lines || dropped == 0 {
		t.Errorf("%d lines printed and %d left out, want %d together", printed, dropped, lines)
	}
}

func TestConsoleFlushIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heldConsole{release: make(chan struct{})}
		c := &console{lines: make(chan string, 8), flushes: make(chan chan struct{})} // nobody writes
		c.print("x")
		began := time.Now()
		c.flush(3 * time.Second)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("flush took %v, want 3s", took)
		}
		close(h.release)
	})
}

func TestLogLines(t *testing.T) {
	var got []string
	log := slog.New(&handler{out: func(s string) { got = append(got, s) }})
	log.Info("ready", "service", "a", "pid", 7)
	log.Debug("not shown")
	log.With("step", "mount x").Warn("odd", "err", errors.New(`say "x"`), "empty", "")
	want := []string{
		"ready service=a pid=7",
		`warn: odd step="mount x" err="say \"x\"" empty=""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseKernelRecord(t *testing.T) {
	for _, tc := range []struct {
		in, want string
		ok       bool
	}{
		{"6,339,5140900,-;NET: Registered PF_INET6\n SUBSYSTEM=net\n", "[5.140900] NET: Registered PF_INET6", true},
		{"4,1,12,-,caller=T1;a;b", "[0.000012] a;b", true},
		{"4,1,12", "", false},
		{"4,1;x", "", false},
		{"4,1,x,-;x", "", false},
	} {
		got, ok := parseKernelRecord(tc.in)
		if got != tc.want || ok != tc.ok {
			t.Errorf("parseKernelRecord(%q) = %q, %v, want %q, %v", tc.in, got, ok, tc.want, tc.ok)
		}
	}
}

func FuzzParseKernelRecord(f *testing.F) {
	f.Add("6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n")
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := parseKernelRecord(s); ok && strings.Contains(got, "\n") {
			t.Errorf("%q", got)
		}
	})
}

func TestKernelLogEndsWithoutSpinning(t *testing.T) {
	if err := followKernelLog(filepath.Join(t.TempDir(), "none"), nil); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
	p := filepath.Join(t.TempDir(), "kmsg")
	if err := os.WriteFile(p, []byte("6,1,2000000,-;hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := followKernelLog(p, func(s string) { got = append(got, s) }); err == nil {
		t.Error("no error at the end")
	}
	if diff := cmp.Diff([]string{"[2.000000] hello"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
