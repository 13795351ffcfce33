package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"
)

// Sizes of DRBD 8.4's internal metadata, which lies at the end of the leg:
//
//	data | bitmap | activity log 32 KiB | superblock 4 KiB
//
// The bitmap has one bit for each 4 KiB of the whole leg.
const (
	superSectors = 8
	alBlocks     = 8
	alSectors    = alBlocks * 8
	tailSectors  = alSectors + superSectors // what must be written on a fresh leg
	bitSectors   = 8                        // one bitmap bit
	tailBytes    = tailSectors * 512
	alExtents    = 257 // drbdmeta's default; 4 MiB each
	extentBytes  = 128 // bitmap bytes of one activity-log extent
)

// Superblock fields, big endian (drbd_int.h, struct meta_data_on_disk).
const (
	magicClean   = 0x8374026b
	magicUnclean = 0x8374026c
	alMagic      = 0x69cb65a2

	flagConsistent  = 1 << 0
	flagPrimary     = 1 << 1
	flagWasUpToDate = 1 << 4
	flagCrashed     = 1 << 6 // was primary when it crashed
	flagALClean     = 1 << 7

	peerMaxBio = 1 << 20 // else 4 KiB requests until a peer was seen
)

// ErrNoMetadata says that a leg does not end in complete DRBD metadata of the
// size asked for.
var ErrNoMetadata = errors.New("no DRBD metadata")

// MetadataSectors is the size of the internal metadata at the end of a leg of
// that many sectors: the bitmap rounded up to 4 KiB, activity log, superblock.
func MetadataSectors(leg uint64) uint64 {
	bits := (leg + bitSectors - 1) / bitSectors
	bytes := (bits + 63) / 64 * 8
	return (bytes+4095)/4096*8 + tailSectors
}

// LegSectors is the size of the leg whose data part is exactly data sectors.
// Data must be a multiple of 8 sectors (4 KiB), as the metadata is found by
// counting 4 KiB blocks back from the end.
func LegSectors(data uint64) (uint64, error) {
	if data == 0 || data%8 != 0 {
		return 0, fmt.Errorf("volume of %d sectors: size must be a positive multiple of 4 KiB", data)
	}
	leg := data + MetadataSectors(data)
	for { // growing the leg may grow the bitmap by a block; this ends at once
		next := data + MetadataSectors(leg)
		if next == leg {
			return leg, nil
		}
		leg = next
	}
}

// A Superblock is the part of the metadata that identifies a leg.
type Superblock struct {
	DataSectors uint64
	UUIDs       [4]uint64 // current, bitmap, two of history
	Flags       uint32
	Clean       bool // the activity log needs no replay
	MDSectors   uint32
}

// tail builds the activity log and superblock of a fresh leg: consistent and
// up to date at birth under the given UUID.
func tail(dataSectors, legSectors, uuid uint64) []byte {
	b := alignedBlock(tailBytes)
	initLog(b[:alSectors*512])
	be := binary.BigEndian
	s := b[alSectors*512:]
	md := MetadataSectors(legSectors)
	be.PutUint64(s[0x00:], dataSectors)
	be.PutUint64(s[0x08:], uuid)
	be.PutUint64(s[0x28:], uuid^0x5555555555555555) // device uuid: any value, nobody compares it
	be.PutUint32(s[0x38:], flagConsistent|flagWasUpToDate|flagALClean)
	be.PutUint32(s[0x3c:], magicClean)
	be.PutUint32(s[0x40:], uint32(md))
	be.PutUint32(s[0x44:], negative(alSectors))
	be.PutUint32(s[0x48:], alExtents)
	be.PutUint32(s[0x4c:], negative(uint32(md-superSectors)))
	be.PutUint32(s[0x50:], 4096) // bytes per bitmap bit
	be.PutUint32(s[0x54:], peerMaxBio)
	be.PutUint32(s[0x58:], 1)        // activity-log stripes
	be.PutUint32(s[0x5c:], alBlocks) // stripe size in 4 KiB
	return b
}

// negative is the two's complement of a distance counted back from the
// superblock.
func negative(sectors uint32) uint32 { return -sectors }

