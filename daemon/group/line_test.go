package group

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/pair"
)

func TestTalkBelievesTheLivingPartner(t *testing.T) {
	var clock time.Duration
	now := func() time.Duration { return clock }
	key := []byte("between us")
	a, b := NewTalk(pair.A, key, now), NewTalk(pair.B, key, now)
	say := func(from *Talk, volume string) []byte {
		t.Helper()
		d, err := from.Seal(Word{Live: []string{volume}})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	take := func(to *Talk, d []byte) {
		t.Helper()
		if err := to.Open(d); err != nil {
			t.Fatal(err)
		}
	}
	take(b, say(a, "first")) // it has not heard this daemon yet
	if _, at := b.Last(); at >= 0 {
		t.Error("a word that answers nobody was believed")
	}
	take(a, say(b, "hello"))
	clock = 5 * time.Second
	old := say(a, "second")
	take(b, old)
	if w, at := b.Last(); at != clock || !cmp.Equal(w.Live, []string{"second"}) {
		t.Errorf("heard %v at %v", w.Live, at)
	}
	take(b, say(a, "third"))
	clock = time.Minute
	take(b, old) // again
	if w, at := b.Last(); at == clock || w.Live[0] != "third" {
		t.Errorf("an old word was believed: %v at %v", w.Live, at)
	}
	for name, d := range map[string][]byte{
		"own, come back": say(b, "x"), "short": {1, 2}, "of another pair": say(NewTalk(pair.A, []byte("others"), now), "x"),
	} {
		if err := b.Open(d); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
	// The partner's daemon starts anew; what the old one said comes late.
	last := say(a, "last of the old")
	anew := NewTalk(pair.A, key, now)
	take(b, say(anew, "x"))
	take(anew, say(b, "x"))
	take(b, say(anew, "new"))
	take(b, last)
	if w, _ := b.Last(); w.Live[0] != "new" {
		t.Errorf("after a restart: %v", w.Live)
	}
}

func TestFlows(t *testing.T) {
	// 198.51.100.8:3260 is 086433C6:0CBC on a little-endian machine.
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the capture is of a little-endian machine")
	}
	table := "  sl  local_address rem_address   st\n" +
		"   0: 086433C6:0CBC 00000000:0000 0A 00000000:00000000\n" +
		"   1: 086433C6:0CBC 646433C6:C350 01 00000000:00000000\n" +
		"   2: 096433C6:0CBC 656433C6:C351 01 00000000:00000000\n"
	got := flows(table, netip.MustParseAddrPort("198.51.100.8:3260"))
	if diff := cmp.Diff([]string{"198.51.100.100:50000"}, texts(got)); diff != "" {
		t.Error(diff)
	}
}

func texts(all []netip.AddrPort) (out []string) {
	for _, a := range all {
		out = append(out, a.String())
	}
	return out
}

func TestTickleHasARightSum(t *testing.T) {
	b := tickle(netip.MustParseAddrPort("198.51.100.8:3260"), netip.MustParseAddrPort("198.51.100.100:50000"))
	sum := uint32(6 + 20)
	for _, part := range [][]byte{b[12:20], b[20:]} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if len(b) != 40 || sum != 0xffff {
		t.Errorf("%d bytes, sum %#x", len(b), sum)
	}
}
