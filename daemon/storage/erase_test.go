package storage

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

func TestErasedDiskIsBlankAndOthersStay(t *testing.T) {
	const size = 1 << 30
	make := func(name, part string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		table := gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true}
		for _, s := range Layout(size) {
			if part != "" {
				s.Name = part
			}
			table.Partitions = append(table.Partitions, &gpt.Partition{Index: s.Number, Start: s.Start, End: s.Start + s.Sectors - 1, Type: gpt.LinuxFilesystem, Name: s.Name})
			if _, err := f.WriteAt([]byte("secret"), int64(s.Start+(s.Sectors/2)/8*8)*512); err != nil {
				t.Fatal(err)
			}
		}
		if err := table.Write(f, size); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ours, other := make("ours", ""), make("other", "somebody")
	head := func(path string) []byte {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := bytes.Repeat([]byte{0}, mib)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := head(other)
	if err := EraseDisk(t.Context(), DiskOptions{Candidates: []string{ours, other}}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if blank, err := isBlank(f, size); err != nil || !blank {
		t.Errorf("isBlank = %v, %v; the disk would not be initialised", blank, err)
	}
	for _, s := range Layout(size) {
		if s.Name == partData {
			continue // is discarded, as far as the disk can
		}
		b := bytes.Repeat([]byte{1}, 16)
		if _, err := f.ReadAt(b, int64(s.Start+(s.Sectors/2)/8*8)*512); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{0}, 16)) {
			t.Errorf("partition %s still has %q, %v", s.Name, b, err)
		}
	}
	if !bytes.Equal(before, head(other)) {
		t.Error("a disk that is not ours was touched")
	}
}
