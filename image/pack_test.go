package image

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"
)

// readTree makes Files of a folder, as a builder from a working tree would.
func readTree(t *testing.T, root string) []File {
	t.Helper()
	var files []File
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := File{Path: rel, Mode: info.Mode()}
		switch {
		case info.Mode().IsRegular():
			f.Data, err = os.ReadFile(p)
		case info.Mode().Type() == fs.ModeSymlink:
			f.Link, err = os.Readlink(p)
		}
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// makeTree writes the same tree each time, with files dated at mtime.
func makeTree(t *testing.T, mtime time.Time) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{"etc/hosts": "::1 localhost\n", "a/x": "x", "a-b": strings.Repeat("long ", 1000), "empty": ""} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("etc/hosts", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	return root
}

func pack(t *testing.T, files []File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Pack(&b, files); err != nil {
		t.Fatalf("Pack: %v", err)
	}
	return b.Bytes()
}

func TestPackOfEqualTreesIsEqual(t *testing.T) {
	one := pack(t, readTree(t, makeTree(t, time.Unix(1, 0))))
	files := readTree(t, makeTree(t, time.Unix(1e9, 0)))
	files[0], files[len(files)-1] = files[len(files)-1], files[0] // order does not matter
	two := pack(t, files)
	if !bytes.Equal(one, two) {
		t.Errorf("archives of equal trees differ: %d and %d bytes", len(one), len(two))
	}
	z1, err := Compress(one)
	if err != nil {
		t.Fatal(err)
	}
	z2, err := Compress(two)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(z1, z2) {
		t.Errorf("frames of equal archives differ")
	}
}

// listing is the archive as u-root's reader sees it, one string for an entry.
func listing(t *testing.T, archive []byte) []string {
	t.Helper()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		t.Fatalf("read archive back: %v", err)
	}
	var lines []string
	for _, r := range records {
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s: uid %d gid %d mtime %d, want all 0", r.Name, r.UID, r.GID, r.MTime)
		}
		mode := strconv.FormatUint(r.Mode, 8)
		lines = append(lines, mode+" "+r.Name)
	}
	return lines
}

func TestPackIsReadByOthers(t *testing.T) {
	archive := pack(t, []File{
		Symlink("bin", "usr/bin"),
		Program("bin/tool", []byte("#!")),
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		Text("a-b", ""), Text("a/x", "x"),
	})
	want := []string{
		"40755 a", "100644 a/x", "100644 a-b", "120777 bin", "40755 dev", "20600 dev/console",
		"41777 tmp", "40755 usr", "40755 usr/bin", "100755 usr/bin/tool",
	}
	if diff := cmp.Diff(want, listing(t, archive)); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
	t.Run("cpio", func(t *testing.T) {
		tool, err := exec.LookPath("cpio")
		if err != nil {
			t.Skip("needs cpio: apt install cpio")
		}
		cmd := exec.Command(tool, "-it", "--quiet")
		cmd.Stdin = bytes.NewReader(archive)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("cpio -it: %v", err)
		}
		if got := strings.Count(string(out), "\n"); got != len(want) {
			t.Errorf("cpio lists %d entries, want %d:\n%s", got, len(want), out)
		}
	})
	t.Run("zstd", func(t *testing.T) {
		if plain := unzstd(t, archive, archive); !bytes.Equal(plain, append(archive[:len(archive):len(archive)], archive...)) {
			t.Errorf("zstd -d of two frames is not the two archives")
		}
	})
}

// unzstd compresses each archive to a frame and has the zstd program unpack
// them all.
func unzstd(t *testing.T, archives ...[]byte) []byte {
	t.Helper()
	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("needs zstd: apt install zstd")
	}
	var in []io.Reader
	for _, a := range archives {
		z, err := Compress(a)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, bytes.NewReader(z))
	}
	cmd := exec.Command(tool, "-dc")
	cmd.Stdin = io.MultiReader(in...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("zstd -dc: %v", err)
	}
	return out
}

func TestPackRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []File
	}{
		{"absolute path", []File{Text("/etc/x", "")}},
		{"path upwards", []File{Text("../x", "")}},
		{"root itself", []File{Dir(".")}},
		{"two contents", []File{Text("x", "1"), Text("x", "2")}},
		{"two contents by a link", []File{Symlink("bin", "usr/bin"), Text("bin/x", "1"), Text("usr/bin/x", "2")}},
		{"file as folder", []File{Text("x", ""), Text("x/y", "")}},
		{"link out of the archive", []File{Symlink("x", "../.."), Text("x/y", "")}},
		{"links in a circle", []File{Symlink("x", "y"), Symlink("y", "x"), Text("x/y", "")}},
		{"socket", []File{{Path: "x", Mode: fs.ModeSocket}}},
	} {
		if err := Pack(io.Discard, c.files); err == nil {
			t.Errorf("Pack(%s) = nil, want an error", c.name)
		}
	}
}

func TestPackTakesTheSameTwice(t *testing.T) {
	archive := pack(t, []File{Text("x", "1"), Text("x", "1"), Symlink("l", "x"), Symlink("l", "x")})
	if got := listing(t, archive); len(got) != 2 {
		t.Errorf("archive has %q, want two entries", got)
	}
}
