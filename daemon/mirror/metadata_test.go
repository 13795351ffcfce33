package mirror

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLegSectors(t *testing.T) {
	for _, c := range []struct{ data, md uint64 }{
		{384 << 11, 104}, // as drbdmeta computes it
		{8, 80},          // one block of bitmap
		{1 << 11, 80},
		{128 << 11, 80 + 8}, // a bitmap block holds 128 MiB exactly: the metadata itself needs a second
		{128<<11 - 80, 80},
		{1 << 21, 72 + 64 + 8},    // 1 GiB: 32 KiB of bitmap, plus a block for the metadata
		{10 << 21, 72 + 648},      // 10 GiB: 320 KiB + 4 KiB
		{1 << 31, 72 + 65536 + 8}, // 1 TiB: 32 MiB of bitmap, plus a block for the metadata
	} {
		leg, err := LegSectors(c.data)
		if err != nil {
			t.Errorf("LegSectors(%d): %v", c.data, err)
			continue
		}
		if leg-c.data != c.md {
			t.Errorf("LegSectors(%d) = data + %d, want + %d", c.data, leg-c.data, c.md)
		}
		if MetadataSectors(leg) != leg-c.data {
			t.Errorf("%d sectors: not a fixpoint", c.data)
		}
	}
	for _, bad := range []uint64{0, 7, 1001} {
		if _, err := LegSectors(bad); err == nil {
			t.Errorf("LegSectors(%d): want an error", bad)
		}
	}
}

// ramLeg is the end of a leg in memory, from 4 KiB before its metadata on. It
// remembers the order of writes and syncs.
type ramLeg struct {
	base int64 // where b begins on the leg
	b    []byte
	ops  []string
}

func (r *ramLeg) ReadAt(p []byte, off int64) (int, error) { return copy(p, r.b[off-r.base:]), nil }
func (r *ramLeg) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 4096 {
		r.ops = append(r.ops, "bitmap")
	} else {
		r.ops = append(r.ops, "tail")
	}
	return copy(r.b[off-r.base:], p), nil
}
func (r *ramLeg) Sync() error { r.ops = append(r.ops, "sync"); return nil }

const testData = 384 << 11

func freshLeg(t *testing.T) *ramLeg {
	t.Helper()
	n, err := LegSectors(testData)
	if err != nil {
		t.Fatal(err)
	}
	r := &ramLeg{base: testData*512 - 4096, b: make([]byte, (n-testData)*512+4096)}
	if _, err := ReadSuperblock(r, testData); !errors.Is(err, ErrNoMetadata) {
		t.Fatalf("ReadSuperblock(empty) = %v, want ErrNoMetadata", err)
	}
	if err := WriteMetadata(r, testData, 0x1234567890abcde0); err != nil {
		t.Fatal(err)
	}
	r.ops = nil
	return r
}

func TestFreshMetadataReadsBack(t *testing.T) {
	r := freshLeg(t)
	s, err := ReadSuperblock(r, testData)
	if err != nil {
		t.Fatal(err)
	}
	want := Superblock{DataSectors: testData, UUIDs: [4]uint64{0x1234567890abcde0}, Flags: 0x91, Clean: true, MDSectors: 104}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
	super := r.b[len(r.b)-4096:]
	if al, bm := int32(binary.BigEndian.Uint32(super[0x44:])), int32(binary.BigEndian.Uint32(super[0x4c:])); al != -64 || bm != -96 {
		t.Errorf("al_offset %d, bm_offset %d, want -64 and -96", al, bm)
	}
	if hot, err := ApplyLog(r, testData); hot != 0 || err != nil || len(r.ops) != 0 {
		t.Errorf("ApplyLog(fresh) = %d, %v, wrote %v, want nothing done", hot, err, r.ops)
	}
	if err := WriteMetadata(r, testData, 4); err == nil {
		t.Error("UUID 4 was taken")
	}
	if _, err := ReadSuperblock(&ramLeg{base: r.base + 4096, b: r.b}, testData+8); !errors.Is(err, ErrNoMetadata) {
		t.Errorf("metadata of another size: %v, want ErrNoMetadata", err)
	}
}

// transaction writes one activity-log update: slot -> extent.
func transaction(r *ramLeg, block int, num uint32, context []uint32, updates map[uint16]uint32) {
	b := r.b[len(r.b)-4096-alBlocks*4096+block*4096:][:4096]
	clear(b)
	be := binary.BigEndian
	be.PutUint32(b[0:], alMagic)
	be.PutUint32(b[4:], num)
	be.PutUint16(b[14:], uint16(len(updates)))
	be.PutUint16(b[16:], 64)
	for i := range 64 {
		be.PutUint16(b[36+2*i:], 0xffff)
	}
	for i := range 919 {
		be.PutUint32(b[420+4*i:], ^uint32(0))
	}
	if context == nil {
		be.PutUint16(b[18:], 64) // the context begins behind the last slot
	}
	for i, e := range context {
		be.PutUint32(b[420+4*i:], e)
	}
	i := 0
	for slot, e := range updates {
		be.PutUint16(b[36+2*i:], slot)
		be.PutUint32(b[164+4*i:], e)
		i++
	}
	be.PutUint32(b[8:], rawCRC32C(b))
}

// free is a run of slots that hold no extent.
func free(n int) []uint32 { return slices.Repeat([]uint32{^uint32(0)}, n) }

