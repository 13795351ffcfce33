package lldp

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"baystream/netcfg/ether"
)

var cmpAddrs = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

var example = Frame{
	Chassis:  ID{ChassisMAC, []byte{2, 0, 0, 0, 0, 3}},
	Port:     ID{PortIfName, []byte("appliance-1:a")},
	TTL:      20 * time.Second,
	PortDesc: "appliance bay 1, port a", SystemName: "VF0001 interconnect bay 3", SystemDesc: "switch",
	Management: []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")},
	PortVLAN:   1, MaxFrame: 9022,
}

func TestFrameRoundTrip(t *testing.T) {
	got, err := Parse(example.Marshal())
	if diff := cmp.Diff(example, got, cmpAddrs); diff != "" || err != nil {
		t.Errorf("Parse(Marshal) = %v (-want +got):\n%s", err, diff)
	}
	if got.ChassisText() != "02:00:00:00:00:03" || got.PortText() != "appliance-1:a" {
		t.Errorf("texts: %s, %s", got.ChassisText(), got.PortText())
	}
}

// TestParse reads frames written by hand after the standard.
func TestParse(t *testing.T) {
	head := "\x02\x07\x04\x02\x00\x00\x00\x00\x03" + "\x04\x04\x05sw1" + "\x06\x02\x00\x78"
	for _, tt := range []struct {
		name, in string
		bad      string
		check    func(Frame) bool
	}{
		{"least", head + "\x00\x00", "", func(f Frame) bool { return f.TTL == 120*time.Second && f.PortText() == "sw1" }},
		{"without an end", head, "", func(f Frame) bool { return f.PortText() == "sw1" }},
		{"padded", head + "\x00\x00" + strings.Repeat("\x00", 20), "", func(f Frame) bool { return true }},
		{"unknown types are skipped", head + "\x20\x03abc\x0a\x02ic\x00\x00", "", func(f Frame) bool { return f.SystemName == "ic" }},
		{"aggregate (802.3)", head + "\xfe\x09\x00\x12\x0f\x03\x03\x00\x00\x00\x05\x00\x00", "", func(f Frame) bool { return f.Aggregation }},
		{"controls of a terminal", head + "\x0a\x06a\x1b[2Jb\x00\x00", "", func(f Frame) bool { return f.SystemName == "a?[2Jb" }},
		{"chassis missing", "\x04\x04\x05sw1", "must come first", nil},
		{"cut", head[:7], "ends within", nil},
		{"cut in a head", head + "\x0a", "ends within", nil},
		{"nothing", "", "ends within", nil},
	} {
		f, err := Parse([]byte(tt.in))
		switch {
		case tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)):
			t.Errorf("%s: Parse = %v, want %q", tt.name, err, tt.bad)
		case tt.bad == "" && (err != nil || !tt.check(f)):
			t.Errorf("%s: Parse = %+v, %v", tt.name, f, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(frame.Marshal())
		if err != nil || again.PortText() != frame.PortText() || again.TTL != frame.TTL {
			t.Errorf("Parse(%x) = %+v, again %+v, %v", b, frame, again, err)
		}
	})
}

func TestCrossed(t *testing.T) {
	for _, tt := range []struct {
		slot   int
		system string
		part   string
	}{
		{3, "VF0001 interconnect bay 3", ""},
		{3, "VF0001 interconnect bay 6", "exchange the cables"},
		{6, "VF0002 interconnect bay 6", "cabled to frame VF0002"},
		{3, "core-switch", ""},
		{3, "VF0001 interconnect bay 03", ""},
		{3, " interconnect bay 3", ""},
	} {
		got := Crossed("enp3s0", tt.slot, "VF0001", tt.system)
		if (got == "") != (tt.part == "") || !strings.Contains(got, tt.part) {
			t.Errorf("Crossed(%d, %q) = %q, want %q", tt.slot, tt.system, got, tt.part)
		}
	}
}

// wire is a cable whose other end the test holds.
type wire struct{ sent, in chan ether.Frame }

func (w *wire) MAC() [6]byte { return [6]byte{2, 0, 0, 0, 0, 1} }
func (w *wire) Send(f ether.Frame) error {
	w.sent <- f
	return nil
}
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

func TestAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{make(chan ether.Frame, 100), make(chan ether.Frame)}
		a := newAgent("enp3s0", w, func() Frame {
			return Frame{Chassis: ID{ChassisMAC, []byte{2, 0, 0, 0, 0, 1}}, SystemName: "VF0001 appliance bay 1"}
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(2 * time.Minute)
		if n := len(w.sent); n < 7 || n > 9 { // four fast ones, then one in 30 s
			t.Errorf("sent %d frames in two minutes", n)
		}
		f, err := Parse((<-w.sent).Payload)
		if err != nil || f.PortText() != "enp3s0" || f.TTL != 2*time.Minute || f.SystemName != "VF0001 appliance bay 1" {
			t.Errorf("sent %+v, %v", f, err)
		}
		if n, ok := a.Neighbour(); ok {
			t.Errorf("neighbour out of nothing: %+v", n)
		}

		hear := func(f Frame) {
			w.in <- ether.Frame{Src: [6]byte{2, 0, 0, 0, 0, 3}, Type: ether.LLDP, Payload: f.Marshal()}
			synctest.Wait()
		}
		for len(w.sent) > 0 {
			<-w.sent
		}
		hear(example)
		first, ok := a.Neighbour()
		if !ok || first.SystemName != example.SystemName {
			t.Errorf("neighbour = %+v, %v", first, ok)
		}
		time.Sleep(5 * time.Second)
		if n := len(w.sent); n < fastCount {
			t.Errorf("a new neighbour got %d frames within 5 s", n)
		}
		hear(example)
		if n, _ := a.Neighbour(); n.Since != first.Since {
			t.Errorf("the same neighbour is new: %v, %v", n.Since, first.Since)
		}
		time.Sleep(21 * time.Second)
		if n, ok := a.Neighbour(); ok {
			t.Errorf("neighbour outlives its time: %+v", n)
		}
		hear(example)
		bye := example
		bye.TTL = 0
		hear(bye)
		if n, ok := a.Neighbour(); ok {
			t.Errorf("neighbour that said goodbye: %+v", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		var last ether.Frame
		for len(w.sent) > 0 {
			last = <-w.sent
		}
		if f, err := Parse(last.Payload); err != nil || f.TTL != 0 || !bytes.Equal(last.Dst[:], nearest[:]) {
			t.Errorf("the last frame is %+v, %v: want a goodbye", f, err)
		}
	})
}
