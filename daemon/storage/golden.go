package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"baystream/daemon/pool"
)

// A BlockSource gives an image's content from its first byte to its last,
// zeros included, and io.EOF behind it.
type BlockSource interface{ io.Reader }

// Import says what is known about an image before it is read.
type Import struct {
	ID             string
	SizeBytes      uint64 // of the whole content; a multiple of 512
	AllocatedBytes uint64 // what is not zero, when known; 0: assume SizeBytes
	Digest         string // of the whole content (see Digest), checked when given
	Progress       func(done, total uint64)
}

const importChunk = 1 << 20 // bytes read and written at once

// ImportGolden brings an image into the pool as a thin volume in which only
// blocks that are not zero take room. The content is hashed on its way and is
// on the disk before the image is ready. A repeat for an image that is there
// returns it without reading the source; after any failure nothing is left.
func (s *Storage) ImportGolden(ctx context.Context, im Import, src BlockSource) (Golden, error) {
	g, err := s.importGolden(ctx, im, src)
	if err != nil {
		return Golden{}, fmt.Errorf("import golden image %s: %w", im.ID, err)
	}
	return g, nil
}

func (s *Storage) importGolden(ctx context.Context, im Import, src BlockSource) (Golden, error) {
	if !goodID.MatchString(im.ID) {
		return Golden{}, fmt.Errorf("ID %q: want 1 to 64 letters, digits, dots or hyphens", im.ID)
	}
	if im.SizeBytes == 0 || im.SizeBytes%512 != 0 {
		return Golden{}, fmt.Errorf("size %d: want a positive multiple of 512", im.SizeBytes)
	}
	unlock, err := s.book.lock(ctx, im.ID)
	if err != nil {
		return Golden{}, err
	}
	defer unlock()
	if g, ok := s.book.golden(im.ID); ok && g.Ready {
		if g.SizeBytes != im.SizeBytes || im.Digest != "" && g.Digest != im.Digest {
			return Golden{}, fmt.Errorf("%w: %d bytes, digest %s", ErrConflict, g.SizeBytes, g.Digest)
		}
		return g, nil
	} else if ok {
		if err := s.removeGolden(ctx, g); err != nil {
			return Golden{}, err
		}
	}
	need := im.SizeBytes
	if im.AllocatedBytes != 0 {
		need = min(need, im.AllocatedBytes)
	}
	if err := s.room(need); err != nil {
		return Golden{}, err
	}
	g, err := s.book.addGolden(ctx, im.ID, im.SizeBytes)
	if err == nil {
		g, err = s.fill(ctx, g, im, src)
	}
	if err != nil {
		return Golden{}, errors.Join(err, s.removeGolden(context.WithoutCancel(ctx), g))
	}
	s.log.Info("golden image imported", "golden", g.ID, "bytes", g.SizeBytes, "allocated", g.AllocatedBytes, "digest", g.Digest)
	return g, nil
}

func (s *Storage) room(need uint64) error {
	st, err := s.pool.Status()
	if err != nil {
		return err
	}
	return st.Guard(need)
}

// fill makes the thin volume, writes and verifies it, and makes it ready.
func (s *Storage) fill(ctx context.Context, g Golden, im Import, src BlockSource) (Golden, error) {
	for {
		err := s.pool.CreateThin(g.ThinID)
		if err == nil {
			break
		}
		if !errors.Is(err, pool.ErrExists) {
			return g, err
		}
		s.log.Warn("thin device without a record", "thin", g.ThinID)
		s.book.mu.Lock()
		g.ThinID, err = s.book.newThin()
		s.book.mu.Unlock()
		if err == nil {
			err = s.book.putGolden(ctx, g)
		}
		if err != nil {
			return g, err
		}
	}
	node, err := s.pool.Activate(ctx, g.thin(), g.ThinID, (im.SizeBytes+511)/512)
	if err != nil {
		return g, err
	}
	if err := s.write(ctx, node, &g, im, src); err != nil {
		return g, err
	}
	if err := s.pool.Deactivate(ctx, g.thin()); err != nil {
		return g, err
	}
	g.Ready = true
	return g, s.book.putGolden(ctx, g)
}

