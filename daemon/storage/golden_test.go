package storage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"baystream/daemon/pool"
)

// ramDisk remembers where it was written to.
type ramDisk struct {
	b      []byte
	writes [][2]int64 // offset, length
	err    error
}

func (r *ramDisk) WriteAt(p []byte, off int64) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	r.writes = append(r.writes, [2]int64{off, int64(len(p))})
	return copy(r.b[off:], p), nil
}

func TestSparseWriterWritesRunsOfData(t *testing.T) {
	const blk = pool.BlockSize
	img := make([]byte, 3*mib+blk+512) // the last block is not whole
	for _, at := range []int{0, blk, 5 * blk, mib - 1, mib, 3*mib + blk} {
		img[at] = 7
	}
	d := &ramDisk{b: make([]byte, len(img))}
	w := sparseWriter{w: d}
	got, err := w.copy(context.Background(), bytes.NewReader(img), uint64(len(img)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got != sum(img) || !bytes.Equal(d.b, img) {
		t.Errorf("copy = %s, want %s; equal %v", got, sum(img), bytes.Equal(d.b, img))
	}
	want := [][2]int64{{0, 2 * blk}, {5 * blk, blk}, {mib - blk, blk}, {mib, blk}, {3*mib + blk, 512}}
	if len(d.writes) != len(want) {
		t.Fatalf("writes = %v, want %v", d.writes, want)
	}
	for i := range want {
		if d.writes[i] != want[i] {
			t.Errorf("write %d = %v, want %v", i, d.writes[i], want[i])
		}
	}
	if w.written != 5*blk+512 {
		t.Errorf("written = %d", w.written)
	}
}

func TestSparseWriterStops(t *testing.T) {
	ctx := context.Background()
	data := bytes.Repeat([]byte{1}, 2*mib)
	full := errors.New("full")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		w    sparseWriter
		src  io.Reader
		size uint64
		want string
	}{
		{"cut short", ctx, sparseWriter{w: &ramDisk{b: make([]byte, 3*mib)}}, bytes.NewReader(data), 3 * mib, "cut short"},
		{"longer than it says", ctx, sparseWriter{w: &ramDisk{b: make([]byte, mib)}}, bytes.NewReader(data), mib, "larger than it says"},
		{"source fails", ctx, sparseWriter{w: &ramDisk{b: make([]byte, mib)}}, io.MultiReader(bytes.NewReader(data[:512]), errReader{}), mib, "broken"},
		{"no space", ctx, sparseWriter{w: &ramDisk{err: unix.ENOSPC}}, bytes.NewReader(data), 2 * mib, "too full"},
		{"cancelled", ended, sparseWriter{w: &ramDisk{}}, bytes.NewReader(data), 2 * mib, "canceled"},
		{"guard", ctx, sparseWriter{w: &ramDisk{b: make([]byte, 65*mib)}, guard: func() error { return full }},
			bytes.NewReader(make([]byte, 65*mib)), 65 * mib, "full"},
	} {
		_, err := c.w.copy(c.ctx, c.src, c.size, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestAllZero(t *testing.T) {
	for _, n := range []int{0, 1, 512, pool.BlockSize, pool.BlockSize + 1, 3*pool.BlockSize + 5} {
		b := make([]byte, n)
		if !allZero(b) {
			t.Errorf("allZero of %d zeros is false", n)
		}
		if n > 0 {
			b[n-1] = 1
			if allZero(b) {
				t.Errorf("allZero of %d bytes misses the last", n)
			}
		}
	}
}
