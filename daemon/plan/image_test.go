package plan

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baystream/daemon/artifact"
)

// goldenImage writes the disk in the Developer bundle to a file.
func goldenImage(t *testing.T, b *artifact.Bundle) string {
	t.Helper()
	rc, err := b.GoldenImages[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	store, err := artifact.OpenStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := store.Put(t.Context(), rc, artifact.PutLimits{})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := store.Open(obj.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	img, err := artifact.OpenImage(packed, obj.Size)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	c, err := img.Blocks(t.Context(), 0, func(off int64, data []byte) error {
		_, err := disk.WriteAt(data, off)
		return err
	})
	if err == nil {
		err = disk.Truncate(c.Size)
	}
	if err != nil {
		t.Fatal(err)
	}
	return disk.Name()
}

// firstPartition reads where the first partition of a GPT disk lies, in bytes.
func firstPartition(t *testing.T, disk string) (offset, size uint64) {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 128)
	if _, err := io.ReadFull(io.NewSectionReader(f, 2*512, 128), b); err != nil {
		t.Fatal(err)
	}
	first, last := binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint64(b[40:])
	return 512 * first, 512 * (last - first + 1)
}

// TestRunPersonalisesThePublishedImage does to the vendor's image what its
// deployment plan says, and looks at the result on the FAT file system.
func TestRunPersonalisesThePublishedImage(t *testing.T) {
	exe := sandbox(t)
	b := publishedBundle(t, "HPE-ImageStreamer-Developer-2017-08-28-v5.0.zip")
	if fs, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(fs), "vfat\n") {
		t.Skip("needs a kernel with vfat (module vfat)")
	}
	disk := goldenImage(t, b)
	offset, size := firstPartition(t, disk)
	devices := []Device{{Name: "/dev/sda", Node: loopDevice(t, disk, 0, 0)}, {Name: "/dev/sda1", Node: loopDevice(t, disk, offset, size)}}
	values := map[string]Value{"ExamplePassword": {"pass-w0rd", true}}
	for _, name := range []string{"ExampleString1", "ExampleString2", "ExampleNumber1", "ExampleOption", "ExampleIPv4Address", "ExampleFQDN"} {
		values[name] = Value{Text: "value of " + name}
	}
	for _, s := range b.PlanScripts {
		if s.Name != "HPE - Developer 1.0 - example UEFI personalization script - 2017-03-24" {
			continue
		}
		e, err := Expand(Script{Name: s.Name, Text: s.Content}, values)
		if err != nil {
			t.Fatal(err)
		}
		log, err := runScript(t, devices, "", func(j *Job) { j.Scripts, j.Exe, j.Secrets = []Expanded{e}, exe, Secrets(values) })
		if err != nil || !strings.Contains(log, "/dev/sda1: vfat\n") {
			t.Fatalf("Run = %v, log %q", err, log)
		}
	}
	log, err := runScript(t, devices, "mount /dev/sda1 /\ncat /EFI/BOOT/message.txt\nmkdir-p /EFI/Größe\nupload -<<E /EFI/Größe/läuft.txt\nx\nE\nchmod 600 /EFI/Größe/läuft.txt\nls /efi", nil) // FAT knows no case
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"UEFI loader message.txt has been personalized!", "ExampleString1: value of ExampleString1\n", "ExampleString3: Script Default\n", "ExamplePassword: pass-w0rd\n", "\nGröße\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("log = %q, want %q in it", log, want)
		}
	}
}