func setFlags(r *ramLeg, magic, flags uint32) {
	s := r.b[len(r.b)-4096:]
	binary.BigEndian.PutUint32(s[0x38:], flags)
	binary.BigEndian.PutUint32(s[0x3c:], magic)
}

// marked lists the extents whose bitmap bits are all set, and checks that no
// other bit is.
func marked(t *testing.T, r *ramLeg) []uint32 {
	t.Helper()
	bm := r.b[4096 : len(r.b)-36*1024]
	var out []uint32
	for e := 0; e*extentBytes < len(bm); e++ {
		switch chunk := bm[e*extentBytes:][:extentBytes]; {
		case bytes.Equal(chunk, bytes.Repeat([]byte{0xff}, extentBytes)):
			out = append(out, uint32(e))
		case !bytes.Equal(chunk, make([]byte, extentBytes)):
			t.Errorf("extent %d is marked in part", e)
		}
	}
	return out
}

func TestApplyLogAfterCrash(t *testing.T) {
	r := freshLeg(t)
	// Numbers wrap, block 2 is the newest; slot 1 was given away in it.
	transaction(r, 6, 0xfffffffe, append([]uint32{3, 4}, free(62)...), map[uint16]uint32{0: 3, 1: 4})
	transaction(r, 7, 0xffffffff, nil, map[uint16]uint32{2: 40})
	transaction(r, 0, 0, nil, map[uint16]uint32{3: 95, 5: 4000})
	transaction(r, 1, 1, nil, map[uint16]uint32{1: 50})
	transaction(r, 2, 2, nil, map[uint16]uint32{0: 3, 4: 40})
	setFlags(r, magicUnclean, flagConsistent|flagWasUpToDate|flagPrimary)

	hot, err := ApplyLog(r, testData)
	if err != nil || hot != 5 {
		t.Errorf("ApplyLog = %d, %v, want 5 hot extents", hot, err)
	}
	if diff := cmp.Diff([]uint32{3, 40, 50, 95}, marked(t, r)); diff != "" {
		t.Errorf("marked extents: %s", diff)
	}
	if diff := cmp.Diff([]string{"bitmap", "bitmap", "bitmap", "sync", "tail"}, r.ops); diff != "" {
		t.Errorf("order of writes: %s", diff)
	}
	s, err := ReadSuperblock(r, testData)
	if err != nil || !s.Clean || s.Flags&flagPrimary == 0 {
		t.Errorf("superblock = %+v, %v, want clean and still primary", s, err)
	}
	r.ops = nil
	if hot, err := ApplyLog(r, testData); hot != 0 || err != nil || len(r.ops) != 0 {
		t.Errorf("second ApplyLog = %d, %v, %v, want nothing done", hot, err, r.ops)
	}
}

func TestApplyLogAfterOrderlyDown(t *testing.T) {
	r := freshLeg(t)
	transaction(r, 0, 0, nil, map[uint16]uint32{0: 7})
	setFlags(r, magicClean, flagConsistent|flagWasUpToDate|flagALClean)
	if hot, err := ApplyLog(r, testData); hot != 0 || err != nil {
		t.Errorf("ApplyLog = %d, %v", hot, err)
	}
	if m := marked(t, r); len(m) != 0 {
		t.Errorf("marked %v on a leg that was not primary", m)
	}
	if _, state := replay(r.b[len(r.b)-36*1024 : len(r.b)-4096]); state != logClean {
		t.Error("stale transactions are left in the log")
	}
}

func TestApplyLogRefusesDamage(t *testing.T) {
	r := freshLeg(t)
	clear(r.b[len(r.b)-36*1024 : len(r.b)-4096])
	setFlags(r, magicUnclean, flagConsistent|flagPrimary)
	if _, err := ApplyLog(r, testData); err == nil {
		t.Error("a destroyed log on a crashed primary was applied")
	}
	setFlags(r, magicUnclean, flagConsistent)
	if _, err := ApplyLog(r, testData); err != nil {
		t.Errorf("a destroyed log on a secondary: %v", err)
	}
	clear(r.b[len(r.b)-4096:])
	if _, err := ApplyLog(r, testData); !errors.Is(err, ErrNoMetadata) {
		t.Errorf("no superblock: %v, want ErrNoMetadata", err)
	}
}

func TestTornFirstTransaction(t *testing.T) {
	r := freshLeg(t)
	log := r.b[len(r.b)-36*1024 : len(r.b)-4096]
	log[100] ^= 1 // block 0 no longer has a right checksum
	setFlags(r, magicUnclean, flagConsistent|flagPrimary)
	if hot, err := ApplyLog(r, testData); hot != 0 || err != nil {
		t.Errorf("ApplyLog = %d, %v", hot, err)
	}
}

func TestNewUUID(t *testing.T) {
	a, b := NewUUID(), NewUUID()
	if a == b || a&1 != 0 || b&1 != 0 {
		t.Errorf("NewUUID = %x, %x", a, b)
	}
}

func FuzzApplyLog(f *testing.F) {
	r := make([]byte, tailBytes)
	copy(r, tail(testData, testData+104, 0x1000))
	f.Add(r)
	f.Fuzz(func(t *testing.T, b []byte) {
		leg := &ramLeg{base: testData*512 - 4096, b: make([]byte, 104*512+4096)}
		copy(leg.b[len(leg.b)-tailBytes:], b)
		_, _ = ApplyLog(leg, testData)
		if !bytes.Equal(leg.b[:4096], make([]byte, 4096)) {
			t.Error("data were written to")
		}
	})
}
