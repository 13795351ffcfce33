package sampleos

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baystream/image"
)

func TestTwoBuildsAreIdentical(t *testing.T) {
	if testing.Short() {
		t.Skip("builds two disks of a kernel package; not with -short")
	}
	cache := os.Getenv("BAYSTREAM_CACHE")
	if cache == "" {
		cache = "../../build/cache"
	}
	o := Options{CacheDir: cache, Personality: map[string]string{"hostname": "node-1\n"}}
	var disks [2][]byte
	for i := range disks {
		file := filepath.Join(t.TempDir(), "disk.raw")
		err := Build(t.Context(), file, o)
		if errors.Is(err, image.ErrNoPackages) {
			t.Skipf("needs Debian packages: %v", err)
		}
		if err != nil {
			t.Fatalf("Build: %v", err)
		}
		if disks[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("two builds differ")
	}
	if len(disks[0]) > 64<<20 {
		t.Errorf("the disk has %d bytes, want 64 MiB at most", len(disks[0]))
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	if err := Build(t.Context(), filepath.Join(dir, "disk.raw"), Options{}); err == nil || !strings.Contains(err.Error(), "cache") {
		t.Errorf("Build without a cache folder: %v", err)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("a failed build left %v, %v", left, err)
	}
}

// The names stand in two programs that do not import each other.
func TestInitLooksForTheNamesOfTheDisk(t *testing.T) {
	src, err := os.ReadFile("init/disk.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ESPName, RootName, WorkName} {
		if !bytes.Contains(src, []byte(`"`+name+`"`)) {
			t.Errorf("init does not look for the partition %s", name)
		}
	}
}