func (s *Storage) write(ctx context.Context, node string, g *Golden, im Import, src BlockSource) error {
	f, err := os.OpenFile(node, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	w := sparseWriter{w: f, guard: func() error { return s.room(0) }}
	sum, err := w.copy(ctx, src, im.SizeBytes, im.Progress)
	if err != nil {
		return err
	}
	g.Digest, g.AllocatedBytes = sum, w.written
	if im.Digest != "" && im.Digest != g.Digest {
		return fmt.Errorf("content has digest %s, want %s: the image is damaged, fetch it again", g.Digest, im.Digest)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", node, err)
	}
	return nil
}

// sparseWriter writes the blocks of an image that are not zero and hashes all.
type sparseWriter struct {
	w       io.WriterAt
	guard   func() error // asked now and then whether there is room left
	written uint64
}

// copy reads exactly size bytes and returns their digest. Hashing runs
// beside reading and writing.
func (s *sparseWriter) copy(ctx context.Context, src io.Reader, size uint64, progress func(done, total uint64)) (string, error) {
	h := newHasher()
	defer h.stop()
	for off := uint64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		buf := h.buffer()
		n := min(uint64(len(buf)), size-off)
		if _, err := io.ReadFull(src, buf[:n]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return "", fmt.Errorf("content ends before byte %d of %d: the image is cut short, fetch it again", off+n, size)
			}
			return "", fmt.Errorf("read at byte %d: %w", off, err)
		}
		if err := s.blocks(buf[:n], off); err != nil {
			return "", err
		}
		h.add(buf[:n])
		off += n
		if progress != nil {
			progress(off, size)
		}
		if s.guard != nil && off%(64<<20) == 0 {
			if err := s.guard(); err != nil {
				return "", err
			}
		}
	}
	var one [1]byte
	if n, _ := io.ReadFull(src, one[:]); n != 0 {
		return "", fmt.Errorf("content goes on behind byte %d: the image is larger than it says", size)
	}
	return h.sum(), nil
}

// blocks writes the runs of blocks in b that are not all zero. b begins at
// byte off, a multiple of the block size.
func (s *sparseWriter) blocks(b []byte, off uint64) error {
	for i := 0; i < len(b); {
		end := min(i+pool.BlockSize, len(b))
		if allZero(b[i:end]) {
			i = end
			continue
		}
		for end < len(b) && !allZero(b[end:min(end+pool.BlockSize, len(b))]) {
			end = min(end+pool.BlockSize, len(b))
		}
		if _, err := s.w.WriteAt(b[i:end], int64(off)+int64(i)); err != nil {
			if errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("%w: at byte %d: delete OS volumes or golden images", ErrPoolFull, off+uint64(i))
			}
			return fmt.Errorf("write at byte %d: %w", off+uint64(i), err)
		}
		s.written += uint64(end - i)
		i = end
	}
	return nil
}

var zeros [pool.BlockSize]byte

func allZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// hasher computes a digest in a goroutine of its own over buffers that it
// hands out and takes back.
type hasher struct {
	free, full chan []byte
	done       chan struct{}
	d          digester
	closed     bool
}

func newHasher() *hasher {
	h := &hasher{free: make(chan []byte, 2), full: make(chan []byte, 2), done: make(chan struct{}), d: newDigester()}
	for range cap(h.free) {
		h.free <- directBuffer(importChunk)
	}
	go func() {
		defer close(h.done)
		for b := range h.full {
			h.d.write(b)
			h.free <- b[:importChunk]
		}
	}()
	return h
}

func (h *hasher) buffer() []byte { return <-h.free }
func (h *hasher) add(b []byte)   { h.full <- b }

func (h *hasher) stop() {
	if !h.closed {
		h.closed = true
		close(h.full)
		<-h.done
	}
}

func (h *hasher) sum() string {
	h.stop()
	return h.d.sum()
}

// directBuffer gives n bytes at an address fit for O_DIRECT.
func directBuffer(n int) []byte {
	b := make([]byte, n+4096)
	o := -int(uintptr(unsafe.Pointer(&b[0]))) & 4095
	return b[o : o+n : o+n]
}

// DeleteGolden removes an image. While a volume is a clone of it the answer is
// ErrInUse. An image that is gone is no error.
func (s *Storage) DeleteGolden(ctx context.Context, id string) error {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	g, err := s.book.retire(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err == nil {
		err = s.removeGolden(ctx, g)
	}
	if err != nil {
		return fmt.Errorf("delete golden image %s: %w", id, err)
	}
	s.log.Info("golden image deleted", "golden", id)
	return nil
}

// forgetImport removes what an interrupted import or deletion left.
func (s *Storage) forgetImport(ctx context.Context, id string) error {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	g, ok := s.book.golden(id)
	if !ok || g.Ready {
		return nil
	}
	return s.removeGolden(ctx, g)
}

// removeGolden removes an image that is not ready (any more).
func (s *Storage) removeGolden(ctx context.Context, g Golden) error {
	if g.ID == "" {
		return nil
	}
	if err := s.pool.Deactivate(ctx, g.thin()); err != nil {
		return err
	}
	if err := s.pool.Delete(g.ThinID); err != nil {
		return err
	}
	return s.book.dropGolden(ctx, g.ID)
}

// Golden tells about one image, or ErrNotFound.
func (s *Storage) Golden(id string) (Golden, error) {
	g, ok := s.book.golden(id)
	if !ok || !g.Ready {
		return Golden{}, fmt.Errorf("golden image %s: %w", id, ErrNotFound)
	}
	return g, nil
}
