package image

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func writeTestDisk(t *testing.T, espSize int64) []byte {
	t.Helper()
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	content := make([]byte, 3<<20+512)
	copy(content[2<<20:], "in the middle")
	copy(content[3<<20:], "at the end")
	if err := os.WriteFile(raw, content, 0o644); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "disk.img")
	err := WriteDisk(name, Disk{Name: "test", Partitions: []Partition{
		{Name: "esp", Type: TypeESP, Size: espSize, Files: []File{
			{Path: FallbackLoader, Data: bytes.Repeat([]byte("loader"), 50000)},
			Text("loader/a-name-longer-than-8.3.conf", "timeout 0\n"),
		}},
		{Name: "root", Type: TypeLinux, Image: raw},
	}})
	if err != nil {
		t.Fatalf("WriteDisk: %v", err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestWriteDiskRepeats(t *testing.T) {
	if !bytes.Equal(writeTestDisk(t, 40<<20), writeTestDisk(t, 40<<20)) {
		t.Error("two disks of the same contents differ")
	}
}

func TestWriteDiskPlacesPartitions(t *testing.T) {
	disk := writeTestDisk(t, 40<<20)
	if want := (1 + 40 + 4 + 1) << 20; len(disk) != want {
		t.Errorf("disk has %d bytes, want %d", len(disk), want)
	}
	if string(disk[512:520]) != "EFI PART" || string(disk[len(disk)-512:len(disk)-504]) != "EFI PART" {
		t.Error("GPT headers are not where they belong")
	}
	entry := disk[2*512+128:]
	if start := binary.LittleEndian.Uint64(entry[32:]); start != 41<<20/512 {
		t.Errorf("second partition starts at sector %d, want %d", start, 41<<20/512)
	}
	root := disk[41<<20:]
	if !bytes.HasPrefix(root[2<<20:], []byte("in the middle")) || !bytes.HasPrefix(root[3<<20:], []byte("at the end")) {
		t.Error("second partition does not hold its image")
	}
}

// TestWriteDiskIsSound has other programs read the result, at sizes where
// the FAT library goes wrong by itself (64 MiB) and where it does not.
func TestWriteDiskIsSound(t *testing.T) {
	for _, size := range []int64{minFAT32, 64 << 20, 65 << 20, 300 << 20} {
		disk := writeTestDisk(t, size)
		name := filepath.Join(t.TempDir(), "disk.img")
		esp := name + ".esp"
		for file, data := range map[string][]byte{name: disk, esp: disk[1<<20 : 1<<20+size]} {
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, check := range []struct {
			args []string
			want string
		}{
			{[]string{"fsck.fat", "-n", "-v", esp}, ""},
			{[]string{"mtype", "-i", esp, "::loader/a-name-longer-than-8.3.conf"}, "timeout 0\n"},
			{[]string{"sgdisk", "--verify", name}, "No problems found"},
		} {
			tool, err := exec.LookPath(check.args[0])
			if err != nil {
				t.Logf("%s is not installed, its check is left out", check.args[0])
				continue
			}
			out, err := exec.Command(tool, check.args[1:]...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), check.want) {
				t.Errorf("%d MiB: %s: %v, want %q:\n%s", size>>20, check.args[0], err, check.want, out)
			}
		}
	}
}

func TestWriteDiskRefuses(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]Disk{
		"small FAT":       {Partitions: []Partition{{Type: TypeESP, Size: 16 << 20}}},
		"missing image":   {Partitions: []Partition{{Type: TypeLinux, Image: raw + ".none"}}},
		"image too large": {Partitions: []Partition{{Type: TypeLinux, Image: raw, Size: 1 << 20}}},
		"disk too small":  {Size: 2 << 20, Partitions: []Partition{{Type: TypeLinux, Image: raw}}},
		"link on FAT":     {Partitions: []Partition{{Type: TypeESP, Size: minFAT32, Files: []File{Symlink("a", "b")}}}},
		"full FAT":        {Partitions: []Partition{{Type: TypeESP, Size: minFAT32, Files: []File{{Path: "a", Data: make([]byte, minFAT32)}}}}},
	} {
		out := filepath.Join(t.TempDir(), "disk.img")
		if err := WriteDisk(out, d); err == nil {
			t.Errorf("WriteDisk(%s) = nil, want an error", name)
		}
		if left, _ := filepath.Glob(filepath.Dir(out) + "/*"); len(left) != 0 {
			t.Errorf("WriteDisk(%s) leaves %q behind", name, left)
		}
	}
}