// initLog fills b with activity-log blocks of type INITIALIZED. DRBD counts
// transactions from zero at each attach, so stale blocks must never stay.
func initLog(b []byte) {
	be := binary.BigEndian
	for o := 0; o < len(b); o += 4096 {
		blk := b[o : o+4096]
		clear(blk)
		be.PutUint32(blk[0:], alMagic)
		be.PutUint16(blk[12:], 0xffff)
		be.PutUint32(blk[8:], rawCRC32C(blk))
	}
}

// rawCRC32C is the kernel's crc32c with seed 0 and no final inversion.
func rawCRC32C(b []byte) uint32 {
	return ^crc32.Update(^uint32(0), crc32.MakeTable(crc32.Castagnoli), b)
}

// WriteMetadata makes a fresh leg a DRBD device that is UpToDate at birth,
// with no initial sync, under the given initial UUID. The leg must read as
// zeros behind the data (a new thin device or clone does), for the bitmap is
// not written. The write is one block of 36 KiB; the caller syncs.
//
// Uuid must be random for each incarnation of a volume: a leg of an older
// incarnation that met this one under the same UUID would pass for equal.
// NewUUID makes one.
func WriteMetadata(w io.WriterAt, dataSectors, uuid uint64) error {
	leg, err := LegSectors(dataSectors)
	if err != nil {
		return err
	}
	if uuid < 1<<8 || uuid&1 != 0 {
		return fmt.Errorf("initial UUID %016x: want a random even number", uuid)
	}
	_, err = w.WriteAt(tail(dataSectors, leg, uuid), int64(leg-tailSectors)*512)
	return err
}

// ReadSuperblock reads the superblock of a leg whose data part has that many
// sectors. It answers ErrNoMetadata when there is none, or one of another size.
func ReadSuperblock(r io.ReaderAt, dataSectors uint64) (Superblock, error) {
	leg, err := LegSectors(dataSectors)
	if err != nil {
		return Superblock{}, err
	}
	b := alignedBlock(4096)
	if _, err := r.ReadAt(b, int64(leg-superSectors)*512); err != nil {
		return Superblock{}, err
	}
	return parseSuperblock(b, dataSectors, leg)
}

func parseSuperblock(b []byte, dataSectors, leg uint64) (Superblock, error) {
	be := binary.BigEndian
	s := Superblock{
		DataSectors: be.Uint64(b[0x00:]),
		Flags:       be.Uint32(b[0x38:]),
		MDSectors:   be.Uint32(b[0x40:]),
	}
	for i := range s.UUIDs {
		s.UUIDs[i] = be.Uint64(b[0x08+8*i:])
	}
	switch magic := be.Uint32(b[0x3c:]); {
	case magic == magicClean:
		s.Clean = s.Flags&flagALClean != 0
	case magic != magicUnclean:
		return Superblock{}, fmt.Errorf("%w: magic %08x", ErrNoMetadata, magic)
	}
	if s.DataSectors != dataSectors || uint64(s.MDSectors) != MetadataSectors(leg) {
		return Superblock{}, fmt.Errorf("%w: it is for %d sectors of data and %d of metadata, want %d and %d",
			ErrNoMetadata, s.DataSectors, s.MDSectors, dataSectors, MetadataSectors(leg))
	}
	if be.Uint32(b[0x58:]) != 1 || be.Uint32(b[0x5c:]) != alBlocks {
		return Superblock{}, fmt.Errorf("%w: activity log of another shape", ErrNoMetadata)
	}
	return s, nil
}

// A Leg is the local block device of a volume, opened for reading and writing.
type Leg interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// ApplyLog makes a leg fit to be attached: it marks the extents that the
// activity log names as hot out of sync (after a crash as primary), puts the
// log back to its initial state and the superblock to clean. It is what
// "drbdmeta apply-al" does, and must run before every attach, also after an
// orderly down. It answers how many extents were hot. The marks are on disk
// before the log that asked for them is wiped.
func ApplyLog(leg Leg, dataSectors uint64) (hot int, err error) {
	legSectors, err := LegSectors(dataSectors)
	if err != nil {
		return 0, err
	}
	b := alignedBlock(tailBytes)
	off := int64(legSectors-tailSectors) * 512
	if _, err := leg.ReadAt(b, off); err != nil {
		return 0, fmt.Errorf("read activity log: %w", err)
	}
	log, super := b[:alSectors*512], b[alSectors*512:]
	sb, err := parseSuperblock(super, dataSectors, legSectors)
	if err != nil {
		return 0, err
	}
	extents, state := replay(log)
	primary := sb.Flags&flagPrimary != 0
	if state == logDamaged && primary {
		return 0, errors.New("activity log is damaged on a leg that crashed as primary: take the volume from the partner's leg")
	}
	if state == logUsed && primary {
		if err := markExtents(leg, legSectors, extents); err != nil {
			return 0, fmt.Errorf("mark hot extents: %w", err)
		}
		if err := leg.Sync(); err != nil {
			return 0, fmt.Errorf("mark hot extents: %w", err)
		}
		hot = len(extents)
	}
	if state == logClean && sb.Clean {
		return 0, nil
	}
	if state != logClean {
		initLog(log)
	}
	be := binary.BigEndian
	be.PutUint32(super[0x38:], sb.Flags|flagALClean)
	be.PutUint32(super[0x3c:], magicClean)
	if _, err := leg.WriteAt(b, off); err != nil {
		return 0, fmt.Errorf("write activity log: %w", err)
	}
	return hot, nil
}

