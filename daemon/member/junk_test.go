package member

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// junk damages the log of a member.
func junk(t *testing.T, dir string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "member", "member", "wal", "*.wal"))
	if err != nil || len(all) == 0 {
		t.Fatal("no log", err)
	}
	f, err := os.OpenFile(all[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(512); off < 16<<10; off += 2048 {
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 256), off); err != nil {
			t.Fatal(err)
		}
	}
}
