package journal

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/pki"
)

func TestLinesBecomeEntries(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	for line, want := range map[string]Entry{
		`2026-01-02T03:04:05.006Z baystreamd: time=2026-01-02T03:04:05.006Z level=WARN msg="no way" part=rest err="a \"b\" c"`: {at, "baystreamd", "WARN", "no way", map[string]string{"part": "rest", "err": `a "b" c`}},
		`2026-01-02T03:04:05.006Z kernel: virtio_blk: a=b`:                                                                     {at, "kernel", "INFO", "virtio_blk: a=b", nil},
		`2026-01-02T03:04:05.006Z baystreamd: audit: console: alice logged in`:                                                 {at, "baystreamd", "INFO", "audit: console: alice logged in", nil},
		`nonsense`: {Level: "INFO", Message: "nonsense"},
	} {
		if diff := cmp.Diff(want, Parse(line)); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", line, diff)
		}
	}
}

// ring writes lines as PID 1 does.
func ring(t *testing.T, path string, from, to int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := from; n < to; n++ {
		fmt.Fprintf(f, "2026-01-02T03:04:05.%03dZ test: line %d\n", n%1000, n)
	}
}

// The journal goes on where it was after the daemon's restart, across the
// ring's turn, and stays within its bound.
func TestJournalKeepsEachLineOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ring")
	j := New(Config{Ring: path, Dir: filepath.Join(dir, "log"), Log: slog.New(slog.DiscardHandler)})
	run := func(act func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- j.Run(ctx) }()
		act()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	ring(t, path, 0, 10)
	run(func() {})
	ring(t, path, 10, 20)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	ring(t, path, 20, 25)
	run(func() { ring(t, path, 25, 30) })
	all, err := j.Last(1000)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range all {
		if want := fmt.Sprintf("line %d", i); e.Message != want {
			t.Fatalf("entry %d is %q, want %q", i, e.Message, want)
		}
	}
	if len(all) != 30 {
		t.Errorf("%d entries, want 30", len(all))
	}

	long := strings.Repeat("x", 3000)
	var many []Entry
	for range files*fileBytes/3000 + 500 {
		many = append(many, Entry{Time: time.Now(), Source: "test", Level: "INFO", Message: long})
	}
	j.add(many)
	found, total := 0, int64(0)
	list, _ := os.ReadDir(filepath.Join(dir, "log"))
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		found++
		total += info.Size()
	}
	if found > files || total > files*fileBytes {
		t.Errorf("%d files with %d bytes, want at most %d with %d", found, total, files, files*fileBytes)
	}
	if last, err := j.Last(5); err != nil || len(last) != 5 {
		t.Errorf("Last(5) = %d entries, %v", len(last), err)
	}
}

// Who follows gets the last entries and all that come after them, also those that
// come while the first are being passed on.
func TestFollowLeavesNothingOut(t *testing.T) {
	for name, dir := range map[string]string{"in files": t.TempDir(), "in memory": ""} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ring")
			ring(t, path, 0, 10)
			j := New(Config{Ring: path, Dir: dir, Log: slog.New(slog.DiscardHandler)})
			ctx, cancel := context.WithCancel(t.Context())
			running := make(chan error, 1)
			go func() { running <- j.Run(ctx) }()
			for last := []Entry(nil); len(last) < 3; {
				last, _ = j.Last(3)
			}
			var got []string
			err := j.Follow(ctx, 3, func(e Entry) error {
				got = append(got, e.Message)
				switch len(got) {
				case 1:
					ring(t, path, 10, 20)
				case 13:
					cancel()
				}
				return nil
			})
			if err := errors.Join(err, <-running); err != nil {
				t.Error(err)
			}
			var want []string
			for n := 7; n < 20; n++ {
				want = append(want, fmt.Sprintf("line %d", n))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTornLineCostsOnlyItself(t *testing.T) {
	dir := t.TempDir()
	j := New(Config{Ring: filepath.Join(dir, "ring"), Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err := os.WriteFile(j.name(0), []byte(`{"msg":"whole"}`+"\n"+`{"msg":"to`), 0o600); err != nil {
		t.Fatal(err)
	}
	j.add([]Entry{{Message: "new"}})
	all, err := j.Last(10)
	if err != nil || len(all) != 2 || all[0].Message != "whole" || all[1].Message != "new" {
		t.Errorf("Last = %v, %v", all, err)
	}
}

func TestFormat5424(t *testing.T) {
	e := Entry{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Source: "baystreamd", Level: "ERROR", Message: "link down", Attrs: map[string]string{"link name": `a"]b`, "err": "x"}}
	want := `<27>1 2026-01-02T03:04:05.000Z VF0001_1 baystreamd - - [baystream@32473 err="x" link_name="a\"\]b"] ` + "\ufeff" + `link down`
	if got := Format5424(e, "VF0001 1"); got != want {
		t.Errorf("Format5424 = %q, want %q", got, want)
	}
	if got := Format5424(Entry{Message: "m"}, ""); got != "<30>1 - - - - - - \ufeffm" {
		t.Errorf("Format5424 of little = %q", got)
	}
}

// The server gets whole frames over TLS; one that another CA signed gets none.
func TestForwarderSpeaksSyslogOverTLS(t *testing.T) {
	authority, err := pki.Open(t.TempDir(), "collector")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Serve(netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", authority.TLS())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan string, 10)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func(conn net.Conn) {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					n := 0
					if _, err := fmt.Fscanf(r, "%d ", &n); err != nil {
						return
					}
					b := make([]byte, n)
					if _, err := io.ReadFull(r, b); err != nil {
						return
					}
					got <- string(b)
				}
			}(conn)
		}
	}()
	f := &Forwarder{Host: "module", Log: slog.New(slog.DiscardHandler)}
	set := Settings{Server: ln.Addr().String(), CA: string(authority.PEM()), Level: "warn"}
	if err := set.Check(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	j := New(Config{Ring: filepath.Join(t.TempDir(), "ring")})
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, j, set) }()
	for subscribed := false; !subscribed; time.Sleep(time.Millisecond) {
		j.mu.Lock()
		subscribed = len(j.subs) > 0
		j.mu.Unlock()
	}
	j.add([]Entry{{Source: "a", Level: "INFO", Message: "not this"}, {Source: "a", Level: "ERROR", Message: "this\nand this"}, {Source: "b", Level: "WARN", Message: "too"}})
	for _, want := range []string{"this\nand this", "too"} {
		if msg := <-got; !strings.HasSuffix(msg, want) {
			t.Errorf("got %q, want %q", msg, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	other, err := pki.Open(t.TempDir(), "other")
	if err != nil {
		t.Fatal(err)
	}
	set.CA = string(other.PEM())
	if err := f.session(t.Context(), set, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server of another CA: %v", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for server, want := range map[string]string{"": "", "log.example": "log.example:6514", "log.example:1": "log.example:1", "2001:db8::1": "[2001:db8::1]:6514"} {
		s := Settings{Server: server}
		if err := s.Check(); err != nil || s.Server != want {
			t.Errorf("Check(%q) = %q, %v; want %q", server, s.Server, err, want)
		}
	}
	for _, s := range []Settings{{Server: "a", Level: "loud"}, {Server: "a", CA: "nonsense"}, {Server: ":1"}} {
		if err := s.Check(); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}
