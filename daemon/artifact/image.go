package artifact

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// BlockSize is the unit in which images are streamed, in bytes. It is the
// block size of the pool, so that what is zero here stays unallocated there.
const BlockSize = 64 << 10

// maxWindow bounds the memory a zstd stream may ask for, in bytes.
const maxWindow = 32 << 20

// sectorSize is what a disk's size is a multiple of, in bytes.
const sectorSize = 512

// Format is how an image file holds its disk.
type Format string

// The formats that OpenImage knows. Anything that is none of the others is Raw.
const (
	Raw   Format = "raw"
	Zip   Format = "zip" // one raw image inside, the form of published bundles
	Gzip  Format = "gzip"
	Zstd  Format = "zstd"
	Qcow2 Format = "qcow2"
)

// Image is a disk image in a file. Several streams may run at once.
type Image struct {
	Format      Format
	VirtualSize int64 // bytes of the disk; -1 if only reading to the end tells

	open func() (io.ReadCloser, error)
}

// Contents is what a whole image came to.
type Contents struct {
	Size   int64  // bytes of the disk
	SHA256 string // of all of them, zeros included
	Data   int64  // bytes in blocks that are not zero
}

// OpenImage finds out the format of the image in the size bytes of r. Damage
// behind the headers shows when the image is streamed. r must outlive it.
func OpenImage(r io.ReaderAt, size int64) (*Image, error) {
	magic := make([]byte, 8)
	n, err := r.ReadAt(magic, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("image: %w", err)
	}
	if n == 0 || size == 0 {
		return nil, &Error{Kind: ErrCorrupt, Object: "image", Reason: "empty file", Remedy: "send a disk image"}
	}
	whole := func() io.Reader { return io.NewSectionReader(r, 0, size) }
	switch magic := magic[:n]; magicFormat(magic) {
	case Zip:
		return openZipImage(r, size)
	case Gzip:
		return &Image{Format: Gzip, VirtualSize: -1, open: func() (io.ReadCloser, error) { return gzip.NewReader(whole()) }}, nil
	case Zstd:
		return openZstdImage(whole, r)
	case Qcow2:
		q, err := openQcow2(r, size)
		if err != nil {
			return nil, err
		}
		return &Image{Format: Qcow2, VirtualSize: q.size, open: func() (io.ReadCloser, error) { return q.stream(), nil }}, nil
	}
	if size%sectorSize != 0 {
		return nil, &Error{Kind: ErrCorrupt, Object: "image", Reason: fmt.Sprintf("not a disk image: %d bytes are no whole number of sectors, and it is not zip, gzip, zstd or qcow2", size), Remedy: "send a whole raw disk image, or one of these formats"}
	}
	return &Image{Format: Raw, VirtualSize: size, open: func() (io.ReadCloser, error) { return io.NopCloser(whole()), nil }}, nil
}

func magicFormat(b []byte) Format {
	switch {
	case bytes.HasPrefix(b, []byte("PK\x03\x04")), bytes.HasPrefix(b, []byte("PK\x05\x06")):
		return Zip
	case bytes.HasPrefix(b, []byte("\x1f\x8b\x08")):
		return Gzip
	case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")), len(b) >= 4 && b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], []byte("\x2a\x4d\x18")):
		return Zstd
	case bytes.HasPrefix(b, []byte(qcow2Magic)):
		return Qcow2
	}
	return Raw
}

