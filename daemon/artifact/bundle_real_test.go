package artifact

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// realBundles is the directory of published bundles; the test skips without.
func realBundles(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("BAYSTREAM_BUNDLES")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "bundles")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("needs published bundles, set BAYSTREAM_BUNDLES: %v", err)
	}
	return dir
}

func openBundle(t testing.TB, name string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(filepath.Join(realBundles(t), name))
	if err != nil {
		t.Skipf("needs the published bundle: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, fi.Size()
}

func TestReadPublishedBundles(t *testing.T) {
	for _, tt := range []struct {
		file                             string
		scripts, builds, deploys, images int
	}{
		{"HPE-ESXi-6.7-2021-01-21-v6.40.zip", 15, 2, 0, 0},
		{"HPE-ImageStreamer-Developer-2017-08-28-v5.0.zip", 7, 5, 2, 1},
		{"HPE-RHEL-7.2-2017-03-24.zip", 13, 3, 0, 0}, // lists a wrong sum of its own sum file
		{"HPE-RHEL7-EFI-2019-06-11-v5.0.zip", 10, 2, 0, 0},
		{"HPE-SLES12-EFI-2019-06-16-v5.0.zip", 10, 2, 0, 0},
		{"HPE-Windows-2018-10-26.zip", 32, 6, 0, 0},
		{"HPE_Foundation_Artifacts-5_00.zip", 2, 3, 1, 0},
	} {
		t.Run(tt.file, func(t *testing.T) {
			f, size := openBundle(t, tt.file)
			b, err := ReadBundle(t.Context(), f, size)
			if err != nil {
				t.Fatal(err)
			}
			if len(b.PlanScripts) != tt.scripts || len(b.BuildPlans) != tt.builds || len(b.DeploymentPlans) != tt.deploys || len(b.GoldenImages) != tt.images {
				t.Errorf("%d scripts, %d build plans, %d deployment plans, %d images; want %+v", len(b.PlanScripts), len(b.BuildPlans), len(b.DeploymentPlans), len(b.GoldenImages), tt)
			}
			if b.Name == "" || b.Created.IsZero() || !b.ReadOnly || len(b.Ignored) > 0 {
				t.Errorf("head = %q %v %v, ignored %q", b.Name, b.Created, b.ReadOnly, b.Ignored)
			}
		})
	}
}

func TestReadRefusesPublishedCorruptBundle(t *testing.T) {
	f, size := openBundle(t, "corrupt-bad-zip-headers.zip")
	_, err := BundleReader{File: "x.zip"}.Read(t.Context(), f, size)
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, ErrCorrupt) || e.Remedy == "" {
		t.Fatalf("Read = %v, want an *Error of kind ErrCorrupt with a remedy", err)
	}
	t.Log(err)
}
