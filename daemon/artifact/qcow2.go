package artifact

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// Fields and bits of docs/interop/qcow2.txt. All numbers are big-endian.
const (
	qcow2Magic = "QFI\xfb"

	incompatDirty       = 1 << 0 // reference counts may be wrong; we do not use them
	incompatCorrupt     = 1 << 1
	incompatExternal    = 1 << 2
	incompatCompression = 1 << 3 // header byte 104 names the method
	incompatExtendedL2  = 1 << 4

	entryOffset     = 0x00fffffffffffe00 // of L1 and standard L2 entries
	entryCompressed = 1 << 62
	entryZero       = 1 << 0

	maxL1Bytes = 32 << 20 // as QEMU has it
)

// qcow2 is an image of version 2 or 3 that stands alone.
type qcow2 struct {
	r           io.ReaderAt
	fileSize    int64
	size        int64 // bytes of the virtual disk
	clusterBits uint
	l1          []uint64
	zstd        bool
}

func openQcow2(r io.ReaderAt, fileSize int64) (*qcow2, error) {
	head := make([]byte, 112)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("image: %w", err)
	}
	q, l1Offset, l1Size, err := parseQcow2(head[:n])
	if err != nil {
		return nil, err
	}
	q.r, q.fileSize = r, fileSize
	if l1Offset+8*l1Size > fileSize {
		return nil, qcow2Damaged("the table of clusters lies outside the file", nil)
	}
	table := make([]byte, 8*l1Size)
	if _, err := io.ReadFull(io.NewSectionReader(r, l1Offset, 8*l1Size), table); err != nil {
		return nil, qcow2Damaged("the table of clusters cannot be read", err)
	}
	q.l1 = make([]uint64, l1Size)
	for i := range q.l1 {
		q.l1[i] = binary.BigEndian.Uint64(table[8*i:])
	}
	return q, nil
}

func qcow2Damaged(reason string, err error) error {
	return &Error{Kind: ErrCorrupt, Object: "image", Reason: "damaged qcow2: " + reason, Remedy: "check it with qemu-img check and send it again", Err: err}
}

func qcow2Refused(reason, remedy string) error {
	return &Error{Kind: ErrUnsupported, Object: "image", Reason: "qcow2 " + reason, Remedy: remedy}
}

const flatten = "convert it with qemu-img convert -O qcow2, which makes one file that stands alone"

