package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const stanzas = `Package: e2fsprogs
Status: install ok installed
Version: 1.47.0-2
Architecture: amd64

Package: e2fsprogs
Version: 1.47.0-2+b2
Architecture: amd64
Pre-Depends: libc6 (>= 2.34)
Description: file system tools
 with a second line: of text
Size: 571920
SHA256: fedd424691c08ef0739729026be298e7be8236337bf8e031b3c7ec66794e6fc2

Package: linux-image-amd64
Version: 6.1.192-2
Depends: initramfs-tools, linux-image-6.1.0-56-amd64 (= 6.1.192-2)
Size: 1480
SHA256: 45457bcfc86c87585800b5656bdf2773b063a3bb95486b0e820d51e870491f8d
`

func TestParseStanzas(t *testing.T) {
	found := parseStanzas([]byte(stanzas), []string{"e2fsprogs", "linux-image-amd64"})
	got, err := pinOf(found["e2fsprogs"])
	if err != nil {
		t.Fatal(err)
	}
	want := pin{
		Package: "e2fsprogs", Version: "1.47.0-2+b2", File: "e2fsprogs_1.47.0-2+b2_amd64.deb", Size: 571920,
		SHA256: "fedd424691c08ef0739729026be298e7be8236337bf8e031b3c7ec66794e6fc2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pin of e2fsprogs (-want +got):\n%s", diff)
	}
	kernel, err := kernelBehind(found["linux-image-amd64"])
	if err != nil || kernel != "linux-image-6.1.0-56-amd64" {
		t.Errorf("kernelBehind = %q, %v, want linux-image-6.1.0-56-amd64", kernel, err)
	}
	if _, err := pinOf(map[string]string{"Package": "x", "Size": "1"}); err == nil {
		t.Error("pinOf without a hash = nil, want an error")
	}
}

func TestIsKernelMeta(t *testing.T) {
	for name, want := range map[string]bool{
		"linux-image-amd64":                true,
		"linux-image-cloud-amd64":          true,
		"linux-image-6.1.0-56-amd64":       false,
		"linux-image-6.1.0-56-cloud-amd64": false,
		"linux-image-":                     false,
		"e2fsprogs":                        false,
	} {
		if got := isKernelMeta(name); got != want {
			t.Errorf("isKernelMeta(%s) = %v, want %v", name, got, want)
		}
	}
}

// fillCache pins a package of the given content in dir.
func fillCache(t *testing.T, dir, content string) {
	t.Helper()
	p := pin{Package: "tool", Version: "1", File: "tool_1_all.deb", Size: int64(len(content)), SHA256: hexSum([]byte(content))}
	if err := os.WriteFile(filepath.Join(dir, p.File), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writePins(dir, map[string]pin{"tool": p}); err != nil {
		t.Fatal(err)
	}
}

func TestFetchDebsTakesWhatIsPinned(t *testing.T) {
	dir := t.TempDir()
	fillCache(t, dir, "contents")
	t.Setenv("PATH", "") // no apt
	got, err := FetchDebs(t.Context(), dir, "tool")
	if err != nil {
		t.Fatalf("FetchDebs: %v", err)
	}
	if want := filepath.Join(dir, "tool_1_all.deb"); got["tool"] != want {
		t.Errorf("FetchDebs = %q, want %q", got, want)
	}
}

func TestFetchDebsNoticesAChangedFile(t *testing.T) {
	dir := t.TempDir()
	fillCache(t, dir, "contents")
	if err := os.WriteFile(filepath.Join(dir, "tool_1_all.deb"), []byte("CONTENTS"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "")
	if _, err := FetchDebs(t.Context(), dir, "tool"); err == nil {
		t.Error("FetchDebs of a changed file without apt = nil, want an error")
	}
}

// aptStub puts an apt-cache and an apt-get before the real ones. The second
// one "downloads" content.
func aptStub(t *testing.T, content, sum string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		"apt-cache": "#!/bin/sh\nprintf 'Package: tool\\nVersion: 1:1\\nArchitecture: all\\nSize: 8\\nSHA256: " + sum + "\\n\\n'\n",
		"apt-get":   "#!/bin/sh\n[ \"$3\" = tool=1:1 ] && printf '" + content + "' > tool_1%3a1_all.deb\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestFetchDebsDownloadsAndVerifies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	aptStub(t, "contents", hexSum([]byte("contents")))
	got, err := FetchDebs(t.Context(), dir, "tool")
	if err != nil {
		t.Fatalf("FetchDebs: %v", err)
	}
	if data, err := os.ReadFile(got["tool"]); err != nil || string(data) != "contents" {
		t.Errorf("file is %q, %v, want contents", data, err)
	}
	aptStub(t, "tampered", hexSum([]byte("contents")))
	if _, err := FetchDebs(t.Context(), filepath.Join(t.TempDir(), "cache"), "tool"); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("FetchDebs of other bytes than the lists promise = %v, want an error about SHA-256", err)
	}
}
