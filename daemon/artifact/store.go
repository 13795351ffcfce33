package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
)

// copyBuffer is what one stream holds in memory, in bytes.
const copyBuffer = 256 << 10

// spaceCheck is how many bytes are written between two looks at free space.
const spaceCheck = 16 << 20

// Object is one file of a Store.
type Object struct {
	SHA256 string // of the contents, 64 lower-case hex digits: the object's name
	Size   int64  // bytes
}

// PutLimits bounds one Put. The zero value bounds it by free space only.
type PutLimits struct {
	MaxBytes int64  // refuse more; 0: no limit
	Size     int64  // announced size, checked against free space before the first byte; 0: unknown
	SHA256   string // refuse any other contents; "": take what comes

	// Name is told the object's name before it is in the store; nil: nobody.
	Name func(sha256 string)
}

// Store is a directory of immutable objects named by their SHA-256.
type Store struct {
	dir     string
	reserve int64
	free    func(dir string) (int64, error)
}

// OpenStore opens the store in dir and makes the directory if there is none.
// What an interrupted Put left behind is removed. The last reserve bytes of the
// file system are never used, so that the database beside the store can still
// write. Only one process may have a store open.
func OpenStore(dir string, reserve int64) (*Store, error) {
	s := &Store{dir: dir, reserve: reserve, free: freeBytes}
	for _, d := range []string{s.objects(), s.temp()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("artifact store: %w", err)
		}
	}
	left, err := os.ReadDir(s.temp())
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(s.temp(), e.Name())); err != nil {
			return nil, fmt.Errorf("artifact store: sweep: %w", err)
		}
	}
	return s, nil
}

func (s *Store) objects() string { return filepath.Join(s.dir, "objects") }
func (s *Store) temp() string    { return filepath.Join(s.dir, "tmp") }

func (s *Store) path(sum string) (string, error) {
	if !validSum(sum) {
		return "", &Error{Kind: ErrBadName, Object: fmt.Sprintf("object %.80q", sum), Reason: "not a SHA-256 sum", Remedy: "give 64 lower-case hex digits"}
	}
	return filepath.Join(s.objects(), sum[:2], sum), nil
}

func validSum(sum string) bool {
	raw, err := hex.DecodeString(sum)
	return err == nil && len(raw) == sha256.Size && hex.EncodeToString(raw) == sum
}