// parseQcow2 reads the header and tells where the first table is, and how many
// entries of it are needed.
func parseQcow2(h []byte) (q *qcow2, l1Offset, l1Size int64, err error) {
	if len(h) < 72 || string(h[:4]) != qcow2Magic {
		return nil, 0, 0, qcow2Damaged("short header", nil)
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(h[at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(h[at:]) }
	version := u32(4)
	switch {
	case version != 2 && version != 3:
		return nil, 0, 0, qcow2Refused(fmt.Sprintf("of version %d", version), flatten)
	case u64(8) != 0 || u32(16) != 0:
		return nil, 0, 0, qcow2Refused("that needs a backing file", flatten)
	case u32(32) != 0:
		return nil, 0, 0, qcow2Refused("that is encrypted", "decrypt it with qemu-img convert")
	}
	q = &qcow2{clusterBits: uint(u32(20))}
	if version == 3 {
		if err := q.features(h, u64); err != nil {
			return nil, 0, 0, err
		}
	}
	if q.clusterBits < 9 || q.clusterBits > 21 {
		return nil, 0, 0, qcow2Damaged(fmt.Sprintf("clusters of 2^%d bytes", q.clusterBits), nil)
	}
	size, off := u64(24), u64(40)
	if size == 0 || size > 1<<56 || size%sectorSize != 0 || off > 1<<62 || off%sectorSize != 0 {
		return nil, 0, 0, qcow2Damaged(fmt.Sprintf("disk of %d bytes, table at %d", size, off), nil)
	}
	q.size = int64(size)
	perL1 := int64(1) << (2*q.clusterBits - 3) // bytes that one L1 entry covers
	need := (q.size + perL1 - 1) / perL1
	if int64(u32(36)) < need || 8*need > maxL1Bytes {
		return nil, 0, 0, qcow2Damaged(fmt.Sprintf("table of %d entries for a disk that needs %d", u32(36), need), nil)
	}
	return q, int64(off), need, nil
}

// features refuses what a reader must understand and we do not.
func (q *qcow2) features(h []byte, u64 func(int) uint64) error {
	if len(h) < 104 {
		return qcow2Damaged("short header", nil)
	}
	incompat, headerLen := u64(72), binary.BigEndian.Uint32(h[100:])
	switch {
	case incompat&incompatCorrupt != 0:
		return qcow2Damaged("QEMU has marked it so", nil)
	case incompat&incompatExternal != 0:
		return qcow2Refused("that keeps its data in another file", flatten)
	case incompat&incompatExtendedL2 != 0:
		return qcow2Refused("with extended L2 entries", "convert it with qemu-img convert -O qcow2 -o extended_l2=off")
	case incompat&^(incompatDirty|incompatCompression) != 0:
		return qcow2Refused(fmt.Sprintf("with features %#x that this release does not know", incompat), flatten)
	}
	if incompat&incompatCompression != 0 {
		if headerLen < 105 || len(h) < 105 || h[104] > 1 {
			return qcow2Refused("with an unknown compression", flatten)
		}
		q.zstd = h[104] == 1
	}
	return nil
}

func (q *qcow2) stream() io.ReadCloser {
	return &qcow2Stream{q: q, l1at: -1, cluster: make([]byte, 1<<q.clusterBits), l2: make([]byte, 1<<q.clusterBits)}
}

// qcow2Stream reads the virtual disk from its start, one cluster in memory.
type qcow2Stream struct {
	q       *qcow2
	pos     int64 // of the next byte of the disk
	cluster []byte
	left    []byte // what of cluster is still to be given out
	zeros   int64  // zero bytes to be given out before that
	l2      []byte
	l1at    int64 // index of the L2 table in l2, -1: none
	l2zero  bool
	packed  []byte
	flate   io.ReadCloser
	zstd    *zstd.Decoder
}

func (s *qcow2Stream) Read(p []byte) (int, error) {
	for s.zeros == 0 && len(s.left) == 0 {
		if s.pos >= s.q.size {
			return 0, io.EOF
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	if s.zeros > 0 {
		n := min(int64(len(p)), s.zeros)
		clear(p[:n])
		s.zeros -= n
		return int(n), nil
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

func (s *qcow2Stream) Close() error {
	if s.zstd != nil {
		s.zstd.Close()
	}
	return nil
}

// fill makes the next cluster, or the next run of zeros, ready.
func (s *qcow2Stream) fill() error {
	clusterSize := int64(1) << s.q.clusterBits
	perL1 := clusterSize << (s.q.clusterBits - 3)
	rest := s.q.size - s.pos
	if err := s.table(s.pos / perL1); err != nil {
		return err
	}
	if s.l2zero {
		n := min(perL1-s.pos%perL1, rest)
		s.zeros, s.pos = n, s.pos+n
		return nil
	}
	entry := binary.BigEndian.Uint64(s.l2[8*(s.pos%perL1/clusterSize):])
	n := min(clusterSize, rest)
	defer func() { s.pos += n }()
	switch off := int64(entry & entryOffset); {
	case entry&entryCompressed != 0:
		if err := s.unpack(entry); err != nil {
			return err
		}
	case entry&entryZero != 0 || off == 0:
		s.zeros = n
		return nil
	default:
		if err := s.read(s.cluster[:n], off); err != nil {
			return err
		}
	}
	s.left = s.cluster[:n]
	return nil
}

// table makes the L2 table number i current.
func (s *qcow2Stream) table(i int64) error {
	if s.l1at == i {
		return nil
	}
	off := int64(s.q.l1[i] & entryOffset)
	if s.l2zero = off == 0; !s.l2zero {
		if err := s.read(s.l2, off); err != nil {
			return err
		}
	}
	s.l1at = i
	return nil
}

// read fills p from the file. Data may end early only in the last cluster of
// the file, where the rest counts as zero.
func (s *qcow2Stream) read(p []byte, off int64) error {
	if off%sectorSize != 0 || off >= s.q.fileSize {
		return qcow2Damaged(fmt.Sprintf("a cluster at byte %d lies outside the file", off), nil)
	}
	n, err := io.ReadFull(io.NewSectionReader(s.q.r, off, int64(len(p))), p)
	if err == io.ErrUnexpectedEOF && off+int64(n) == s.q.fileSize {
		clear(p[n:])
		err = nil
	}
	if err != nil {
		return qcow2Damaged("cannot be read", err)
	}
	return nil
}

// unpack expands a compressed cluster: its entry holds offset and sectors.
func (s *qcow2Stream) unpack(entry uint64) error {
	x := 62 - (s.q.clusterBits - 8)
	off := int64(entry & (1<<x - 1))
	sectors := int64(entry>>x&(1<<(62-x)-1)) + 1
	n := min(sectors*sectorSize-off%sectorSize, s.q.fileSize-off)
	if n <= 0 || bits.Len64(uint64(off)) > 56 {
		return qcow2Damaged(fmt.Sprintf("a cluster at byte %d lies outside the file", off), nil)
	}
	if int64(cap(s.packed)) < n {
		s.packed = make([]byte, n)
	}
	s.packed = s.packed[:n]
	if _, err := io.ReadFull(io.NewSectionReader(s.q.r, off, n), s.packed); err != nil {
		return qcow2Damaged("cannot be read", err)
	}
	r, err := s.unpacker(bytes.NewReader(s.packed))
	if err == nil {
		_, err = io.ReadFull(r, s.cluster)
	}
	if err != nil {
		return qcow2Damaged(fmt.Sprintf("the cluster at byte %d does not unpack", off), err)
	}
	return nil
}

func (s *qcow2Stream) unpacker(r io.Reader) (io.Reader, error) {
	if !s.q.zstd {
		if s.flate == nil {
			s.flate = flate.NewReader(r)
			return s.flate, nil
		}
		return s.flate, s.flate.(flate.Resetter).Reset(r, nil)
	}
	if s.zstd == nil {
		var err error
		s.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
	}
	return s.zstd, s.zstd.Reset(r)
}
