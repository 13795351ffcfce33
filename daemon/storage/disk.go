package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend"
	"golang.org/x/sys/unix"

	"baystream/daemon/pool"
)

// Names of the data disk's partitions.
const (
	partLocal = "baystream-local"
	partMeta  = "baystream-pool-meta"
	partData  = "baystream-pool-data"
)

const mib = 1 << 20

// minDisk is the smallest disk that is initialised, in bytes.
const minDisk = 1 << 30

// ErrNoDisk says that no disk is ours or may become so. Its text says why for
// each disk looked at.
var ErrNoDisk = errors.New("no data disk")

// ErrDamaged means that the data disk is ours and its local partition cannot be
// used as it is. The OS volumes beside it are not touched.
var ErrDamaged = errors.New("the local partition is damaged")

// DiskFacts is what PrepareDisk reads from a whole disk before it decides.
type DiskFacts struct {
	Path      string // "/dev/vda"
	Size      uint64 // bytes
	Sector    uint64 // logical sector size in bytes
	ReadOnly  bool
	Removable bool
	Slices    []Slice
	Damaged   bool  // Slices are from the backup table: the primary one is damaged
	TableErr  error // the partition table cannot be read
	Blank     bool  // the first and last MiB are all zero, or what we began to write
	Err       error // the disk cannot be read at all
}

// ours tells whether the disk carries all partitions of a data disk.
func (d DiskFacts) ours() bool {
	have := map[string]bool{}
	for _, s := range d.Slices {
		have[s.Name] = true
	}
	return have[partLocal] && have[partMeta] && have[partData]
}

// why says why a disk that is not ours may not be initialised; empty: it may.
func (d DiskFacts) why() string {
	switch {
	case d.Err != nil:
		return d.Err.Error()
	case d.ReadOnly:
		return "is read-only"
	case d.Removable:
		return "is removable"
	case d.Sector != 512:
		return fmt.Sprintf("has sectors of %d bytes, 512 are supported", d.Sector)
	case !d.Blank:
		return "has contents (first and last MiB must be all zero; wipe it if it is to be used)"
	case d.Size < minDisk:
		return fmt.Sprintf("has %d MiB, at least %d are needed", d.Size/mib, minDisk/mib)
	}
	return ""
}

// ChooseDisk decides which disk is the data disk: the first that carries our
// partitions, else the first that is blank and fit, which must be initialised
// before. Disks with other contents are never chosen.
func ChooseDisk(disks []DiskFacts) (chosen DiskFacts, initialise bool, err error) {
	for _, d := range disks {
		if d.Err == nil && d.ours() {
			return d, false, nil
		}
	}
	var reasons []string
	for _, d := range disks {
		why := d.why()
		if why == "" {
			return d, true, nil
		}
		reasons = append(reasons, d.Path+" "+why)
	}
	if len(reasons) == 0 {
		reasons = []string{"there is no disk at all"}
	}
	return DiskFacts{}, false, fmt.Errorf("%w: %s", ErrNoDisk, strings.Join(reasons, "; "))
}

// Layout places the partitions of a data disk of that many bytes: local is an
// eighth, between 256 MiB and 1 GiB; the pool's metadata a 128th of the disk,
// between 16 MiB and 4 GiB (the kernel asks for 48 bytes a block and uses at
// most 16 GiB); the rest is the pool's data. Everything is aligned to 1 MiB.
func Layout(size uint64) []Slice {
	local := min(max(size/8, 256*mib), 1024*mib) / mib * mib
	meta := min(max(size/128, 16*mib), 4096*mib) / mib * mib
	end := (size/mib - 1) * mib // the backup table lies behind
	at := uint64(mib)
	var out []Slice
	for i, p := range []struct {
		name string
		size uint64
	}{{partLocal, local}, {partMeta, meta}, {partData, end - at - local - meta}} {
		out = append(out, Slice{Number: i + 1, Name: p.name, Start: at / 512, Sectors: p.size / 512})
		at += p.size
	}
	return out
}

// Disk is a prepared data disk.
type Disk struct {
	Path    string // whole disk
	Local   string // partition nodes
	Meta    string
	Data    string
	Created bool // was blank before
}

// DiskOptions say how PrepareDisk works.
type DiskOptions struct {
	Candidates []string // whole disks in order of preference; nil: all vd*, sd*, nvme*
	StateDir   string   // the local partition is mounted here; empty: not mounted
	Run        Runner   // mke2fs, e2fsck; nil runs the programs themselves
	Log        *slog.Logger
}

