package image

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// A File is one entry of an archive.
type File struct {
	// Path is relative to the root of the archive, slash-separated and clean.
	Path string
	// Mode holds the permissions and the type: regular, fs.ModeDir,
	// fs.ModeSymlink, fs.ModeNamedPipe, or fs.ModeDevice|fs.ModeCharDevice. Zero
	// means a regular file with 0644.
	Mode fs.FileMode
	// Data is the content of a regular file.
	Data []byte
	// Link is where a symbolic link points.
	Link string
	// Major and Minor number a device.
	Major, Minor uint32
}

// Dir is a directory open to all readers.
func Dir(path string) File { return File{Path: path, Mode: fs.ModeDir | 0o755} }

// Symlink is a symbolic link at path to target.
func Symlink(path, target string) File {
	return File{Path: path, Mode: fs.ModeSymlink | 0o777, Link: target}
}

// Program is an executable file.
func Program(path string, data []byte) File { return File{Path: path, Mode: 0o755, Data: data} }

// Text is a plain file.
func Text(path, content string) File { return File{Path: path, Mode: 0o644, Data: []byte(content)} }

// Pack writes files to w as one newc cpio archive, uncompressed, in the form
// the kernel unpacks as its first root.
//
// The order of files does not matter. Missing parent directories are added
// with mode 0755. A path that leads through a symbolic link among the files
// goes where the link points. The same path twice is an error, unless both are
// equal. Owner is root, times are zero: the output depends on files alone.
func Pack(w io.Writer, files []File) error {
	entries, err := layout(files)
	if err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	out := cpio.Newc.Writer(w)
	for i, f := range entries {
		rec, err := record(f)
		if err != nil {
			return fmt.Errorf("pack: %w", err)
		}
		rec.Ino, rec.NLink = uint64(i+1), 1
		if err := out.WriteRecord(rec); err != nil {
			return fmt.Errorf("pack: %s: %w", f.Path, err)
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("pack: trailer: %w", err)
	}
	return nil
}

// layout is files as they stand in the archive: links in paths resolved,
// parents added, sorted so that parents come first.
func layout(files []File) ([]File, error) {
	links := linksOf(files)
	byPath := make(map[string]File)
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return nil, fmt.Errorf("%q is not a clean relative path", f.Path)
		}
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		at, err := throughLinks(f.Path, links)
		if err != nil {
			return nil, err
		}
		f.Path = at
		if old, ok := byPath[at]; ok && !sameFile(old, f) {
			return nil, fmt.Errorf("%s comes twice with different contents", at)
		}
		byPath[at] = f
	}
	for _, at := range slices.Collect(maps.Keys(byPath)) {
		for dir := path.Dir(at); dir != "."; dir = path.Dir(dir) {
			switch parent, ok := byPath[dir]; {
			case !ok:
				byPath[dir] = Dir(dir)
			case !parent.Mode.IsDir():
				return nil, fmt.Errorf("%s needs %s to be a directory", at, dir)
			}
		}
	}
	return slices.SortedFunc(maps.Values(byPath), func(a, b File) int {
		// Component by component, so that a directory is directly before its
		// contents; a plain comparison would put "a-b" between "a" and "a/x".
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	}), nil
}

// linksOf are the symbolic links among files: path to target.
func linksOf(files []File) map[string]string {
	links := make(map[string]string)
	for _, f := range files {
		if f.Mode.Type() == fs.ModeSymlink {
			links[path.Clean(f.Path)] = f.Link
		}
	}
	return links
}

func sameFile(a, b File) bool {
	return a.Mode == b.Mode && a.Link == b.Link && a.Major == b.Major && a.Minor == b.Minor && bytes.Equal(a.Data, b.Data)
}

// throughLinks rewrites the parents of p that are links. The last component is
// left as it is: it names the entry itself.
func throughLinks(p string, links map[string]string) (string, error) {
	for range 16 {
		next := p
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if to, ok := links[dir]; ok {
				next = joinLink(dir, to) + strings.TrimPrefix(p, dir)
				break
			}
		}
		if next == p {
			return p, nil
		}
		if !fs.ValidPath(next) {
			return "", fmt.Errorf("%s: a link leads out of the archive", p)
		}
		p = next
	}
	return "", fmt.Errorf("%s: links in a circle", p)
}

// joinLink is where a link named at points, relative to the root.
func joinLink(at, to string) string {
	if !path.IsAbs(to) {
		to = path.Join("/", path.Dir(at), to)
	}
	return strings.TrimPrefix(path.Clean(to), "/")
}

func record(f File) (cpio.Record, error) {
	perm := uint64(f.Mode.Perm())
	if f.Mode&fs.ModeSticky != 0 {
		perm |= 0o1000
	}
	switch f.Mode.Type() {
	case 0:
		return cpio.StaticRecord(f.Data, cpio.Info{Name: f.Path, Mode: cpio.S_IFREG | perm}), nil
	case fs.ModeDir:
		return cpio.Directory(f.Path, perm), nil
	case fs.ModeSymlink:
		return cpio.Symlink(f.Path, f.Link), nil
	case fs.ModeNamedPipe:
		return cpio.StaticRecord(nil, cpio.Info{Name: f.Path, Mode: cpio.S_IFIFO | perm}), nil
	case fs.ModeDevice | fs.ModeCharDevice:
		return cpio.CharDev(f.Path, perm, uint64(f.Major), uint64(f.Minor)), nil
	}
	return cpio.Record{}, fmt.Errorf("%s: file type %v is not supported", f.Path, f.Mode.Type())
}
