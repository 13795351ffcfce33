package dm

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeaderSurvivesTheWire(t *testing.T) {
	b := make([]byte, headerSize)
	h := header{size: 4096, flags: flagSuspend | flagActive, targets: 2, dev: 253<<8 | 7, name: "bay-pool", uuid: "BAYSTREAM-x"}
	if err := h.put(b); err != nil {
		t.Fatal(err)
	}
	got := parseHeader(b)
	if diff := cmp.Diff(h, got, cmp.AllowUnexported(header{})); diff != "" {
		t.Error(diff)
	}
	if err := (header{name: string(make([]byte, 200))}).put(b); err == nil {
		t.Error("a name of 200 bytes was taken")
	}
}

func TestTargetsAreAlignedAndChained(t *testing.T) {
	b, err := encodeTargets([]Target{
		{Length: 8, Type: "linear", Params: "8:1 0"},
		{Start: 8, Length: 16, Type: "thin", Params: "253:0 12"},
	})
	if err != nil {
		t.Fatal(err)
	}
	next := binary.LittleEndian.Uint32(b[20:])
	if next%8 != 0 || int(next) >= len(b) || len(b)%8 != 0 {
		t.Errorf("first record ends at %d of %d bytes", next, len(b))
	}
	if got := cstring(b[int(next)+specSize:]); got != "253:0 12" {
		t.Errorf("parameters of the second target = %q", got)
	}
	if _, err := encodeTargets([]Target{{Type: "a-name-of-16-byt"}}); err == nil {
		t.Error("a type of 16 bytes was taken")
	}
}

// statusAnswer lays targets out as the kernel does: offsets count from the
// start of the data.
func statusAnswer(ts ...Target) []byte {
	var out []byte
	for _, t := range ts {
		rec := make([]byte, (specSize+len(t.Params)+1+7)&^7)
		binary.LittleEndian.PutUint64(rec[0:], t.Start)
		binary.LittleEndian.PutUint64(rec[8:], t.Length)
		binary.LittleEndian.PutUint32(rec[20:], uint32(len(out)+len(rec)))
		copy(rec[24:], t.Type)
		copy(rec[specSize:], t.Params)
		out = append(out, rec...)
	}
	return out
}

func TestParseTargets(t *testing.T) {
	want := []Target{{0, 8, "linear", "8:1 0"}, {8, 24, "thin-pool", "0 1/2 3/4 - rw"}}
	b := statusAnswer(want...)
	got, err := parseTargets(b, 2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := parseTargets(b[:50], 2); err == nil {
		t.Error("a short answer was taken")
	}
	if _, err := parseTargets(nil, 1); err == nil {
		t.Error("an empty answer was taken for one target")
	}
}

func TestParseNames(t *testing.T) {
	b := make([]byte, 64)
	le := binary.LittleEndian
	le.PutUint64(b[0:], 253<<8|3)
	le.PutUint32(b[8:], 32)
	copy(b[12:], "pool")
	le.PutUint64(b[32:], 253<<8|1<<20|5) // minor 0x105
	copy(b[44:], "vol")
	got, err := parseNames(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Name{{"pool", 3}, {"vol", 0x105}}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := parseNames(make([]byte, 16)); err != nil || len(got) != 0 {
		t.Errorf("empty list = %v, %v", got, err)
	}
	if _, err := parseNames(nil); err == nil {
		t.Error("no answer was taken for a list")
	}
}

func TestMiscMinor(t *testing.T) {
	n, err := miscMinor([]byte("236 device-mapper\n237 loop-control\n"), "device-mapper")
	if n != 236 || err != nil {
		t.Errorf("miscMinor = %d, %v", n, err)
	}
	if _, err := miscMinor([]byte("237 loop-control\n"), "device-mapper"); err == nil {
		t.Error("a missing device was found")
	}
}

func TestSameTable(t *testing.T) {
	pool := Target{0, 128, "thin-pool", "8:2 8:3 128 10 1 error_if_no_space"}
	for _, c := range []struct {
		name       string
		have, want []Target
		same       bool
	}{
		{"equal", []Target{{0, 8, "thin", "253:0 1"}}, []Target{{0, 8, "thin", "253:0 1"}}, true},
		{"other thin", []Target{{0, 8, "thin", "253:0 2"}}, []Target{{0, 8, "thin", "253:0 1"}}, false},
		{"other size", []Target{{0, 16, "thin", "253:0 1"}}, []Target{{0, 8, "thin", "253:0 1"}}, false},
		{"pool with other water mark", []Target{{0, 128, "thin-pool", "8:2 8:3 128 9 1 error_if_no_space"}}, []Target{pool}, true},
		{"pool elsewhere", []Target{{0, 128, "thin-pool", "8:9 8:3 128 10 0"}}, []Target{pool}, false},
		{"more segments", []Target{pool, pool}, []Target{pool}, false},
	} {
		if got := sameTable(c.have, c.want); got != c.same {
			t.Errorf("%s: sameTable = %v, want %v", c.name, got, c.same)
		}
	}
}