type logState int

const (
	logClean   logState = iota // all blocks INITIALIZED
	logUsed                    // has update transactions
	logDamaged                 // neither
)

// replay rebuilds the set of hot extents from the activity log's transactions,
// oldest to newest, in ascending order. Transaction numbers wrap.
func replay(log []byte) ([]uint32, logState) {
	type tr struct {
		num uint32
		blk []byte
	}
	be := binary.BigEndian
	var trs []tr
	valid := 0
	firstValid := false
	for i := 0; i < alBlocks; i++ {
		blk := log[i*4096 : (i+1)*4096]
		if be.Uint32(blk) != alMagic || !crcOK(blk) {
			continue
		}
		valid++
		firstValid = firstValid || i == 0
		if be.Uint16(blk[12:]) == 0 {
			trs = append(trs, tr{be.Uint32(blk[4:]), blk})
		}
	}
	if len(trs) == 0 {
		switch {
		case valid == alBlocks:
			return nil, logClean
		case valid == alBlocks-1 && !firstValid:
			return nil, logUsed // the very first transaction was torn: nothing was hot
		}
		return nil, logDamaged
	}
	sort.Slice(trs, func(i, j int) bool { return int32(trs[i].num-trs[j].num) < 0 })

	const none = ^uint32(0)
	slots := map[uint32]uint32{}
	for _, t := range trs {
		updates, size, start := be.Uint16(t.blk[14:]), uint32(be.Uint16(t.blk[16:])), uint32(be.Uint16(t.blk[18:]))
		for i := uint32(0); i < 919; i++ {
			ext := be.Uint32(t.blk[420+4*i:])
			if ext == none && start+i >= size {
				continue
			}
			slots[start+i] = ext
		}
		for i := 0; i < 64; i++ {
			slot := be.Uint16(t.blk[36+2*i:])
			if i >= int(updates) && slot == 0xffff {
				continue
			}
			slots[uint32(slot)] = be.Uint32(t.blk[164+4*i:])
		}
	}
	seen := map[uint32]bool{}
	var out []uint32
	for _, e := range slots {
		if e != none && !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out, logUsed
}

func crcOK(blk []byte) bool {
	want := binary.BigEndian.Uint32(blk[8:])
	c := make([]byte, 4096)
	copy(c, blk)
	clear(c[8:12])
	return rawCRC32C(c) == want
}

// markExtents sets the bitmap bits of the given extents, in 4 KiB blocks.
func markExtents(leg Leg, legSectors uint64, extents []uint32) error {
	md := MetadataSectors(legSectors)
	start := int64(legSectors-md) * 512
	bitmap := int64(md-tailSectors) * 512
	buf := alignedBlock(4096)
	at := int64(-1)
	flush := func() error {
		if at < 0 {
			return nil
		}
		_, err := leg.WriteAt(buf, start+at)
		return err
	}
	for _, e := range extents {
		pos := int64(e) * extentBytes
		if pos >= bitmap {
			continue // beyond the volume: a damaged entry marks nothing
		}
		if blk := pos &^ 4095; blk != at {
			if err := flush(); err != nil {
				return err
			}
			at = blk
			if _, err := leg.ReadAt(buf, start+at); err != nil {
				return err
			}
		}
		for i := range buf[pos-at:][:extentBytes] {
			buf[pos-at+int64(i)] = 0xff
		}
	}
	return flush()
}
