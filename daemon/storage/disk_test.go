package storage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/go-cmp/cmp"
)

func TestChooseDisk(t *testing.T) {
	ours := []Slice{{Name: partLocal}, {Name: partMeta}, {Name: partData}}
	disk := func(path string, change func(*DiskFacts)) DiskFacts {
		d := DiskFacts{Path: path, Size: 4 << 30, Sector: 512, Blank: true}
		if change != nil {
			change(&d)
		}
		return d
	}
	foreign := func(d *DiskFacts) { d.Blank = false }
	carries := func(d *DiskFacts) { d.Blank, d.Slices = false, ours }
	for _, c := range []struct {
		name  string
		disks []DiskFacts
		want  string
		init  bool
		why   string
	}{
		{"ours behind a blank one", []DiskFacts{disk("/dev/vda", nil), disk("/dev/vdb", carries)}, "/dev/vdb", false, ""},
		{"first of two of ours", []DiskFacts{disk("/dev/vda", carries), disk("/dev/vdb", carries)}, "/dev/vda", false, ""},
		{"first blank", []DiskFacts{disk("/dev/vda", foreign), disk("/dev/vdb", nil), disk("/dev/vdc", nil)}, "/dev/vdb", true, ""},
		{"foreign only", []DiskFacts{disk("/dev/vda", foreign)}, "", false, "/dev/vda has contents"},
		{"part of ours is foreign", []DiskFacts{disk("/dev/vda", func(d *DiskFacts) { d.Blank, d.Slices = false, ours[:2] })}, "", false, "contents"},
		{"unreadable table", []DiskFacts{disk("/dev/vda", func(d *DiskFacts) { d.Blank, d.TableErr = false, errors.New("x") })}, "", false, "contents"},
		{"too small", []DiskFacts{disk("/dev/vda", func(d *DiskFacts) { d.Size = 512 << 20 })}, "", false, "512 MiB"},
		{"read-only", []DiskFacts{disk("/dev/vda", func(d *DiskFacts) { d.ReadOnly = true })}, "", false, "read-only"},
		{"removable", []DiskFacts{disk("/dev/sda", func(d *DiskFacts) { d.Removable = true })}, "", false, "removable"},
		{"large sectors", []DiskFacts{disk("/dev/vda", func(d *DiskFacts) { d.Sector = 4096 })}, "", false, "4096"},
		{"cannot be read", []DiskFacts{disk("/dev/vda", func(d *DiskFacts) { d.Err = os.ErrPermission })}, "", false, "permission"},
		{"none", nil, "", false, "no disk at all"},
	} {
		got, init, err := ChooseDisk(c.disks)
		if got.Path != c.want || init != c.init {
			t.Errorf("%s: ChooseDisk = %s, %v, want %s, %v", c.name, got.Path, init, c.want, c.init)
		}
		if c.why != "" && (!errors.Is(err, ErrNoDisk) || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.why)
		}
		if c.why == "" && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		size              uint64
		local, meta, data uint64 // MiB
	}{
		{minDisk, 256, 16, 1024 - 2 - 256 - 16},
		{4 << 30, 512, 32, 4096 - 2 - 512 - 32},
		{4<<30 + 12345, 512, 32, 4096 - 2 - 512 - 32},
		{1 << 40, 1024, 4096, 1<<20 - 2 - 1024 - 4096},
	} {
		var got []uint64
		end := uint64(mib / 512)
		for _, s := range Layout(c.size) {
			got = append(got, s.Sectors*512/mib)
			if s.Start != end || s.Start%(mib/512) != 0 {
				t.Errorf("Layout(%d): %s starts at %d, want %d", c.size, s.Name, s.Start, end)
			}
			end = s.Start + s.Sectors
		}
		if diff := cmp.Diff([]uint64{c.local, c.meta, c.data}, got); diff != "" {
			t.Errorf("Layout(%d): %s", c.size, diff)
		}
		if c.size-end*512 < mib {
			t.Errorf("Layout(%d) leaves %d bytes for the backup table", c.size, c.size-end*512)
		}
	}
}

