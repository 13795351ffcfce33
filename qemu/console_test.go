package qemu

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConsoleTextIsPlain(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"lines", "one\r\ntwo\r\n", "one\ntwo\n"},
		{"colours", "\x1b[1;32mgreen\x1b[0m", "green"},
		{"cursor to another line", "\x1b[01;01Habc\x1b[02;01Hdef", "abc\ndef"},
		{"cursor on the line", "\x1b[05;01Ha\x1b[05;02Hb", "ab"},
		{"character set", "\x1b(Bplain", "plain"},
		{"title", "\x1b]0;a title\aafter", "after"},
		{"broken sequence", "\x1b]0;no end\nnext", "\nnext"},
	} {
		var p plainer
		var got []byte
		for _, b := range []byte(c.raw) { // in the smallest pieces
			got = p.append(got, []byte{b})
		}
		if string(got) != c.want {
			t.Errorf("%s: %q is shown as %q, want %q", c.name, c.raw, got, c.want)
		}
	}
}

// plug returns a console with a VM that is on, and the VM's end of the line.
func plug(t *testing.T) (*Console, net.Conn) {
	t.Helper()
	c := newConsole(io.Discard)
	vm, line := net.Pipe()
	done := make(chan struct{})
	c.setPower(true)
	go func() {
		c.serve(line)
		close(done)
	}()
	if _, err := vm.Write([]byte("\r")); err != nil { // read: the line is connected
		t.Fatal(err)
	}
	t.Cleanup(func() {
		vm.Close()
		<-done
	})
	return c, vm
}

func TestConsoleWaits(t *testing.T) {
	c, vm := plug(t)
	found := make(chan []string)
	go func() {
		m, err := c.WaitFrom(t.Context(), 0, regexp.MustCompile(`code (\S+)\n`))
		if err != nil {
			t.Error(err)
		}
		found <- m
	}()
	for _, part := range []string{"boot\r\nco", "de AB", "CD\r\nlogin: "} {
		if _, err := vm.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"code ABCD\n", "ABCD"}, <-found); diff != "" {
		t.Errorf("match (-want +got):\n%s", diff)
	}
	if _, err := c.WaitFrom(t.Context(), 0, regexp.MustCompile(`login: $`)); err != nil {
		t.Errorf("a line without an end: %v", err)
	}
}

func TestConsoleWaitTellsWhyItEnds(t *testing.T) {
	c, vm := plug(t)
	for _, said := range []string{"Kernel panic\n", "\r"} { // the second is taken when the first is kept
		if _, err := vm.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.WaitFrom(ctx, 0, regexp.MustCompile("login"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.setPower(false)
	_, err = c.WaitFrom(t.Context(), 0, regexp.MustCompile("login"))
	if !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("off: %v, want ErrOff and the last lines", err)
	}
}

func TestConsoleHasViewers(t *testing.T) {
	c, vm := plug(t)
	viewer, end := net.Pipe()
	gone := make(chan struct{})
	go func() {
		c.attach(end)
		close(gone)
	}()
	if _, err := viewer.Write([]byte("k")); err != nil { // typed: the viewer is attached
		t.Fatal(err)
	}
	key := make([]byte, 1)
	if _, err := vm.Read(key); err != nil || key[0] != 'k' {
		t.Fatalf("the VM reads %q, %v, want the key typed", key, err)
	}
	go vm.Write([]byte("\x1b[mraw"))
	raw, err := bufio.NewReader(viewer).ReadString('w')
	if err != nil || !strings.HasSuffix(raw, "\x1b[mraw") {
		t.Errorf("the viewer reads %q, %v, want what the VM wrote", raw, err)
	}
	viewer.Close()
	<-gone
}
