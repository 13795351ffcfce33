package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// idle is a machine that only remembers.
type idle struct {
	rate    int
	verdict verdict
	err     error
}

func (m *idle) Sync() (uint64, error)    { return 12, m.err }
func (m *idle) Verify() (verdict, error) { return m.verdict, m.err }
func (m *idle) Stat() string             { return "writes=3" }
func (m *idle) SetRate(n int)            { m.rate = n }
func (m *idle) Halt()                    {}

func TestCommands(t *testing.T) {
	root := t.TempDir()
	m := &idle{verdict: verdict{Blocks: 4, Last: 9}}
	for _, tc := range []struct{ line, want string }{
		{"sync", "seq=12"},
		{"stat", "writes=3"},
		{"verify", "blocks=4 last=9 torn=0 lost=0 alien=0"},
		{"write /note hello  world", "/note"},
		{"read note", `note "hello  world"`},
		{"write ../../other x", "../../other"},
		{"read /other", `/other "x"`},
		{"rate 5", "5"},
		{"reboot", ""},
	} {
		got, err := command(tc.line, root, m)
		if got != tc.want || err != nil {
			t.Errorf("command(%q) = %q, %v, want %q", tc.line, got, err, tc.want)
		}
	}
	if m.rate != 5 {
		t.Errorf("rate %d, want 5", m.rate)
	}
	if _, err := os.Stat(filepath.Join(root, "other")); err != nil {
		t.Errorf("a path with .. left the root: %v", err)
	}
	for _, line := range []string{"write", "read", "read missing", "rate -1", "rate x", "dance"} {
		if got, err := command(line, root, m); err == nil {
			t.Errorf("command(%q) = %q, want an error", line, got)
		}
	}
}

func TestAFaultyVolumeIsAnError(t *testing.T) {
	for _, m := range []*idle{{verdict: verdict{Blocks: 4, Lost: 1}}, {err: errors.New("no disk")}} {
		if got, err := command("verify", "", m); err == nil {
			t.Errorf("verify of %+v = %q, want an error", m, got)
		}
	}
}

func TestServeAnswersEachLine(t *testing.T) {
	var out bytes.Buffer
	con := newConsole(&out)
	answer(con, "stat", &idle{})
	answer(con, "dance", &idle{})
	got := strings.Split(strings.TrimSpace(out.String()), "\r\n")
	if len(got) != 2 || got[0] != "SAMPLE-OS OK stat writes=3" || !strings.HasPrefix(got[1], "SAMPLE-OS ERROR dance: unknown word") {
		t.Errorf("console %q", got)
	}
}

func TestNotesAreWholeLines(t *testing.T) {
	var out bytes.Buffer
	w := &noteWriter{con: newConsole(&out), prefix: "ISCSID "}
	for _, part := range []string{"conn", "ection is\n\nope", "ra"} {
		w.Write([]byte(part))
	}
	if want := "SAMPLE-OS ISCSID connection is\r\n"; out.String() != want {
		t.Errorf("console %q, want %q", out.String(), want)
	}
}
