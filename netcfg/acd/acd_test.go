package acd

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"baystream/netcfg/ether"
)

var (
	ours  = [6]byte{2, 0, 0, 0, 0, 1}
	other = [6]byte{2, 0, 0, 0, 0, 2}
	addr  = netip.MustParseAddr("192.0.2.10")
)

// wire is a link with one other station, which the test plays.
type wire struct {
	sent chan ether.Frame
	in   chan ether.Frame
}

func newWire() *wire { return &wire{make(chan ether.Frame, 100), make(chan ether.Frame, 100)} }

func (w *wire) MAC() [6]byte             { return ours }
func (w *wire) Send(f ether.Frame) error { w.sent <- f; return nil }
func (w *wire) Close() error             { return nil }
func (w *wire) Receive(ctx context.Context, each func(ether.Frame)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-w.in:
			each(f)
		}
	}
}

func (w *wire) says(op byte, mac [6]byte, from, to netip.Addr) {
	w.in <- ether.Frame{Src: mac, Type: ether.ARP, Payload: packet(op, mac, from, to)}
}

func TestCheck(t *testing.T) {
	none := netip.IPv4Unspecified()
	another := netip.MustParseAddr("192.0.2.11")
	for _, tt := range []struct {
		name     string
		op       byte
		mac      [6]byte
		from, to netip.Addr
		conflict bool
	}{
		{"silence", 0, other, none, none, false},
		{"somebody answers", 2, other, addr, none, true},
		{"somebody announces it", 1, other, addr, addr, true},
		{"somebody asks for it for himself", 1, other, none, addr, true},
		{"somebody asks for another for himself", 1, other, none, another, false},
		{"somebody looks for it", 1, other, another, addr, false},
		{"our own question comes back", 1, ours, none, addr, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire()
				if tt.op != 0 {
					time.AfterFunc(2500*time.Millisecond, func() { w.says(tt.op, tt.mac, tt.from, tt.to) })
				}
				began := time.Now()
				err := check(t.Context(), w, "ic0", addr)
				var c *Conflict
				if errors.As(err, &c) != tt.conflict || err != nil && !tt.conflict {
					t.Fatalf("check = %v", err)
				}
				if took := time.Since(began); !tt.conflict && (took < 4*time.Second || took > 9*time.Second || len(w.sent) != probeNum) {
					t.Errorf("took %v, %d probes", took, len(w.sent))
				}
				if tt.conflict && [6]byte(c.MAC) != other {
					t.Errorf("conflict = %v", c)
				}
				for len(w.sent) > 0 {
					if a, ok := parse((<-w.sent).Payload); !ok || !a.senderIP.IsUnspecified() || a.targetIP != addr {
						t.Errorf("question = %+v", a)
					}
				}
			})
		})
	}
}

func TestCheckEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := check(ctx, newWire(), "ic0", addr); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("check = %v", err)
		}
	})
}

func TestGuardDefends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		port := [6]byte{2, 9}
		g := newGuard("ic0", w, func(mac [6]byte) bool { return mac == port }, slog.New(slog.DiscardHandler))
		g.Watch(addr, netip.MustParseAddr("2001:db8::1"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()

		w.says(1, port, addr, addr)
		w.says(1, ours, addr, addr)
		w.says(1, other, netip.MustParseAddr("192.0.2.99"), addr)
		synctest.Wait()
		if c := g.Conflicts(); len(w.sent) > 0 || len(c) > 0 {
			t.Fatalf("defends against nobody: %v", c)
		}
		for range 15 { // for 15 s, somebody claims it each second
			w.says(1, other, addr, addr)
			time.Sleep(time.Second)
		}
		if n := len(w.sent); n != 2 {
			t.Errorf("defended %d times in 15 s", n)
		}
		if a, _ := parse((<-w.sent).Payload); a.senderIP != addr || a.targetIP != addr || a.sender != ours {
			t.Errorf("defence = %+v", a)
		}
		c := g.Conflicts()
		if len(c) != 1 || [6]byte(c[0].MAC) != other || c[0].Addr != addr {
			t.Errorf("conflicts = %v", c)
		}
		time.Sleep(forget)
		if c := g.Conflicts(); len(c) > 0 {
			t.Errorf("after a long silence: %v", c)
		}
		w.says(1, other, addr, addr)
		synctest.Wait()
		g.Watch()
		if c := g.Conflicts(); len(c) > 0 {
			t.Errorf("no longer ours: %v", c)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(packet(1, ours, addr, addr))
	f.Fuzz(func(t *testing.T, b []byte) { parse(b) })
}