// PrepareDisk finds the data disk, or initialises a blank one, and mounts its
// local partition. It can be repeated at any time: what an interrupted call
// began is finished, and what is done stays. It needs root.
func PrepareDisk(ctx context.Context, o DiskOptions) (Disk, error) {
	if o.Run == nil {
		o.Run = Exec
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	chosen, blank, err := o.choose(ctx)
	if err != nil {
		return Disk{}, fmt.Errorf("storage: %w", err)
	}
	d := Disk{Path: chosen.Path, Created: blank}
	if err := d.prepare(ctx, chosen, o); err != nil {
		return Disk{}, fmt.Errorf("storage: data disk %s: %w", d.Path, err)
	}
	o.Log.Info("data disk ready", "disk", d.Path, "created", d.Created, "bytes", chosen.Size)
	return d, nil
}

// Disks of buses that are scanned beside the boot appear late. Ours may be the
// last, so another, blank one is not taken before they had their time.
const (
	lateDisks = 3 * time.Second // with such a bus, or without any disk
	lookAgain = 20 * time.Millisecond
)

// choose looks at the candidates, or at all disks until there is one to take.
func (o DiskOptions) choose(ctx context.Context) (chosen DiskFacts, blank bool, err error) {
	if o.Candidates != nil {
		return ChooseDisk(allFacts(o.Candidates))
	}
	end := time.Now().Add(lateDisks)
	for first, known := true, []string(nil); ; first = false {
		disks := wholeDisks("/")
		if first || !slices.Equal(disks, known) {
			known = disks
			chosen, blank, err = ChooseDisk(allFacts(disks))
		}
		late := len(disks) == 0 || scansBuses("/")
		if err == nil && !blank || !late || time.Now().After(end) {
			return chosen, blank, err
		}
		select {
		case <-ctx.Done():
			return chosen, blank, ctx.Err()
		case <-time.After(lookAgain):
		}
	}
}

func allFacts(disks []string) []DiskFacts {
	var facts []DiskFacts
	for _, p := range disks {
		facts = append(facts, readDisk("/", p))
	}
	return facts
}

// scansBuses tells whether there are controllers whose disks appear later than
// they do: those of SCSI and SATA, and of NVMe. Virtio's block devices are there
// when their driver is.
func scansBuses(root string) bool {
	for _, class := range []string{"scsi_host", "nvme"} {
		if es, err := os.ReadDir(filepath.Join(root, "sys/class", class)); err == nil && len(es) > 0 {
			return true
		}
	}
	return false
}

func (d *Disk) prepare(ctx context.Context, facts DiskFacts, o DiskOptions) error {
	slices := facts.Slices
	if d.Created {
		slices = Layout(facts.Size)
		err := changeTable(d.Path, func(f backend.WritableFile) error { return writeTable(f, facts.Size, slices) })
		if err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
	} else if facts.Damaged {
		err := changeTable(d.Path, func(f backend.WritableFile) error { return mendTable(f, facts.Size/512) })
		if errors.Is(err, unix.EBUSY) { // the kernel has read it before it was damaged
			o.Log.Warn("primary partition table is damaged: mended at the next boot", "disk", d.Path)
		} else if err != nil {
			return fmt.Errorf("mend partition table: %w", err)
		} else {
			o.Log.Warn("primary partition table was damaged: mended from its backup", "disk", d.Path)
		}
	}
	for _, s := range slices {
		node := partNode(d.Path, s.Number)
		switch s.Name {
		case partLocal:
			d.Local = node
		case partMeta:
			d.Meta = node
		case partData:
			d.Data = node
		}
	}
	if o.StateDir == "" {
		return nil
	}
	return d.mountLocal(ctx, o)
}

// mountLocal makes, checks and mounts the local file system. It is made only
// when the partition has none and the pool was never used: so a making that
// was cut short is repeated, and a damaged file system is never replaced.
func (d *Disk) mountLocal(ctx context.Context, o DiskOptions) error {
	if mountedAt("/proc/self/mounts", o.StateDir) == d.Local {
		return nil
	}
	ext, err := hasExt(d.Local)
	if err != nil {
		return err
	}
	if !ext {
		unused, err := pool.Fresh(d.Meta)
		if err != nil {
			return err
		}
		if !unused {
			return fmt.Errorf("%w: %s has no file system, but the pool is in use", ErrDamaged, d.Local)
		}
		if err := o.Run(ctx, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", partLocal, d.Local); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.StateDir, 0o755); err != nil {
		return err
	}
	mount := func() error {
		if err := unix.Mount(d.Local, o.StateDir, "ext4", unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", d.Local, o.StateDir, err)
		}
		return nil
	}
	sound, err := soundExt(d.Local)
	if err != nil {
		return err
	}
	if sound && mount() == nil { // e2fsck would do no more than the mount does: replay the journal
		return nil
	}
	if err := fsckStatus(o.Run(ctx, "/sbin/e2fsck", "-p", d.Local)); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return mount()
}

// fsckStatus takes e2fsck's status 1 (errors corrected) and 2 (corrected,
// reboot) for success: nothing is mounted yet.
func fsckStatus(err error) error {
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) && (exit.ExitCode() == 1 || exit.ExitCode() == 2) {
		return nil
	}
	return err
}

// readDisk collects the facts of one disk; sysfs is read below root.
func readDisk(root, path string) DiskFacts {
	d := DiskFacts{Path: path}
	sys := filepath.Join(root, "sys/block", filepath.Base(path))
	d.ReadOnly = readWord(filepath.Join(sys, "ro")) == "1"
	d.Removable = readWord(filepath.Join(sys, "removable")) == "1"
	d.Sector, _ = strconv.ParseUint(readWord(filepath.Join(sys, "queue/logical_block_size")), 10, 32)
	f, err := os.Open(path)
	if err != nil {
		d.Err = err
		return d
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		d.Err = err
		return d
	}
	d.Size = uint64(n)
	d.contents(f)
	return d
}

// contents reads what is on the disk.
func (d *DiskFacts) contents(r io.ReaderAt) {
	if d.Blank, d.Err = isMarked(r); d.Blank || d.Err != nil {
		return // whatever else is there, we wrote
	}
	if d.Slices, d.TableErr = ReadTable(r, d.Size/512); d.TableErr != nil {
		return
	}
	if d.ours() {
		d.Damaged = primaryDamaged(r, d.Size/512)
		return
	}
	d.Blank, d.Err = isBlank(r, d.Size)
}

// isBlank tells whether the first and last MiB are all zero.
func isBlank(r io.ReaderAt, size uint64) (bool, error) {
	if size < 2*mib {
		return false, nil
	}
	b := make([]byte, mib)
	for _, at := range []int64{0, int64(size) - mib} {
		if _, err := r.ReadAt(b, at); err != nil {
			return false, err
		}
		if !allZero(b) {
			return false, nil
		}
	}
	return true, nil
}

// hasExt tells whether a device has an ext2, 3 or 4 superblock.
func hasExt(dev string) (bool, error) {
	f, err := os.Open(dev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, 2)
	if _, err := f.ReadAt(b, 1024+56); err != nil {
		return false, fmt.Errorf("read %s: %w", dev, err)
	}
	return b[0] == 0x53 && b[1] == 0xef, nil
}

// soundExt tells whether an ext4 file system says of itself that it has no
// errors. One that was not unmounted says so too when its journal has all that
// is missing (the kernel's Documentation/filesystems/ext4, super block).
func soundExt(dev string) (bool, error) {
	f, err := os.Open(dev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, 1024)
	if _, err := f.ReadAt(b, 1024); err != nil {
		return false, fmt.Errorf("read %s: %w", dev, err)
	}
	return soundSuper(b), nil
}

func soundSuper(b []byte) bool {
	const (
		state, compat, errorCount    = 0x3a, 0x5c, 0x194
		clean, hasErrors, hasJournal = 1, 2, 4
	)
	le := binary.LittleEndian
	s := le.Uint16(b[state:])
	return s&clean != 0 && s&hasErrors == 0 && le.Uint32(b[compat:])&hasJournal != 0 && le.Uint32(b[errorCount:]) == 0
}

// wholeDisks lists disks by kind and name: vda before vdb before vdaa.
func wholeDisks(root string) []string {
	es, err := os.ReadDir(filepath.Join(root, "sys/block"))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range es {
		for _, p := range []string{"vd", "sd", "nvme"} {
			if strings.HasPrefix(e.Name(), p) {
				names = append(names, e.Name())
			}
		}
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := names[i], names[j]
		if a[0] != b[0] {
			return strings.IndexByte("vsn", a[0]) < strings.IndexByte("vsn", b[0])
		}
		if len(a) != len(b) {
			return len(a) < len(b)
		}
		return a < b
	})
	for i, n := range names {
		names[i] = "/dev/" + n
	}
	return names
}

// partNode names a partition as Linux does: vda1, nvme0n1p1.
func partNode(disk string, n int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return disk + "p" + strconv.Itoa(n)
	}
	return disk + strconv.Itoa(n)
}

// mountedAt tells which device is mounted on a folder, the topmost one.
func mountedAt(mounts, dir string) string {
	b, err := os.ReadFile(mounts)
	if err != nil {
		return ""
	}
	dev := ""
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == filepath.Clean(dir) {
			dev = f[0]
		}
	}
	return dev
}

func readWord(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
