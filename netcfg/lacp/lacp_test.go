package lacp

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"baystream/netcfg/ether"
)

// pdu is a LACPDU of the kernel's bonding driver, cut after the actor.
func pdu(system byte, key, port byte) []byte {
	b := []byte{1, 1, 1, 20, 0xff, 0xff, 2, 0, 0, 0, 0, system, 0, key, 0, 255, 0, port, 0x4d, 0, 0, 0}
	return append(b, 2, 20)
}

func TestParse(t *testing.T) {
	p, err := Parse(pdu(9, 7, 2))
	if want := (Partner{System: [6]byte{2, 0, 0, 0, 0, 9}, Priority: 0xffff, Key: 7, Port: 2}); err != nil || p != want {
		t.Errorf("Parse = %+v, %v, want %+v", p, err, want)
	}
	marker := pdu(9, 7, 2)
	marker[0] = 2 // the marker protocol
	for _, b := range [][]byte{nil, pdu(9, 7, 2)[:21], marker} {
		if _, err := Parse(b); err == nil {
			t.Errorf("Parse(%x) = nil", b)
		}
	}
}

func TestAggregable(t *testing.T) {
	of := func(system, key, port byte) Partner { p, _ := Parse(pdu(system, key, port)); return p }
	for _, tt := range []struct {
		a, b Partner
		want bool
	}{
		{of(9, 7, 1), of(9, 7, 2), true},
		{of(9, 7, 1), of(8, 7, 2), false}, // two switches
		{of(9, 7, 1), of(9, 6, 2), false}, // two aggregates
		{of(9, 7, 1), of(9, 7, 1), false}, // one port twice: a loop or a hub
		{Partner{}, Partner{}, false},
	} {
		if got := Aggregable(tt.a, tt.b); got != tt.want {
			t.Errorf("Aggregable(%v, %v) = %v", tt.a, tt.b, got)
		}
	}
}

type wire chan ether.Frame

func (wire) MAC() [6]byte { return [6]byte{1} }
func (w wire) Receive(ctx context.Context, each func(ether.Frame)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-w:
			each(f)
		}
	}
}

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := make(wire)
		l := &Listener{conn: w}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		hear := func(b []byte) {
			w <- ether.Frame{Src: [6]byte{2}, Payload: b}
			synctest.Wait()
		}
		hear(pdu(9, 7, 1))
		if p, ok := l.Partner(); ok {
			t.Errorf("once is enough: %v", p)
		}
		time.Sleep(30 * time.Second)
		hear(pdu(9, 7, 1))
		if p, ok := l.Partner(); !ok || p.Key != 7 {
			t.Errorf("Partner = %v, %v", p, ok)
		}
		hear(pdu(8, 7, 1))
		if p, ok := l.Partner(); ok {
			t.Errorf("another partner counts at once: %v", p)
		}
		hear(pdu(8, 7, 1))
		time.Sleep(hold)
		if p, ok := l.Partner(); ok {
			t.Errorf("a partner that is gone: %v", p)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(pdu(9, 7, 1))
	f.Fuzz(func(t *testing.T, b []byte) { Parse(b) })
}