func TestWholeDisks(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"vdb", "vda", "vdaa", "sda", "nvme0n1", "loop0", "dm-0", "sr0", "drbd1"} {
		if err := os.MkdirAll(filepath.Join(root, "sys/block", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"/dev/vda", "/dev/vdb", "/dev/vdaa", "/dev/sda", "/dev/nvme0n1"}
	if diff := cmp.Diff(want, wholeDisks(root)); diff != "" {
		t.Error(diff)
	}
	if partNode("/dev/vda", 2) != "/dev/vda2" || partNode("/dev/nvme0n1", 3) != "/dev/nvme0n1p3" {
		t.Error("partNode names a partition wrongly")
	}
}

func TestMountedAt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mounts")
	if err := os.WriteFile(file, []byte("proc /proc proc rw 0 0\n/dev/vdb1 /data ext4 rw 0 0\n/dev/vda1 /data ext4 rw 0 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := mountedAt(file, "/data/"); got != "/dev/vda1" {
		t.Errorf("mountedAt = %q, want the topmost mount", got)
	}
	if got := mountedAt(file, "/mnt"); got != "" {
		t.Errorf("mountedAt(nothing) = %q", got)
	}
}

type exitCode int

func (e exitCode) Error() string { return "exit" }
func (e exitCode) ExitCode() int { return int(e) }

func TestFsckStatus(t *testing.T) {
	for code, ok := range map[exitCode]bool{1: true, 2: true, 4: false, 8: false} {
		if err := fsckStatus(code); (err == nil) != ok {
			t.Errorf("fsckStatus(%d) = %v", code, err)
		}
	}
	if fsckStatus(nil) != nil {
		t.Error("fsckStatus(nil) is an error")
	}
}

// gptDisk is a disk in memory with a GPT written by go-diskfs.
func gptDisk(t testing.TB, size int64, parts ...*gpt.Partition) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true, Partitions: parts}
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadTableGPT(t *testing.T) {
	const guid = "0b0c5fa4-7b4e-4c0c-9d3d-0123456789ab"
	b := gptDisk(t, 4*mib,
		&gpt.Partition{Index: 1, Start: 2048, End: 4095, Type: gpt.EFISystemPartition, Name: "ESP", GUID: guid},
		&gpt.Partition{Index: 3, Start: 4096, End: 8000, Type: gpt.LinuxFilesystem, Name: "Wurzel ß"})
	got, err := ReadTable(bytes.NewReader(b), uint64(len(b)/512))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[1].Name != "Wurzel ß" || got[1].Number != 3 || got[1].Sectors != 8000-4096+1 {
		t.Fatalf("ReadTable = %+v", got)
	}
	want := Slice{Number: 1, Start: 2048, Sectors: 2048, Name: "ESP", UUID: guid, Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
	// A volume larger than its image has the table of the image: still read.
	if _, err := ReadTable(bytes.NewReader(append(b, make([]byte, mib)...)), uint64(len(b)/512)+2048); err != nil {
		t.Errorf("grown disk: %v", err)
	}
	if _, err := ReadTable(bytes.NewReader(b), 6000); err == nil {
		t.Error("a partition beyond the disk was taken")
	}
	b[512+40] ^= 1
	if again, err := ReadTable(bytes.NewReader(b), uint64(len(b)/512)); err != nil || cmp.Diff(got, again) != "" {
		t.Errorf("primary GPT damaged: %+v, %v, want what the backup says", again, err)
	}
	b[len(b)-512+40] ^= 1
	if _, err := ReadTable(bytes.NewReader(b), uint64(len(b)/512)); err == nil {
		t.Error("a GPT with wrong checksums was taken")
	}
}

// mbr builds a boot record of entries {type, start, sectors}.
func mbr(b []byte, at int, entries ...[3]uint32) {
	s := b[at*512:]
	for i, e := range entries {
		p := s[446+16*i:]
		p[4] = byte(e[0])
		p[8], p[9], p[10], p[11] = byte(e[1]), byte(e[1]>>8), byte(e[1]>>16), byte(e[1]>>24)
		p[12], p[13], p[14], p[15] = byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24)
	}
	s[510], s[511] = 0x55, 0xaa
}