func openZipImage(r io.ReaderAt, size int64) (*Image, error) {
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, &Error{Kind: ErrCorrupt, Object: "image", Reason: "not a readable zip", Remedy: "send it again, unchanged", Err: err}
	}
	if len(z.File) != 1 {
		return nil, &Error{Kind: ErrUnsupported, Object: "image", Reason: fmt.Sprintf("the zip holds %d entries", len(z.File)), Remedy: "pack exactly one raw disk image; upload artifact bundles as bundles"}
	}
	f := z.File[0]
	if !f.Mode().IsRegular() || f.Flags&1 != 0 {
		return nil, &Error{Kind: ErrUnsupported, Object: "image", Reason: "the entry in the zip is encrypted or no plain file", Remedy: "pack exactly one raw disk image"}
	}
	if f.UncompressedSize64 > 1<<62 {
		return nil, &Error{Kind: ErrCorrupt, Object: "image", Reason: "the zip claims an impossible size", Remedy: "send it again, unchanged"}
	}
	return &Image{Format: Zip, VirtualSize: int64(f.UncompressedSize64), open: f.Open}, nil
}

func openZstdImage(whole func() io.Reader, r io.ReaderAt) (*Image, error) {
	head := make([]byte, zstd.HeaderMaxSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("image: %w", err)
	}
	var h zstd.Header
	if err := h.Decode(head[:n]); err != nil {
		return nil, &Error{Kind: ErrCorrupt, Object: "image", Reason: "damaged zstd header", Remedy: "send it again, unchanged", Err: err}
	}
	if h.WindowSize > maxWindow && !h.SingleSegment {
		return nil, &Error{Kind: ErrUnsupported, Object: "image", Reason: fmt.Sprintf("the zstd stream needs a window of %d bytes, limit %d", h.WindowSize, maxWindow), Remedy: "compress it again without --ultra and --long"}
	}
	img := &Image{Format: Zstd, VirtualSize: -1}
	if h.HasFCS && h.FrameContentSize < 1<<62 {
		img.VirtualSize = int64(h.FrameContentSize)
	}
	img.open = func() (io.ReadCloser, error) {
		d, err := zstd.NewReader(whole(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return img, nil
}

// Reader streams the whole disk, zeros included. The caller closes it.
func (img *Image) Reader() (io.ReadCloser, error) {
	rc, err := img.open()
	if err != nil {
		return nil, img.damaged(err)
	}
	return rc, nil
}

var zeroBlock [BlockSize]byte

// Blocks streams the image and calls fn for each block of BlockSize bytes that
// is not all zero, in order; the last one may be shorter. data is valid during
// the call only. A disk larger than limit bytes ends with ErrTooLarge before a
// byte beyond it is passed on (limit 0: none). It returns the size and the
// SHA-256 of the whole disk.
func (img *Image) Blocks(ctx context.Context, limit int64, fn func(off int64, data []byte) error) (Contents, error) {
	if limit > 0 && img.VirtualSize > limit {
		return Contents{}, tooLargeImage(img.VirtualSize, limit)
	}
	rc, err := img.Reader()
	if err != nil {
		return Contents{}, err
	}
	defer rc.Close()
	c, err := eachBlock(ctx, rc, limit, img.Format != Raw && img.Format != Qcow2, fn)
	if err != nil {
		return Contents{}, img.damaged(err)
	}
	if img.VirtualSize >= 0 && c.Size != img.VirtualSize && img.Format != Zstd {
		return Contents{}, &Error{Kind: ErrCorrupt, Object: "image", Reason: fmt.Sprintf("ends after %d bytes of %d", c.Size, img.VirtualSize), Remedy: "send it again, unchanged"}
	}
	if c.Size == 0 || c.Size%sectorSize != 0 {
		return Contents{}, &Error{Kind: ErrCorrupt, Object: "image", Reason: fmt.Sprintf("not a disk image: %d bytes are no whole number of sectors", c.Size), Remedy: "pack a whole raw disk image"}
	}
	return c, nil
}

// blockError marks an error of the caller's function, to be passed on bare.
type blockError struct{ error }

func eachBlock(ctx context.Context, r io.Reader, limit int64, packed bool, fn func(int64, []byte) error) (Contents, error) {
	var c Contents
	h := sha256.New()
	buf := make([]byte, BlockSize)
	for {
		if err := ctx.Err(); err != nil {
			return c, blockError{err}
		}
		n, err := readBlock(r, buf)
		if n > 0 {
			if c.Size == 0 && packed {
				if inner := magicFormat(buf[:n]); inner != Raw {
					return c, &Error{Kind: ErrUnsupported, Object: "image", Reason: fmt.Sprintf("a %s inside another format", inner), Remedy: "unpack the outer one and send the inner"}
				}
			}
			if limit > 0 && c.Size+int64(n) > limit {
				return c, tooLargeImage(c.Size+int64(n), limit)
			}
			h.Write(buf[:n])
			if !bytes.Equal(buf[:n], zeroBlock[:n]) {
				if err := fn(c.Size, buf[:n]); err != nil {
					return c, blockError{err}
				}
				c.Data += int64(n)
			}
			c.Size += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return c, err
		}
	}
	c.SHA256 = hex.EncodeToString(h.Sum(nil))
	return c, nil
}

// readBlock fills buf. Unlike io.ReadFull it keeps io.EOF after a short block,
// because decompressors say io.ErrUnexpectedEOF when their stream broke off.
func readBlock(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func tooLargeImage(n, limit int64) error {
	return &Error{Kind: ErrTooLarge, Object: "image", Reason: fmt.Sprintf("the disk has at least %d bytes, limit %d", n, limit), Remedy: "make the image smaller or give the pool more room"}
}

// damaged turns an error of a decompressor into one that says what to do.
func (img *Image) damaged(err error) error {
	var mine blockError
	if errors.As(err, &mine) {
		return mine.error
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return &Error{Kind: ErrUnsupported, Object: "image", Reason: "the zstd stream needs too much memory", Remedy: "compress it again without --ultra and --long", Err: err}
	}
	return &Error{Kind: ErrCorrupt, Object: "image", Reason: "damaged " + string(img.Format), Remedy: "send it again, unchanged", Err: err}
}

// CompressImage writes the raw disk that r yields as zstd, the form in which
// the store keeps golden images: runs of zeros shrink to next to nothing.
// size is the disk's size in bytes, or -1; when given it is recorded in the
// stream, must be right, and OpenImage finds it there.
func CompressImage(ctx context.Context, w io.Writer, r io.Reader, size int64) (Contents, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(true))
	if err != nil {
		return Contents{}, err
	}
	enc.ResetContentSize(w, size)
	h := sha256.New()
	var c Contents
	_, err = io.CopyBuffer(io.MultiWriter(enc, h, (*counter)(&c)), &limitedReader{ctx: ctx, r: r, left: 1 << 62}, make([]byte, BlockSize))
	if err = errors.Join(err, enc.Close()); err != nil {
		return Contents{}, fmt.Errorf("compress image: %w", err)
	}
	if size >= 0 && c.Size != size {
		return Contents{}, &Error{Kind: ErrCorrupt, Object: "image", Reason: fmt.Sprintf("ends after %d bytes of %d", c.Size, size), Remedy: "read it again"}
	}
	c.SHA256 = hex.EncodeToString(h.Sum(nil))
	return c, nil
}

// counter counts bytes, and those in writes that are not all zero.
type counter Contents

func (c *counter) Write(p []byte) (int, error) {
	c.Size += int64(len(p))
	for q := p; len(q) > 0; {
		n := min(len(q), BlockSize)
		if !bytes.Equal(q[:n], zeroBlock[:n]) {
			c.Data += int64(n)
		}
		q = q[n:]
	}
	return len(p), nil
}

// WriteZip writes the image in the form that published bundles have: a zip with
// one raw disk image, its entry called name.
func (img *Image) WriteZip(ctx context.Context, w io.Writer, name string) error {
	rc, err := img.Reader()
	if err != nil {
		return err
	}
	defer rc.Close()
	z := zip.NewWriter(w)
	e, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(e, &limitedReader{ctx: ctx, r: rc, left: 1 << 62}, make([]byte, BlockSize)); err != nil {
		return img.damaged(err)
	}
	return z.Close()
}
