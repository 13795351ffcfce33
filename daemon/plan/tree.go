package plan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a directory that paths cannot leave: the volume, or the scratch
// space. "/", ".." and links mean what they mean after chroot(2), which is
// openat2(2) with RESOLVE_IN_ROOT; os.Root would refuse the absolute links that
// every operating system's image is full of.
type tree struct {
	dir   string
	owner int // uid and gid of what is made here; -1: leave as it is
}

// maxDepth bounds how deep trees are copied and removed.
const maxDepth = 200

func clean(p string) string { return path.Clean("/" + p) }

func pathError(op, p string, err error) error {
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// openat opens p below the tree. Devices and pipes are not waited for.
func (t *tree) openat(p string, flags int, perm uint32) (*os.File, error) {
	root, err := unix.Open(t.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open", t.dir, err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NONBLOCK | unix.O_NOCTTY
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm)
	}
	rel := strings.TrimPrefix(clean(p), "/")
	if rel == "" {
		rel = "."
	}
	for {
		fd, err := unix.Openat2(root, rel, &how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: somebody renamed a directory meanwhile
			continue
		}
		if err != nil {
			return nil, pathError("open", p, err)
		}
		return os.NewFile(uintptr(fd), p), nil
	}
}

// open opens a plain file for reading.
func (t *tree) open(p string) (*os.File, error) {
	f, err := t.openat(p, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return f, closeUnlessRegular(f, p)
}

func closeUnlessRegular(f *os.File, p string) error {
	fi, err := f.Stat()
	switch {
	case err != nil:
	case fi.IsDir():
		err = pathError("open", p, unix.EISDIR)
	case !fi.Mode().IsRegular():
		err = pathError("open", p, errors.New("not a plain file"))
	}
	if err != nil {
		f.Close()
	}
	return err
}

// create opens a plain file for writing; flags are O_TRUNC or O_APPEND.
func (t *tree) create(p string, flags int, perm fs.FileMode) (*os.File, error) {
	f, err := t.openat(p, unix.O_WRONLY|unix.O_CREAT|flags, uint32(perm.Perm()))
	if err != nil {
		return nil, err
	}
	if err := closeUnlessRegular(f, p); err != nil {
		return nil, err
	}
	if t.owner >= 0 {
		if err := f.Chown(t.owner, t.owner); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// at calls fn with the directory that holds p, and p's name in it.
func (t *tree) at(op, p string, fn func(dir int, name string) error) error {
	c := clean(p)
	if c == "/" {
		return pathError(op, p, errors.New("not allowed for the root directory"))
	}
	d, err := t.openat(path.Dir(c), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return pathError(op, p, errors.Unwrap(err))
	}
	defer d.Close()
	if err := fn(int(d.Fd()), path.Base(c)); err != nil {
		return pathError(op, p, err)
	}
	return nil
}

func (t *tree) lstat(p string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if clean(p) == "/" {
		if err := unix.Stat(t.dir, &st); err != nil {
			return st, pathError("stat", p, err)
		}
		return st, nil
	}
	return st, t.at("stat", p, func(dir int, name string) error {
		return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// isDir follows links.
func (t *tree) isDir(p string) bool {
	d, err := t.openat(p, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	d.Close()
	return true
}

func (t *tree) mkdir(p string, perm uint32) error {
	return t.at("mkdir", p, func(dir int, name string) error {
		if err := unix.Mkdirat(dir, name, perm); err != nil {
			return err
		}
		if t.owner >= 0 {
			return unix.Fchownat(dir, name, t.owner, t.owner, unix.AT_SYMLINK_NOFOLLOW)
		}
		return nil
	})
}

func (t *tree) mkdirAll(p string) error {
	done := "/"
	for _, part := range strings.Split(strings.TrimPrefix(clean(p), "/"), "/") {
		done = path.Join(done, part)
		if done == "/" || t.isDir(done) {
			continue
		}
		if err := t.mkdir(done, 0o777); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) remove(p string) error {
	return t.at("remove", p, func(dir int, name string) error { return unix.Unlinkat(dir, name, 0) })
}

// removeAll removes p and what is below it; nothing there is fine.
func (t *tree) removeAll(p string) error {
	err := t.at("remove", p, func(dir int, name string) error { return removeAt(dir, name, 0) })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

func removeAt(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("more than %d directories deep", maxDepth)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAt(fd, n, depth+1); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

func (t *tree) rename(from, to string) error {
	return t.at("rename", from, func(d1 int, n1 string) error {
		return t.at("rename", to, func(d2 int, n2 string) error { return unix.Renameat(d1, n1, d2, n2) })
	})
}

func (t *tree) symlink(target, p string) error {
	return t.at("symlink", p, func(dir int, name string) error { return unix.Symlinkat(target, dir, name) })
}

func (t *tree) link(old, p string) error {
	return t.at("link", old, func(d1 int, n1 string) error {
		return t.at("link", p, func(d2 int, n2 string) error { return unix.Linkat(d1, n1, d2, n2, 0) })
	})
}

func (t *tree) readlink(p string) (target string, err error) {
	err = t.at("readlink", p, func(dir int, name string) error {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		target = string(buf[:max(n, 0)])
		return err
	})
	return target, err
}

// names lists a directory, sorted.
func (t *tree) names(p string) ([]string, error) {
	d, err := t.openat(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := d.Readdirnames(-1)
	sort.Strings(list)
	return list, err
}

// glob lists the paths that match an absolute pattern, sorted. A pattern
// without matches gives none.
func (t *tree) glob(pattern string) ([]string, error) {
	found := []string{"/"}
	for _, part := range strings.Split(strings.TrimPrefix(clean(pattern), "/"), "/") {
		var next []string
		for _, dir := range found {
			if !strings.ContainsAny(part, `*?[\`) {
				if _, err := t.lstat(path.Join(dir, part)); err == nil {
					next = append(next, path.Join(dir, part))
				}
				continue
			}
			names, err := t.names(dir)
			if err != nil {
				continue // a file where the pattern wants a directory
			}
			for _, n := range names {
				ok, err := path.Match(part, n)
				if err != nil {
					return nil, fmt.Errorf("pattern %s: %w", pattern, err)
				}
				if ok && (part[0] == '.' || n[0] != '.') {
					next = append(next, path.Join(dir, n))
				}
			}
		}
		found = next
	}
	return found, nil
}

// copyTo copies in small pieces until the end or that of the context.
func copyTo(ctx context.Context, w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, &ctxReader{ctx, r}, make([]byte, 64<<10))
	return err
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// writeFile replaces or extends a file by what r yields.
func (t *tree) writeFile(ctx context.Context, p string, flags int, perm fs.FileMode, r io.Reader) error {
	f, err := t.create(p, flags, perm)
	if err != nil {
		return err
	}
	return errors.Join(copyTo(ctx, f, r), f.Close())
}

// copyTree copies a file, link or directory from one tree to another, with
// modes. The target must not be a directory unless the source is one.
func copyTree(ctx context.Context, from *tree, src string, to *tree, dst string, depth int) error {
	if depth > maxDepth {
		return pathError("copy", src, fmt.Errorf("more than %d directories deep", maxDepth))
	}
	st, err := from.lstat(src)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f, err := from.open(src)
		if err != nil {
			return err
		}
		defer f.Close()
		return to.writeFile(ctx, dst, unix.O_TRUNC, fs.FileMode(st.Mode&0o777), f)
	case unix.S_IFLNK:
		target, err := from.readlink(src)
		if err != nil {
			return err
		}
		return to.symlink(target, dst)
	case unix.S_IFDIR:
		if !to.isDir(dst) {
			if err := to.mkdir(dst, st.Mode&0o777|0o700); err != nil {
				return err
			}
		}
		names, err := from.names(src)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := copyTree(ctx, from, path.Join(src, n), to, path.Join(dst, n), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return pathError("copy", src, errors.New("neither file, link nor directory"))
}

// touch sets the times of p, made if need be, to now.
func (t *tree) touch(p string) error {
	f, err := t.create(p, 0, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	// utimensat(2) without a path, as futimens(3) calls it.
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, 0, 0, 0, 0); errno != 0 {
		return pathError("touch", p, errno)
	}
	return nil
}

func (t *tree) chmod(p string, mode uint32) error {
	f, err := t.openat(p, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return pathError("chmod", p, err)
	}
	return nil
}
