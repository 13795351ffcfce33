package artifact

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

const abcSum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc", FIPS 180-2

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// clean fails the test if a temporary file is left.
func clean(t *testing.T, s *Store) {
	t.Helper()
	if left, err := os.ReadDir(s.temp()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestStoreKeepsObjects(t *testing.T) {
	s := newStore(t)
	want := Object{SHA256: abcSum, Size: 3}
	for range 2 { // the second time it is there already
		got, err := s.Put(t.Context(), strings.NewReader("abc"), PutLimits{SHA256: abcSum, Size: 3, MaxBytes: 3})
		if err != nil || got != want {
			t.Fatalf("Put = %+v, %v, want %+v", got, err, want)
		}
	}
	clean(t, s)
	f, err := s.Open(abcSum)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, _ := io.ReadAll(f); string(b) != "abc" {
		t.Errorf("contents = %q", b)
	}
	list, err := s.List()
	if diff := cmp.Diff([]Object{want}, list); err != nil || diff != "" {
		t.Errorf("List: %v (-want +got):\n%s", err, diff)
	}
	if got, err := s.Stat(abcSum); err != nil || got != want {
		t.Errorf("Stat = %+v, %v", got, err)
	}
	if err := s.Verify(t.Context(), abcSum); err != nil {
		t.Errorf("Verify = %v", err)
	}
	if err := s.Delete(abcSum); err != nil {
		t.Error(err)
	}
	for _, err := range []error{s.Delete(abcSum), second(s.Open(abcSum)), second(s.Stat(abcSum))} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("after Delete: %v, want ErrNotFound", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestStoreVerifyFindsDamage(t *testing.T) {
	s := newStore(t)
	if _, err := s.Put(t.Context(), strings.NewReader("abc"), PutLimits{}); err != nil {
		t.Fatal(err)
	}
	path, _ := s.path(abcSum)
	os.Chmod(path, 0o600)
	if err := os.WriteFile(path, []byte("abd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), abcSum); !errors.Is(err, ErrChecksum) {
		t.Errorf("Verify = %v, want ErrChecksum", err)
	}
}

func TestStoreRefusesAndKeepsNothing(t *testing.T) {
	s := newStore(t)
	s.reserve = 100
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("connection lost")
	for _, tt := range []struct {
		name string
		ctx  context.Context
		r    io.Reader
		lim  PutLimits
		free int64
		want error
	}{
		{"wrong sum", t.Context(), strings.NewReader("abd"), PutLimits{SHA256: abcSum}, 1 << 40, ErrChecksum},
		{"too large", t.Context(), strings.NewReader("abcd"), PutLimits{MaxBytes: 3}, 1 << 40, ErrTooLarge},
		{"announced too large", t.Context(), strings.NewReader("abcd"), PutLimits{MaxBytes: 3, Size: 4}, 1 << 40, ErrTooLarge},
		{"announced beyond free space", t.Context(), strings.NewReader("abcd"), PutLimits{Size: 1 << 30}, 1 << 30, ErrNoSpace},
		{"no free space", t.Context(), strings.NewReader("abcd"), PutLimits{}, 1000, ErrNoSpace},
		{"reader breaks", t.Context(), iotest.ErrReader(broken), PutLimits{}, 1 << 40, broken},
		{"cancelled", cancelled, strings.NewReader("abc"), PutLimits{}, 1 << 40, context.Canceled},
	} {
		s.free = func(string) (int64, error) { return tt.free, nil }
		if _, err := s.Put(tt.ctx, tt.r, tt.lim); !errors.Is(err, tt.want) {
			t.Errorf("%s: Put = %v, want %v", tt.name, err, tt.want)
		}
		clean(t, s)
	}
	if list, err := s.List(); len(list) > 0 || err != nil {
		t.Errorf("List = %v, %v, want nothing", list, err)
	}
}

func TestStoreSeesTheDiskFillDuringPut(t *testing.T) {
	s := newStore(t)
	free := int64(40 << 20)
	s.free = func(string) (int64, error) { free -= 20 << 20; return free, nil }
	_, err := s.Put(t.Context(), io.LimitReader(zeros{}, 100<<20), PutLimits{})
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("Put = %v, want ErrNoSpace", err)
	}
	clean(t, s)
}

func TestOpenStoreSweepsWhatACrashLeft(t *testing.T) {
	s := newStore(t)
	if err := os.WriteFile(filepath.Join(s.temp(), "put-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := OpenStore(s.dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	clean(t, again)
}

func TestStoreTakesNoPathsForNames(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"", "..", "../../etc/passwd", strings.ToUpper(abcSum), abcSum[:63], abcSum + "0"} {
		for _, err := range []error{second(s.Open(name)), s.Delete(name), s.Verify(t.Context(), name)} {
			if !errors.Is(err, ErrBadName) {
				t.Errorf("name %q: %v, want ErrBadName", name, err)
			}
		}
	}
	os.MkdirAll(filepath.Join(s.objects(), "ba"), 0o700)
	os.WriteFile(filepath.Join(s.objects(), "ba", "foreign"), []byte("x"), 0o600)
	if list, err := s.List(); len(list) > 0 || err != nil {
		t.Errorf("List = %v, %v, want foreign files left out", list, err)
	}
}

func TestPutNeedsLittleMemory(t *testing.T) {
	s := newStore(t)
	grown := heapGrowth(func() {
		if _, err := s.Put(t.Context(), io.LimitReader(zeros{}, 64<<20), PutLimits{}); err != nil {
			t.Error(err)
		}
	})
	if grown > 4<<20 {
		t.Errorf("Put of 64 MiB allocated %d bytes", grown)
	}
}
