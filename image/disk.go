package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

// Partition types, for Partition.Type.
const (
	TypeESP   = string(gpt.EFISystemPartition)
	TypeLinux = string(gpt.LinuxFilesystem)
)

// FallbackLoader is where firmware looks for a program on an EFI system
// partition when nothing else is configured.
const FallbackLoader = "EFI/BOOT/BOOTX64.EFI"

// A Disk is what WriteDisk writes: a GUID partition table and the contents of
// its partitions, in this order, aligned to 1 MiB.
type Disk struct {
	Name       string // the GUIDs of disk and partitions derive from it
	Size       int64  // bytes; 0 is as small as the partitions allow
	Partitions []Partition
}

// A Partition holds either a FAT32 file system with Files or a copy of Image.
type Partition struct {
	Name  string
	Type  string // GUID: TypeESP, TypeLinux
	Size  int64  // bytes; 0 is that of Image. FAT32 needs 34 MiB or more
	Files []File // regular files; folders are made as needed
	Image string // path of a raw image, as mke2fs -d makes one
}

const (
	mib        = 1 << 20
	sectorSize = 512
	// minFAT32 has the 65525 clusters that firmware takes FAT32 by.
	minFAT32 = 34 * mib
)

// WriteDisk writes a raw disk image to the file at name, sparse. The bytes
// depend on d and the contents of its files alone.
func WriteDisk(name string, d Disk) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("disk %s: %w", filepath.Base(name), err)
		}
	}()
	table, size, err := d.table()
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(name), ".disk-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // gone already when all went well
	defer out.Close()
	if err := out.Truncate(size); err != nil {
		return err
	}
	if err := table.Write(out, size); err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	for i, p := range d.Partitions {
		start := int64(table.Partitions[i].Start) * sectorSize
		if err := p.write(out, start, int64(table.Partitions[i].Size)); err != nil {
			return fmt.Errorf("partition %s: %w", p.Name, err)
		}
	}
	if err := errors.Join(out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), name)
}

// table lays the partitions out; size is that of the whole disk in bytes.
func (d Disk) table() (t *gpt.Table, size int64, err error) {
	t = &gpt.Table{
		LogicalSectorSize:  sectorSize,
		PhysicalSectorSize: sectorSize,
		ProtectiveMBR:      true,
		GUID:               d.guid("disk"),
	}
	at := int64(mib)
	for i, p := range d.Partitions {
		length, err := p.length()
		if err != nil {
			return nil, 0, fmt.Errorf("partition %s: %w", p.Name, err)
		}
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: i + 1,
			Start: uint64(at / sectorSize),
			End:   uint64((at+length)/sectorSize - 1),
			Size:  uint64(length),
			Type:  gpt.Type(p.Type),
			Name:  p.Name,
			GUID:  d.guid(fmt.Sprint("partition ", i+1)),
		})
		at += length
	}
	size = max(d.Size/mib*mib, at+mib) // the last MiB has the second table
	if d.Size != 0 && d.Size < size {
		return nil, 0, fmt.Errorf("%d bytes do not hold the partitions, %d would", d.Size, size)
	}
	return t, size, nil
}

func (d Disk) guid(of string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("urn:baystream:"+d.Name+":"+of)).String()
}

// length is the partition's size in bytes, in whole MiB.
func (p Partition) length() (int64, error) {
	size := p.Size
	if p.Image != "" {
		info, err := os.Stat(p.Image)
		if err != nil {
			return 0, err
		}
		if size == 0 {
			size = info.Size()
		}
		if info.Size() > size {
			return 0, fmt.Errorf("image has %d bytes, the partition %d", info.Size(), size)
		}
	} else if size < minFAT32 {
		return 0, fmt.Errorf("%d bytes are too small for FAT32, it needs %d", size, int64(minFAT32))
	}
	return (size + mib - 1) / mib * mib, nil
}

func (p Partition) write(out *os.File, start, size int64) error {
	if p.Image != "" {
		return copySparse(out, start, p.Image)
	}
	return writeFAT(out, start, size, p.Files)
}

