package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
)

// A Slice is one partition as a partition table describes it. Sectors have
// 512 bytes.
type Slice struct {
	Number  int // as Linux numbers it: logical ones from 5
	Start   uint64
	Sectors uint64
	Type    string // GPT: type GUID in lower case; MBR: "0x83"
	Name    string // GPT only
	UUID    string // GPT only
}

// maxSlices bounds what a table may ask for.
const maxSlices = 128

// ReadTable reads the partition table of a disk with 512-byte sectors: GPT when
// there is a valid one, the primary or else its backup, else MBR with logical partitions. A disk without a
// table has no slices. Slices that reach beyond the disk, and tables that
// contradict themselves, are errors.
func ReadTable(r io.ReaderAt, sectors uint64) ([]Slice, error) {
	b := make([]byte, 1024)
	if sectors < 2 {
		return nil, nil
	}
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	var out []Slice
	var err error
	switch {
	case hasGPT(b):
		if out, err = readGPT(r, b[512:], sectors); err != nil {
			if h, _, berr := backupGPT(r, sectors); berr == nil {
				out, err = readGPT(r, h, sectors)
			}
		}
	case b[510] == 0x55 && b[511] == 0xaa && !isFilesystem(b[:512]):
		out, err = readMBR(r, b[:512], sectors)
	}
	if err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	for _, s := range out {
		if s.Sectors == 0 || s.Start >= sectors || s.Sectors > sectors-s.Start {
			return nil, fmt.Errorf("partition table: partition %d (start %d, %d sectors) is outside the disk of %d sectors",
				s.Number, s.Start, s.Sectors, sectors)
		}
	}
	return out, nil
}

// isFilesystem tells a FAT or NTFS boot sector, which has the same signature
// as an MBR, by its jump and its name.
func isFilesystem(b []byte) bool {
	jump := b[0] == 0xeb && b[2] == 0x90 || b[0] == 0xe9
	name := string(b[54:57]) == "FAT" || string(b[82:85]) == "FAT" || string(b[3:7]) == "NTFS"
	return jump && name
}

// hasGPT tells a disk with a GPT, perhaps a damaged one, by its first two
// sectors.
func hasGPT(b []byte) bool {
	typ, _, _ := mbrEntry(b, 0)
	return string(b[512:520]) == "EFI PART" || b[510] == 0x55 && b[511] == 0xaa && typ == 0xee
}

// primaryDamaged tells whether only the backup table of a GPT is good.
func primaryDamaged(r io.ReaderAt, sectors uint64) bool {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 512); err != nil {
		return false
	}
	if _, err := readGPT(r, b, sectors); err == nil {
		return false
	}
	_, _, err := backupGPT(r, sectors)
	return err == nil
}

// backupGPT reads the header in the last sector, and the entries it names.
func backupGPT(r io.ReaderAt, sectors uint64) (header, entries []byte, err error) {
	h := make([]byte, 512)
	if _, err := r.ReadAt(h, int64(sectors-1)*512); err != nil {
		return nil, nil, fmt.Errorf("read backup GPT: %w", err)
	}
	tab, err := gptEntries(r, h, sectors)
	return h, tab, err
}

// gptEntries checks a header and reads its entries.
func gptEntries(r io.ReaderAt, h []byte, sectors uint64) ([]byte, error) {
	if string(h[:8]) != "EFI PART" {
		return nil, errors.New("no GPT header")
	}
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if size < 92 || size > 512 {
		return nil, fmt.Errorf("GPT header of %d bytes", size)
	}
	sum := append([]byte(nil), h[:size]...)
	clear(sum[16:20])
	if crc32.ChecksumIEEE(sum) != le.Uint32(h[16:]) {
		return nil, errors.New("GPT header has a wrong checksum")
	}
	at, n, entry := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if n > 1024 || entry < 128 || entry > 1024 || at >= sectors {
		return nil, fmt.Errorf("GPT with %d entries of %d bytes at sector %d", n, entry, at)
	}
	tab := make([]byte, n*entry)
	if _, err := r.ReadAt(tab, int64(at)*512); err != nil {
		return nil, fmt.Errorf("read GPT entries: %w", err)
	}
	if crc32.ChecksumIEEE(tab) != le.Uint32(h[88:]) {
		return nil, errors.New("GPT entries have a wrong checksum")
	}
	return tab, nil
}

func readGPT(r io.ReaderAt, h []byte, sectors uint64) ([]Slice, error) {
	tab, err := gptEntries(r, h, sectors)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	n, entry := le.Uint32(h[80:]), le.Uint32(h[84:])
	var out []Slice
	for i := range int(n) {
		e := tab[i*int(entry):]
		typ := guid(e[0:16])
		if typ == uuid.Nil {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if last < first || len(out) == maxSlices {
			return nil, fmt.Errorf("GPT entry %d: sectors %d to %d", i+1, first, last)
		}
		out = append(out, Slice{
			Number: i + 1, Start: first, Sectors: last - first + 1,
			Type: typ.String(), UUID: guid(e[16:32]).String(), Name: utf16Name(e[56:128]),
		})
	}
	return out, nil
}

// guid reads the mixed-endian form of UEFI.
func guid(b []byte) uuid.UUID {
	var u uuid.UUID
	copy(u[:], b[:16])
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	return u
}

func utf16Name(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return strings.ToValidUTF8(string(utf16.Decode(u)), "?")
}

func readMBR(r io.ReaderAt, b []byte, sectors uint64) ([]Slice, error) {
	var out []Slice
	for i := range 4 {
		typ, start, n := mbrEntry(b, i)
		switch {
		case typ == 0 || n == 0 || typ == 0xee:
		case isExtended(typ):
			logical, err := readLogical(r, start, sectors)
			if err != nil {
				return nil, err
			}
			out = append(out, logical...)
		default:
			out = append(out, Slice{Number: i + 1, Start: start, Sectors: n, Type: fmt.Sprintf("0x%02x", typ)})
		}
	}
	return out, nil
}

func isExtended(typ byte) bool { return typ == 0x05 || typ == 0x0f || typ == 0x85 }

func mbrEntry(b []byte, i int) (typ byte, start, n uint64) {
	e := b[446+16*i:]
	return e[4], uint64(binary.LittleEndian.Uint32(e[8:])), uint64(binary.LittleEndian.Uint32(e[12:]))
}

// readLogical follows the chain of extended boot records.
func readLogical(r io.ReaderAt, base, sectors uint64) ([]Slice, error) {
	var out []Slice
	b := make([]byte, 512)
	for at, n := base, 5; ; n++ {
		if at >= sectors || len(out) == maxSlices {
			return nil, fmt.Errorf("chain of logical partitions is broken at sector %d", at)
		}
		if _, err := r.ReadAt(b, int64(at)*512); err != nil {
			return nil, fmt.Errorf("read logical partition %d: %w", n, err)
		}
		if b[510] != 0x55 || b[511] != 0xaa {
			return out, nil
		}
		if typ, start, size := mbrEntry(b, 0); typ != 0 && size != 0 {
			out = append(out, Slice{Number: n, Start: at + start, Sectors: size, Type: fmt.Sprintf("0x%02x", typ)})
		}
		typ, next, size := mbrEntry(b, 1)
		if !isExtended(typ) || size == 0 || next == 0 {
			return out, nil
		}
		if base+next <= at {
			return nil, fmt.Errorf("chain of logical partitions turns back at sector %d", at)
		}
		at = base + next
	}
}