// Put stores what r yields and returns its name. Contents that are there
// already are stored once. After an error the store is as it was before.
func (s *Store) Put(ctx context.Context, r io.Reader, lim PutLimits) (Object, error) {
	if lim.Size > 0 {
		if lim.MaxBytes > 0 && lim.Size > lim.MaxBytes {
			return Object{}, tooLarge(lim.Size, lim.MaxBytes)
		}
		if err := s.room(lim.Size); err != nil {
			return Object{}, err
		}
	}
	f, err := os.CreateTemp(s.temp(), "put-")
	if err != nil {
		return Object{}, fmt.Errorf("artifact store: %w", noSpace(err))
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()
	h := sha256.New()
	n, err := s.copy(ctx, io.MultiWriter(f, h), r, lim.MaxBytes)
	if err != nil {
		return Object{}, err
	}
	obj := Object{SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}
	if lim.SHA256 != "" && lim.SHA256 != obj.SHA256 {
		return Object{}, &Error{Kind: ErrChecksum, Object: "object", Reason: fmt.Sprintf("contents have SHA-256 %s, not %s", obj.SHA256, lim.SHA256), Remedy: "send it again"}
	}
	if lim.Name != nil {
		lim.Name(obj.SHA256)
	}
	return obj, s.commit(f, obj)
}

// commit makes the finished temporary file f the object obj, for good.
func (s *Store) commit(f *os.File, obj Object) error {
	dst, err := s.path(obj.SHA256)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return fmt.Errorf("artifact store: %w", noSpace(err))
	}
	if err := f.Chmod(0o400); err != nil {
		return fmt.Errorf("artifact store: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("artifact store: %w", noSpace(err))
	}
	if err := os.Rename(f.Name(), dst); err != nil {
		return fmt.Errorf("artifact store: %w", err)
	}
	for _, d := range []string{filepath.Dir(dst), s.objects()} {
		if err := syncDir(d); err != nil {
			return fmt.Errorf("artifact store: %w", err)
		}
	}
	return nil
}

func (s *Store) copy(ctx context.Context, w io.Writer, r io.Reader, limit int64) (int64, error) {
	buf := make([]byte, copyBuffer)
	var n, checked int64
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if n == 0 || n-checked >= spaceCheck {
			if err := s.room(copyBuffer); err != nil {
				return n, err
			}
			checked = n
		}
		m, rerr := r.Read(buf)
		if n += int64(m); limit > 0 && n > limit {
			return n, tooLarge(n, limit)
		}
		if _, err := w.Write(buf[:m]); err != nil {
			return n, fmt.Errorf("artifact store: %w", noSpace(err))
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// room checks that n more bytes fit above the reserve.
func (s *Store) room(n int64) error {
	free, err := s.free(s.dir)
	if err != nil {
		return fmt.Errorf("artifact store: free space: %w", err)
	}
	if free-s.reserve < n {
		return &Error{Kind: ErrNoSpace, Object: "artifact store", Reason: fmt.Sprintf("%d bytes more do not fit: %d are free and %d of them kept in reserve", n, free, s.reserve), Remedy: "delete artifacts that are not in use"}
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &Error{Kind: ErrNoSpace, Object: "artifact store", Reason: "disk full", Remedy: "delete artifacts that are not in use", Err: err}
	}
	return err
}

func tooLarge(n, limit int64) error {
	return &Error{Kind: ErrTooLarge, Object: "object", Reason: fmt.Sprintf("at least %d bytes, limit %d", n, limit), Remedy: "send something smaller or raise the limit"}
}

// Open opens an object for reading at any offset. The caller closes it.
func (s *Store) Open(sum string) (*os.File, error) {
	p, err := s.path(sum)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(sum)
	}
	return f, err
}

// Stat tells an object's size.
func (s *Store) Stat(sum string) (Object, error) {
	p, err := s.path(sum)
	if err != nil {
		return Object{}, err
	}
	fi, err := os.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return Object{}, notFound(sum)
	}
	if err != nil {
		return Object{}, err
	}
	return Object{SHA256: sum, Size: fi.Size()}, nil
}

// Delete removes an object. Who has it open can read on.
func (s *Store) Delete(sum string) error {
	p, err := s.path(sum)
	if err != nil {
		return err
	}
	if err := os.Remove(p); errors.Is(err, fs.ErrNotExist) {
		return notFound(sum)
	} else if err != nil {
		return err
	}
	return syncDir(filepath.Dir(p))
}

func notFound(sum string) error {
	return &Error{Kind: ErrNotFound, Object: "object " + sum, Reason: "not in the store", Remedy: "upload it again or copy it from another appliance"}
}

// List names all objects, sorted by name. Foreign files are left out.
func (s *Store) List() ([]Object, error) {
	dirs, err := os.ReadDir(s.objects())
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	var objs []Object
	for _, d := range dirs {
		files, err := os.ReadDir(filepath.Join(s.objects(), d.Name()))
		if err != nil {
			continue // not one of our folders
		}
		for _, f := range files {
			fi, err := f.Info()
			if err != nil || !validSum(f.Name()) || f.Name()[:2] != d.Name() || !fi.Mode().IsRegular() {
				continue
			}
			objs = append(objs, Object{SHA256: f.Name(), Size: fi.Size()})
		}
	}
	sort.Slice(objs, func(i, j int) bool { return objs[i].SHA256 < objs[j].SHA256 })
	return objs, nil
}

// Verify reads an object and compares its contents with its name.
func (s *Store) Verify(ctx context.Context, sum string) error {
	f, err := s.Open(sum)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, copyBuffer)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("object %s: %w", sum, err)
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return &Error{Kind: ErrChecksum, Object: "object " + sum, Reason: "contents have SHA-256 " + got, Remedy: "delete it and copy it from another appliance, or upload it again"}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
