package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var eventCmp = cmp.AllowUnexported(event{}, notification{}, keeping{})

func events(msg string) []event {
	evs, _ := parseNotify(msg)
	return evs
}

func TestParseNotify(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want []event
	}{
		{"READY=1", []event{{kind: evReady}}},
		{"READY=0", nil},
		{"READY=1\nSTATUS=up and\x1b[2J running\n", []event{{kind: evReady}, {kind: evStatus, text: "up and?[2J running"}}},
		{"WATCHDOG=1", []event{{kind: evPing}}},
		{"WATCHDOG=trigger", []event{{kind: evTrigger}}},
		{"WATCHDOG_USEC=2500000", []event{{kind: evWatchdog, d: 2500 * time.Millisecond}}},
		{"EXTEND_TIMEOUT_USEC=1000000\nSTOPPING=1", []event{{kind: evExtend, d: time.Second}, {kind: evStopping}}},
		{"EXTEND_TIMEOUT_USEC=18446744073709551615", nil},
		{"EXTEND_TIMEOUT_USEC=-1", nil},
		{"MAINPID=1\nFDSTORE=1\nBARRIER=1\nERRNO=2", nil},
		{`X_PROBLEMS=[{"what":"data disk","reason":"no` + "\u009b" + `ne","remedy":"insert one"}]`, []event{{kind: evProblems, problems: []Problem{{"data disk", "no?ne", "insert one"}}}}},
		{"X_PROBLEMS=[]", []event{{kind: evProblems, problems: []Problem{}}}},
		{"X_PROBLEMS=none", nil},
		{"", nil},
	} {
		if diff := cmp.Diff(tc.want, events(tc.in), eventCmp); diff != "" {
			t.Errorf("parseNotify(%q) (-want +got):\n%s", tc.in, diff)
		}
	}
}

func FuzzParseNotify(f *testing.F) {
	f.Add("READY=1\nSTATUS=x\nWATCHDOG_USEC=5")
	f.Add(`X_PROBLEMS=[{"what":"a","reason":"b","remedy":"c"}]`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, ev := range events(s) {
			if ev.d < 0 || ev.text != printable(ev.text) {
				t.Errorf("parseNotify(%q) has %+v", s, ev)
			}
		}
	})
}

// socketDir is a directory with a path short enough for sockets.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "init")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestNotifySocketNamesTheSenderAndAnswersBarriers(t *testing.T) {
	p := filepath.Join(socketDir(t), "notify")
	if err := os.WriteFile(p, nil, 0o600); err != nil { // left by a former life
		t.Fatal(err)
	}
	sock, err := listenNotify(p)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan notification, 4)
	done := make(chan struct{})
	go func() { defer close(done); sock.receive(func(n notification) { got <- n }) }()
	defer func() { sock.close(); <-done }()

	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	send := func(msg string, oob []byte) {
		t.Helper()
		if err := syscall.Sendmsg(fd, []byte(msg), oob, &syscall.SockaddrUnix{Name: p}, 0); err != nil {
			t.Fatal(err)
		}
	}
	send("BARRIER=1", syscall.UnixRights(int(w.Fd())))
	w.Close()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil { // EOF when the other end is closed
		t.Errorf("barrier: read %d, %v, want the end", n, err)
	}
	long := make([]byte, maxNotify+1)
	send("READY=1\n"+string(long), nil) // cut off: not taken
	send("READY=1", nil)
	want := notification{pid: os.Getpid(), events: []event{{kind: evReady}}, keeping: keeping{name: "stored"}}
	if diff := cmp.Diff(want, <-got, eventCmp); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSenderOfRejectsGarbage(t *testing.T) {
	for _, oob := range [][]byte{nil, {1, 2, 3}, make([]byte, 64)} {
		if pid, _, ok := senderOf(oob); ok {
			t.Errorf("senderOf(%v) = %d", oob, pid)
		}
	}
}