func TestReadTableMBR(t *testing.T) {
	b := make([]byte, 512*1000)
	mbr(b, 0, [3]uint32{0x83, 10, 90}, [3]uint32{0, 0, 0}, [3]uint32{5, 100, 900})
	mbr(b, 100, [3]uint32{0x82, 10, 90}, [3]uint32{5, 300, 600})
	mbr(b, 400, [3]uint32{0x83, 10, 500})
	got, err := ReadTable(bytes.NewReader(b), 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := []Slice{
		{Number: 1, Start: 10, Sectors: 90, Type: "0x83"},
		{Number: 5, Start: 110, Sectors: 90, Type: "0x82"},
		{Number: 6, Start: 410, Sectors: 500, Type: "0x83"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	mbr(b, 400, [3]uint32{0x83, 10, 500}, [3]uint32{5, 300, 10}) // points at itself
	if _, err := ReadTable(bytes.NewReader(b), 1000); err == nil {
		t.Error("a chain that goes round was taken")
	}
	fat := make([]byte, 512*8)
	mbr(fat, 0, [3]uint32{0x61, 0x20202020, 1})
	fat[0], fat[2] = 0xeb, 0x90
	copy(fat[54:], "FAT16")
	if got, err := ReadTable(bytes.NewReader(fat), 8); err != nil || len(got) != 0 {
		t.Errorf("a FAT boot sector gives %v, %v", got, err)
	}
	if got, err := ReadTable(bytes.NewReader(make([]byte, 4096)), 8); err != nil || got != nil {
		t.Errorf("a blank disk gives %v, %v", got, err)
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add(gptDisk(f, mib, &gpt.Partition{Index: 1, Start: 64, End: 128, Type: gpt.LinuxFilesystem, Name: "x"})[:64<<10])
	b := make([]byte, 8192)
	mbr(b, 0, [3]uint32{0x83, 1, 2}, [3]uint32{5, 4, 8})
	mbr(b, 4, [3]uint32{0x83, 1, 2})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n := uint64(len(b) / 512)
		slices, err := ReadTable(bytes.NewReader(b), n)
		if err != nil {
			return
		}
		for _, s := range slices {
			if s.Sectors == 0 || s.Start+s.Sectors > n || s.Start+s.Sectors < s.Start {
				t.Errorf("slice %+v is outside %d sectors", s, n)
			}
		}
	})
}

func TestBusesThatAreScanned(t *testing.T) {
	root := t.TempDir()
	if scansBuses(root) {
		t.Error("a machine without controllers scans")
	}
	for _, dir := range []string{"sys/class/scsi_host", "sys/class/nvme"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if scansBuses(root) {
		t.Error("drivers without controllers scan")
	}
	if err := os.Mkdir(filepath.Join(root, "sys/class/nvme/nvme0"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !scansBuses(root) {
		t.Error("an NVMe controller does not scan")
	}
}

func TestSoundSuper(t *testing.T) {
	super := func(state byte, compat byte, errors byte) []byte {
		b := make([]byte, 1024)
		b[0x3a], b[0x5c], b[0x194] = state, compat, errors
		return b
	}
	for _, c := range []struct {
		name  string
		super []byte
		want  bool
	}{
		{"clean, with a journal", super(1, 0x3c, 0), true},
		{"no journal", super(1, 0x38, 0), false},
		{"in use without a journal", super(0, 0x38, 0), false},
		{"has errors", super(3, 0x3c, 0), false},
		{"had errors", super(1, 0x3c, 1), false},
	} {
		if got := soundSuper(c.super); got != c.want {
			t.Errorf("%s: soundSuper = %v", c.name, got)
		}
	}
}
