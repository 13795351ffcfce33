package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blakesmith/ar"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func tarOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		body := h.PAXRecords["TEST.body"]
		h.PAXRecords, h.Size = nil, int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func regular(name string, mode int64, body string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, PAXRecords: map[string]string{"TEST.body": body}}
}

func compressed(t *testing.T, ext string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// writeDeb writes a package whose members are compressed as ext says.
func writeDeb(t *testing.T, file, ext string, data ...tar.Header) {
	t.Helper()
	control := tarOf(t, regular("./control", 0o644, "Package: tool\nVersion: 1:2.0-1\nDescription: a\n more\n"))
	var b bytes.Buffer
	w := ar.NewWriter(&b)
	if err := w.WriteGlobalHeader(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		name string
		data []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar" + ext, compressed(t, ext, control)},
		{"data.tar" + ext, compressed(t, ext, tarOf(t, data...))},
	} {
		if err := w.WriteHeader(&ar.Header{Name: m.name, Size: int64(len(m.data)), Mode: 0o100644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOpenDeb(t *testing.T) {
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		file := filepath.Join(t.TempDir(), "tool_2.0_amd64.deb")
		writeDeb(t, file, ext,
			tar.Header{Typeflag: tar.TypeDir, Name: "./"},
			tar.Header{Typeflag: tar.TypeDir, Name: "./usr/bin/", Mode: 0o755},
			regular("./usr/bin/tool-2", 0o4755, "ELF"),
			tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/bin/tool", Linkname: "tool-2"},
			tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/bin/away", Linkname: "/usr/lib/other"},
		)
		for range 2 { // the second call finds it unpacked
			deb, err := OpenDeb(file)
			if err != nil {
				t.Fatalf("OpenDeb(%s): %v", ext, err)
			}
			if deb.Package != "tool" || deb.Version != "1:2.0-1" {
				t.Errorf("OpenDeb(%s) = %s %s, want tool 1:2.0-1", ext, deb.Package, deb.Version)
			}
			got, err := deb.Files("usr/bin/tool", "usr/bin/away")
			if err != nil {
				t.Fatal(err)
			}
			want := []File{
				Symlink("usr/bin/tool", "tool-2"),
				Program("usr/bin/tool-2", []byte("ELF")),
				Symlink("usr/bin/away", "/usr/lib/other"),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Files(%s) (-want +got):\n%s", ext, diff)
			}
			if _, err := deb.Files("usr/bin/none"); err == nil || !strings.Contains(err.Error(), "usr/bin/none") {
				t.Errorf("Files of a missing path = %v, want an error with the path", err)
			}
		}
	}
}

func TestOpenDebStaysInItsFolder(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"upwards":         {regular("../../escaped", 0o644, "x")},
		"through a link":  {{Typeflag: tar.TypeSymlink, Name: "./up", Linkname: "../.."}, regular("./up/escaped", 0o644, "x")},
		"device":          {{Typeflag: tar.TypeChar, Name: "./null", Devmajor: 1, Devminor: 3}},
		"same name twice": {regular("./a", 0o644, "x"), regular("./a", 0o644, "y")},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "bad.deb")
		writeDeb(t, file, "", entries...)
		if _, err := OpenDeb(file); err == nil {
			t.Errorf("OpenDeb(%s) = nil, want an error", name)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
			t.Errorf("OpenDeb(%s) leaves %q behind, want the package and the lock alone", name, left)
		}
	}
}

func TestOpenDebOfSomethingElse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.deb")
	for _, content := range []string{"", "!<arch>\n", "<html>not found</html>"} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDeb(file); err == nil {
			t.Errorf("OpenDeb of %q = nil, want an error", content)
		}
	}
}
