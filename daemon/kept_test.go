package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon ends and the next one starts: between the two nobody is refused.
func TestListenerIsKeptOverARestart(t *testing.T) {
	var told []string
	var manager *os.File // the service manager's copy
	notify := func(state string, f *os.File) error {
		told = append(told, strings.ReplaceAll(state, "\n", " "))
		if f == nil {
			return nil
		}
		fd, err := unix.Dup(int(f.Fd()))
		manager = os.NewFile(uintptr(fd), "manager's")
		return err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()

	first := &sockets{files: map[string]*os.File{}, notify: notify}
	ctx, end := context.WithCancel(t.Context())
	ln, err := first.listen(ctx, net.ListenConfig{}, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	end()
	ln.Close()
	for _, f := range first.files { // as the end of the process does
		f.Close()
	}
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatalf("between two daemons: %v", err)
	}
	defer c.Close()

	next := &sockets{files: map[string]*os.File{addr: manager}, notify: notify}
	if ln, err = next.listen(t.Context(), net.ListenConfig{}, "tcp", addr); err != nil {
		t.Fatal(err)
	}
	got, err := ln.Accept()
	if err != nil || got.RemoteAddr().String() != c.LocalAddr().String() {
		t.Errorf("the next daemon got %v, %v, want the connection that waited", got, err)
	}
	if err := ln.Close(); err != nil { // the address has gone: nothing is kept
		t.Error(err)
	}
	if _, err := net.DialTimeout("tcp", addr, 10*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("at an address that was given up: %v, want refused", err)
	}
	name := fdName(addr)
	if len(told) != 2 || told[0] != "FDSTORE=1 FDNAME="+name || told[1] != "FDSTOREREMOVE=1 FDNAME="+name || strings.Contains(name, ":") {
		t.Errorf("the service manager was told %q", told)
	}
}

// Without a service manager that keeps sockets it is an ordinary listener.
func TestListenerWithoutServiceManager(t *testing.T) {
	s := &sockets{files: map[string]*os.File{}, notify: func(string, *os.File) error { return errors.New("none") }}
	ln, err := s.listen(t.Context(), net.ListenConfig{}, "tcp", "127.0.0.1:0")
	if err != nil || len(s.files) != 0 {
		t.Fatal(err, s.files)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}
