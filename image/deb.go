package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/blakesmith/ar"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// A Deb is a Debian package, unpacked beside its file.
type Deb struct {
	Package string
	Version string
	// Root is the folder with the package's files.
	Root string
}

// OpenDeb unpacks the package at file into a folder beside it, once, and
// returns it. Owners and set-user-id bits are dropped; device nodes are
// refused. The format is deb(5), version 2.0 with xz, zstd or gzip members.
func OpenDeb(file string) (*Deb, error) {
	dir := strings.TrimSuffix(file, ".deb") + ".unpacked"
	unlock, err := lockDir(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := unpackDeb(file, dir); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
		}
	}
	control, err := os.ReadFile(filepath.Join(dir, "control"))
	if err != nil {
		return nil, fmt.Errorf("unpacked package: %w (remove %s to unpack it again)", err, dir)
	}
	fields := parseFields(string(control))
	return &Deb{Package: fields["Package"], Version: fields["Version"], Root: filepath.Join(dir, "root")}, nil
}

// Files are the package's entries at each of the paths, in the form Pack
// takes. A symbolic link comes with what it points to, when that is in the
// same package.
func (d *Deb) Files(paths ...string) ([]File, error) {
	var files []File
	for _, p := range paths {
		for hop := 0; ; hop++ {
			f, err := d.file(p)
			if hop > 0 && errors.Is(err, fs.ErrNotExist) {
				break // points into another package
			}
			if err != nil {
				return nil, fmt.Errorf("package %s: %w", d.Package, err)
			}
			files = append(files, f)
			if f.Mode.Type() != fs.ModeSymlink || hop > 8 {
				break
			}
			p = joinLink(f.Path, f.Link)
		}
	}
	return files, nil
}

func (d *Deb) file(p string) (File, error) {
	full := filepath.Join(d.Root, filepath.FromSlash(p))
	info, err := os.Lstat(full)
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", p, errors.Unwrap(err))
	}
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		to, err := os.Readlink(full)
		return Symlink(p, to), err
	case 0:
		data, err := os.ReadFile(full)
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return File{Path: p, Mode: mode, Data: data}, err
	}
	return File{}, fmt.Errorf("%s: %v is no file", p, info.Mode())
}

// Glob lists the package's paths that match pattern, sorted, as path.Match
// does.
func (d *Deb) Glob(pattern string) ([]string, error) {
	return fs.Glob(os.DirFS(d.Root), pattern)
}

func unpackDeb(file, dir string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := unpackMembers(in, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// unpackMembers writes the control file and below root/ the data of the
// package that r reads.
func unpackMembers(r io.Reader, dir string) error {
	var sawControl, sawData bool
	members := ar.NewReader(r)
	for {
		hdr, err := members.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("ar member: %w", err)
		}
		name := strings.TrimSuffix(hdr.Name, "/")
		body := io.LimitReader(members, hdr.Size)
		switch {
		case strings.HasPrefix(name, "control.tar"):
			sawControl = true
			err = unpackControl(name, body, filepath.Join(dir, "control"))
		case strings.HasPrefix(name, "data.tar"):
			sawData = true
			err = unpackTar(name, body, filepath.Join(dir, "root"))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
	}
	if !sawControl || !sawData {
		return errors.New("not a Debian package: control or data member missing")
	}
	return nil
}

func decompressor(name string, r io.Reader) (io.Reader, error) {
	switch path.Ext(name) {
	case ".xz":
		return xz.NewReader(r)
	case ".zst":
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	case ".gz":
		return gzip.NewReader(r)
	case ".tar":
		return r, nil
	}
	return nil, errors.New("unknown compression")
}

func unpackControl(name string, r io.Reader, to string) error {
	plain, err := decompressor(name, r)
	if err != nil {
		return err
	}
	archive := tar.NewReader(plain)
	for {
		hdr, err := archive.Next()
		if err != nil {
			return fmt.Errorf("control file: %w", err)
		}
		if path.Clean(hdr.Name) == "control" {
			var b bytes.Buffer
			if _, err := b.ReadFrom(archive); err != nil {
				return err
			}
			return os.WriteFile(to, b.Bytes(), 0o644)
		}
	}
}

// unpackTar writes the archive below root, which is made. An os.Root keeps
// every path inside.
func unpackTar(name string, r io.Reader, root string) error {
	plain, err := decompressor(name, r)
	if err != nil {
		return err
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	base, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer base.Close()
	archive := tar.NewReader(plain)
	for {
		hdr, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(base, hdr, archive); err != nil {
			return fmt.Errorf("%s: %w", hdr.Name, err)
		}
	}
}

func unpackEntry(base *os.Root, hdr *tar.Header, r io.Reader) error {
	p := path.Clean(strings.TrimPrefix(hdr.Name, "/"))
	if p == "." {
		return nil
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return base.MkdirAll(p, 0o755)
	case tar.TypeSymlink:
		return base.Symlink(hdr.Linkname, p)
	case tar.TypeLink:
		return base.Link(path.Clean(hdr.Linkname), p)
	case tar.TypeReg:
		mode := fs.FileMode(0o644) | fs.FileMode(hdr.Mode)&0o111
		f, err := base.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	return fmt.Errorf("entry type %q is not supported", hdr.Typeflag)
}

// lockDir holds dir, which is made when missing, against other processes that
// use it as a cache, until unlock is called.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("cache %s: lock: %w", dir, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// parseFields reads one stanza of deb-control(5). Continuation lines are
// dropped: no field used here has any.
func parseFields(stanza string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(stanza) {
		if line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields
}
