package image

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// squashTree has what is easy to get wrong: files at the edges of blocks, ones
// that do not pack, a directory whose inodes fill several blocks, and names
// whose order by bytes is not that of their paths.
func squashTree() []File {
	noise := make([]byte, squashBlock+1)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	files := []File{
		Text("empty", ""), Text("a/x", "under a\n"), Text("a-b", "beside a\n"),
		{Path: "block", Data: bytes.Repeat([]byte("b"), squashBlock)},
		{Path: "two", Data: bytes.Repeat([]byte("two."), squashBlock/2)},
		{Path: "noise", Data: noise, Mode: 0o600},
		Program("bin/tool", []byte("#!")), Symlink("link", "a/x"), Dir("nothing"),
		{Path: "sticky", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}
	for i := range 700 {
		files = append(files, Text(fmt.Sprintf("many/%03d", i), fmt.Sprint(i)))
	}
	return files
}

// squashContents is what Squash should have written, by path: type, permissions and
// contents.
func squashContents(t *testing.T, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		text := ""
		switch info.Mode().Type() {
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text = hexSum(b)
		case fs.ModeSymlink:
			if text, err = os.Readlink(p); err != nil {
				return err
			}
		}
		got[rel] = fmt.Sprint(info.Mode(), " ", text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSquashIsReadByOthers(t *testing.T) {
	tool, err := exec.LookPath("unsquashfs")
	if err != nil {
		t.Skip("needs unsquashfs: apt install squashfs-tools")
	}
	img, err := Squash(squashTree())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "img")
	if err := os.WriteFile(file, img, 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if out, err := exec.Command(tool, "-d", root, file).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v\n%s", err, out)
	}
	entries, err := layout(squashTree())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, f := range entries {
		text := f.Link
		if f.Mode.Type() == 0 {
			text = hexSum(f.Data)
		}
		want[f.Path] = fmt.Sprint(f.Mode, " ", text)
	}
	if diff := cmp.Diff(want, squashContents(t, root)); diff != "" {
		t.Errorf("unsquashfs finds other files (-want +got):\n%s", diff)
	}
}

func TestSquashRepeats(t *testing.T) {
	files := squashTree()
	one, err := Squash(files)
	if err != nil {
		t.Fatal(err)
	}
	for i, j := 0, len(files)-1; i < j; i, j = i+1, j-1 {
		files[i], files[j] = files[j], files[i]
	}
	two, err := Squash(files)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("the same files in another order make another image (%v)", err)
	}
	if len(one)%squashPad != 0 {
		t.Errorf("the image has %d bytes, no multiple of %d", len(one), squashPad)
	}
}

func TestSquashRefuses(t *testing.T) {
	device := File{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3}
	if _, err := Squash([]File{device}); err == nil || !strings.Contains(err.Error(), "dev/null") {
		t.Errorf("Squash of a device = %v, want an error that names it", err)
	}
	var many []File
	for i := range 10000 {
		many = append(many, Text(fmt.Sprintf("many/%05d", i), ""))
	}
	if _, err := Squash(many); err == nil || !strings.Contains(err.Error(), "many") {
		t.Errorf("Squash of a directory that is too large = %v, want an error that names it", err)
	}
}