// copySparse copies the file at name to an offset of out, which holds zeros.
func copySparse(out *os.File, start int64, name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	buf := make([]byte, 64<<10)
	zero := make([]byte, len(buf))
	for at := start; ; {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fatClock makes the library date files at the start of FAT's time, 1980. Its
// only way to be told is this variable of the process; the lock lets several
// disks be written at once.
var fatClock sync.Mutex

func writeFAT(out *os.File, start, size int64, files []File) error {
	fatClock.Lock()
	defer fatClock.Unlock()
	const epoch = "SOURCE_DATE_EPOCH"
	if old, ok := os.LookupEnv(epoch); ok {
		defer os.Setenv(epoch, old)
	} else {
		defer os.Unsetenv(epoch)
	}
	if err := os.Setenv(epoch, "315532800"); err != nil {
		return err
	}
	fat, err := fat32.Create(file.New(out, false), fatSize(size), start, sectorSize, "", true)
	if err != nil {
		return err
	}
	entries, err := layout(files)
	if err != nil {
		return err
	}
	for _, f := range entries {
		if err := writeFATFile(fat, f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if err := fat.Close(); err != nil {
		return err
	}
	return fixParents(out, start)
}

// fixParents corrects the ".." of every folder in the root folder of a FAT32
// file system that starts at start. The library writes the root's cluster
// there where the format wants zero (Microsoft's FAT specification, 6.5), and
// fsck.fat takes the folder for damaged.
func fixParents(f *os.File, start int64) error {
	boot := make([]byte, sectorSize)
	if _, err := f.ReadAt(boot, start); err != nil {
		return err
	}
	le := binary.LittleEndian
	var (
		cluster  = int64(boot[13]) * sectorSize // bytes
		table    = start + int64(le.Uint16(boot[14:]))*sectorSize
		data     = table + int64(boot[16])*int64(le.Uint32(boot[36:]))*sectorSize
		entries  = make([]byte, cluster)
		offsetOf = func(n uint32) int64 { return data + int64(n-2)*cluster }
	)
	const (
		folder = 0x10
		label  = 0x08 // and part of the mark of a long name
		last   = 0x0ffffff8
	)
	for at := le.Uint32(boot[44:]); at < last; {
		if _, err := f.ReadAt(entries, offsetOf(at)); err != nil {
			return err
		}
		for e := entries; len(e) > 0 && e[0] != 0; e = e[32:] {
			if e[11]&folder == 0 || e[11]&label != 0 {
				continue
			}
			child := uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))
			dotdot := offsetOf(child) + 32
			for _, field := range []int64{20, 26} {
				if _, err := f.WriteAt([]byte{0, 0}, dotdot+field); err != nil {
					return err
				}
			}
		}
		next := make([]byte, 4)
		if _, err := f.ReadAt(next, table+4*int64(at)); err != nil {
			return err
		}
		at = le.Uint32(next) & 0x0fffffff
	}
	return nil
}

// fatSize is the largest size in bytes, not above size, for which the library
// makes a sound file system. It computes the length of the allocation table
// without the two entries that have no cluster, so that at some sizes the last
// clusters have no entry, and fsck.fat and mtools refuse the whole.
func fatSize(size int64) int64 {
	const reserved, perSector = 32, sectorSize / 4 // sectors; entries
	cluster := int64(1)                            // sectors, as the library chooses them
	if size > 260*mib {
		cluster = 8
	}
	for sectors := size / sectorSize; ; sectors-- {
		divisor := sectorSize*cluster + 8
		table := (4*(sectors-reserved) + divisor - 1) / divisor
		clusters := (sectors - reserved - 2*table) / cluster
		if table*perSector >= clusters+2 {
			return sectors * sectorSize
		}
	}
}

func writeFATFile(fat *fat32.FileSystem, f File) error {
	if f.Mode.IsDir() {
		return fat.Mkdir(f.Path)
	}
	if !f.Mode.IsRegular() {
		return fmt.Errorf("FAT has no file type %v", f.Mode.Type())
	}
	w, err := fat.OpenFile(path.Clean(f.Path), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	_, err = w.Write(f.Data)
	return errors.Join(err, w.Close())
}
