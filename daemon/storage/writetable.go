package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"
)

// initMark fills the first sector of a blank disk while it is initialised. A
// sector is written whole or not at all, so a power cut at any moment leaves
// either a blank disk, or the mark, and then all begins anew, or the table.
var initMark = sector("baystream: this disk is being initialised; the appliance goes on by itself\n")

func sector(text string) []byte {
	b := make([]byte, 512)
	copy(b, text)
	return b
}

// protectiveMBR is the first sector of a disk with a GPT (UEFI 2.10, section
// 5.2.3). Without it, nobody takes the table for one.
func protectiveMBR(sectors uint64) []byte {
	b := make([]byte, 512)
	copy(b[446:], []byte{0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(b[454:], 1)
	binary.LittleEndian.PutUint32(b[458:], uint32(min(sectors-1, 1<<32-1)))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// writeTable makes a disk ours: it empties what older contents could be
// mistaken for, writes the GPT, and then the sector that makes it count.
func writeTable(f backend.WritableFile, size uint64, slices []Slice) error {
	if err := writeSynced(f, initMark, 0); err != nil {
		return err
	}
	t := gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512}
	for _, s := range slices {
		if _, err := f.WriteAt(make([]byte, mib), int64(s.Start)*512); err != nil {
			return err
		}
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: s.Number, Start: s.Start, End: s.Start + s.Sectors - 1, Type: gpt.LinuxFilesystem, Name: s.Name,
		})
	}
	if err := t.Write(f, int64(size)); err != nil { // the backup first
		return err
	}
	if err := f.(syncer).Sync(); err != nil {
		return err
	}
	return writeSynced(f, protectiveMBR(size/512), 0)
}

type syncer interface{ Sync() error }

func writeSynced(f backend.WritableFile, b []byte, at int64) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.(syncer).Sync()
}

// mendTable writes the primary GPT anew from its backup.
func mendTable(f backend.WritableFile, sectors uint64) error {
	h, tab, err := backupGPT(f, sectors)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	le.PutUint64(h[24:], 1)         // where this header is
	le.PutUint64(h[32:], sectors-1) // and the other
	le.PutUint64(h[72:], 2)         // the entries
	le.PutUint32(h[16:], 0)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
	for _, w := range []struct {
		b  []byte
		at int64
	}{{tab, 2 * 512}, {h, 512}, {protectiveMBR(sectors), 0}} {
		if err := writeSynced(f, w.b, w.at); err != nil {
			return err
		}
	}
	return nil
}

// changeTable opens a disk that nobody uses, lets change write to it, and makes
// the kernel read its partitions.
func changeTable(path string, change func(backend.WritableFile) error) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	if err = change(f); err == nil {
		if err = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); err != nil {
			err = fmt.Errorf("make the kernel read it: %w", err)
		}
	}
	return errors.Join(err, f.Close())
}

// isMarked tells whether the disk's initialisation was begun and not ended.
func isMarked(r io.ReaderAt) (bool, error) {
	b := make([]byte, len(initMark))
	if _, err := r.ReadAt(b, 0); err != nil {
		return false, err
	}
	return bytes.Equal(b, initMark), nil
}
