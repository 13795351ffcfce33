package member

import (
	"context"
	"encoding/json"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

func key(t *testing.T) *pki.Module {
	t.Helper()
	m, err := pki.OpenModule(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAnnouncementIsSigned(t *testing.T) {
	m, other := key(t), key(t)
	want := Announcement{Module: domain.Module{ID: "S1", Frame: "f1", Bay: "appliance bay 1", Address: "192.0.2.1:7973"}, Domain: "d"}
	b, err := seal(m, want)
	if err != nil {
		t.Fatal(err)
	}
	want.Module.Fingerprint = m.Fingerprint()
	got, err := open(b)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("open: %v (-want +got):\n%s", err, diff)
	}

	var p packet
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	forge := func(what string, change func(*packet)) {
		t.Helper()
		q := p
		change(&q)
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := open(b); err == nil {
			t.Errorf("%s: taken as %+v", what, a)
		}
	}
	forge("another address", func(q *packet) {
		q.Announcement = json.RawMessage(strings.Replace(string(p.Announcement), "192.0.2.1", "192.0.2.9", 1))
	})
	forge("another module's fingerprint", func(q *packet) {
		var err error
		if q.Key, q.Signature, err = other.Sign(p.Announcement); err != nil {
			t.Fatal(err)
		}
	})
	forge("no key", func(q *packet) { q.Key = nil })
	if _, err := open([]byte("hello")); err == nil {
		t.Error("rubbish was taken")
	}
}

func TestModulesFindEachOtherOnALink(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: unshare: %v", err)
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "here"}, PeerName: "there"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"here", "there"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	f := NewFinder(slog.New(slog.DiscardHandler))
	now := time.Now()
	f.now = func() time.Time { return now }
	m := key(t)
	said := Announcement{Module: domain.Module{ID: "S1", Address: "192.0.2.1:7973"}}

	// Sockets are made in this thread, which alone is in the namespace; their
	// use is free to be elsewhere.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn, err := f.join("here")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); f.hear(ctx, conn) }()
	defer func() { cancel(); <-done }()
	deadline := time.Now().Add(time.Minute)
	for len(f.Found()) == 0 { // until the link-local address is no longer tentative
		if time.Now().After(deadline) {
			t.Fatal("the module was not found")
		}
		if err := announceOnce("there", m, said); err != nil {
			t.Log(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	got := f.Found()
	said.Module.Fingerprint = m.Fingerprint()
	if diff := cmp.Diff([]Announcement{said}, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	f.mu.Lock()
	now = now.Add(forgetAfter + time.Second)
	f.mu.Unlock()
	if got := f.Found(); len(got) != 0 {
		t.Errorf("a module that fell silent is still found: %v", got)
	}
}
