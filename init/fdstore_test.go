package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A service leaves its listening socket with PID 1 and is killed: who connects
// meanwhile waits, and its next process answers.
func TestListenerOutlivesItsService(t *testing.T) {
	at := filepath.Join(socketDir(t), "s")
	r := supervised(t, fast, "", Service{Name: "a", Exec: []string{"server"}, Env: []string{"AT=" + at}, Notify: true, KeepFDs: 1})
	ask := func() string {
		t.Helper()
		c, err := net.Dial("unix", at)
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		defer c.Close()
		b := make([]byte, 16)
		n, _ := c.Read(b) // empty: it was killed in between
		return string(b[:n])
	}
	first := r.wait("running", 0, running)
	if got := ask(); got != "made" {
		t.Errorf("the first process says %q, want made", got)
	}
	syscall.Kill(first.PID, syscall.SIGKILL)
	for got := ""; got != "kept"; got = ask() { // never refused
		if got != "" && got != "made" {
			t.Fatalf("the next process says %q, want kept", got)
		}
	}
}

func TestStoredDescriptorsAreBounded(t *testing.T) {
	open := func() []int {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		a, err := syscall.Dup(int(r.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := syscall.Dup(int(w.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return []int{a, b}
	}
	var s fdStore
	kept := open()
	if err := s.keep("x", kept, 3); err != nil {
		t.Fatal(err)
	}
	over := open()
	if err := s.keep("y", over, 3); err == nil || len(s.files) != 3 {
		t.Errorf("keep beyond the limit = %v, %d kept", err, len(s.files))
	}
	if err := syscall.Close(over[1]); err != syscall.EBADF {
		t.Errorf("the descriptor beyond the limit is still open: %v", err)
	}
	if diff := cmp.Diff([]string{"LISTEN_FDS=3", "LISTEN_FDNAMES=x:x:y"}, listenEnv(s.files)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	s.drop("x")
	if len(s.files) != 1 || s.files[0].name != "y" || syscall.Close(kept[0]) != syscall.EBADF {
		t.Errorf("after drop: %v", s.files)
	}
	s.drop("y")
}

func TestParseNotifyAboutDescriptors(t *testing.T) {
	for in, want := range map[string]keeping{
		"FDSTORE=1":                           {keep: true, name: "stored"},
		"FDSTORE=1\nFDNAME=rest":              {keep: true, name: "rest"},
		"FDNAME=rest\nFDSTOREREMOVE=1":        {drop: true, name: "rest"},
		"FDSTORE=1\nFDNAME=a:b":               {keep: true, name: "stored"},
		"FDSTORE=1\nFDNAME=a b":               {keep: true, name: "stored"},
		"READY=1":                             {name: "stored"},
		"FDNAME=" + strings.Repeat("x", 1000): {name: "stored"},
	} {
		if _, got := parseNotify(in); got != want {
			t.Errorf("parseNotify(%.40q) says %+v of descriptors, want %+v", in, got, want)
		}
	}
}
