package artifact

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// testDisk is a disk of size bytes with data in a few places.
func testDisk(size int) []byte {
	disk := make([]byte, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, at := range []int{0, size / 3, size - 1024} {
		for i := at; i < min(at+3000, size); i++ {
			disk[i] = byte(rnd.Uint32())
		}
	}
	copy(disk, "boot code, neither zip nor qcow2")
	return disk
}

func pack(t testing.TB, format Format, disk []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.Closer
	switch format {
	case Raw:
		return disk
	case Zip:
		z := zip.NewWriter(&b)
		e, err := z.Create("0000-uuid")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write(disk); err != nil {
			t.Fatal(err)
		}
		w = z
	case Gzip:
		g := gzip.NewWriter(&b)
		g.Write(disk)
		w = g
	case Zstd:
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		z.Write(disk)
		w = z
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rebuild streams an image and returns the disk it describes.
func rebuild(t testing.TB, file []byte) ([]byte, Contents, *Image) {
	t.Helper()
	img, err := OpenImage(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, 0)
	last := int64(-1)
	c, err := img.Blocks(t.Context(), 0, func(off int64, data []byte) error {
		if off <= last || off%BlockSize != 0 {
			t.Errorf("block at %d after %d", off, last)
		}
		last = off
		disk = append(disk, make([]byte, int(off)-len(disk))...)
		disk = append(disk, data...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return append(disk, make([]byte, int(c.Size)-len(disk))...), c, img
}

func TestImageFormatsGiveTheSameDisk(t *testing.T) {
	disk := testDisk(1<<20 + 5*sectorSize) // the last block is short
	want := Contents{Size: int64(len(disk)), SHA256: fmt.Sprintf("%x", sha256.Sum256(disk)), Data: 3*BlockSize - (BlockSize - 5*sectorSize)}
	for _, format := range []Format{Raw, Zip, Gzip, Zstd} {
		got, c, img := rebuild(t, pack(t, format, disk))
		if img.Format != format || !bytes.Equal(got, disk) || c != want {
			t.Errorf("%s: format %s, same disk %v, contents %+v, want %+v", format, img.Format, bytes.Equal(got, disk), c, want)
		}
	}
}

func TestImageZipRoundTrip(t *testing.T) {
	disk := testDisk(512 << 10)
	var packed, zipped bytes.Buffer
	c, err := CompressImage(t.Context(), &packed, bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	img, err := OpenImage(bytes.NewReader(packed.Bytes()), int64(packed.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if img.Format != Zstd || img.VirtualSize != int64(len(disk)) {
		t.Errorf("OpenImage = %s, %d bytes; want zstd that knows its %d bytes", img.Format, img.VirtualSize, len(disk))
	}
	if err := img.WriteZip(t.Context(), &zipped, "disk"); err != nil {
		t.Fatal(err)
	}
	got, c2, _ := rebuild(t, zipped.Bytes())
	if !bytes.Equal(got, disk) || c2 != c {
		t.Errorf("contents %+v, then %+v", c, c2)
	}
	if _, err := CompressImage(t.Context(), io.Discard, bytes.NewReader(disk), int64(len(disk))+512); err == nil {
		t.Error("CompressImage of a disk that ends early: no error")
	}
}

func TestImageRefusals(t *testing.T) {
	disk := testDisk(256 << 10)
	broken := bytes.Clone(pack(t, Zip, disk))
	broken[len(broken)/2] ^= 0xff
	cut := pack(t, Gzip, disk)
	two := func() []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		z.Create("a")
		z.Create("b")
		z.Close()
		return b.Bytes()
	}()
	long := func() []byte {
		var b bytes.Buffer
		z, _ := zstd.NewWriter(&b, zstd.WithWindowSize(maxWindow*4), zstd.WithSingleSegment(false))
		for range 3 {
			io.CopyN(z, rand.NewChaCha8([32]byte{}), 1<<20)
			z.Flush()
		}
		z.Close()
		return b.Bytes()
	}()
	for _, tt := range []struct {
		name string
		file []byte
		kind error
	}{
		{"empty", nil, ErrCorrupt},
		{"text", []byte("hello"), ErrCorrupt},
		{"text in gzip", pack(t, Gzip, []byte("hello")), ErrCorrupt},
		{"damaged zip", broken, ErrCorrupt},
		{"cut gzip", cut[:len(cut)-100], ErrCorrupt},
		{"cut zstd", pack(t, Zstd, disk)[:3000], ErrCorrupt},
		{"two entries", two, ErrUnsupported},
		{"qcow2 in gzip", pack(t, Gzip, append([]byte(qcow2Magic), disk...)), ErrUnsupported},
		{"gzip in gzip", pack(t, Gzip, pack(t, Gzip, disk)), ErrUnsupported},
		{"window too large", long, ErrUnsupported},
		{"over the limit", pack(t, Gzip, make([]byte, 8<<20)), ErrTooLarge},
		{"over the limit, known before", make([]byte, 8<<20), ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img, err := OpenImage(bytes.NewReader(tt.file), int64(len(tt.file)))
			if err == nil {
				_, err = img.Blocks(t.Context(), 4<<20, func(int64, []byte) error { return nil })
			}
			var e *Error
			if !errors.Is(err, tt.kind) || !errors.As(err, &e) || e.Remedy == "" {
				t.Errorf("error = %v, want kind %v and a remedy", err, tt.kind)
			}
		})
	}
}

func TestImagePassesOnTheCallersError(t *testing.T) {
	mine := errors.New("pool is full")
	file := pack(t, Gzip, testDisk(1<<20))
	img, err := OpenImage(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.Blocks(t.Context(), 0, func(int64, []byte) error { return mine }); err != mine {
		t.Errorf("Blocks = %v, want %v", err, mine)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := img.Blocks(ctx, 0, nil); err != context.Canceled {
		t.Errorf("Blocks under a cancelled context = %v", err)
	}
}

func TestPublishedImageHasItsKnownSize(t *testing.T) {
	f, size := openBundle(t, "HPE-ImageStreamer-Developer-2017-08-28-v5.0.zip")
	b, err := ReadBundle(t.Context(), f, size)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := b.GoldenImages[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	s, err := OpenStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := s.Put(t.Context(), rc, PutLimits{Size: b.GoldenImages[0].PayloadSize})
	if err != nil {
		t.Fatal(err)
	}
	if obj.Size != 204469 || obj.SHA256[:8] != "1e0c2a08" {
		t.Errorf("Put = %+v, want the published size and sum", obj)
	}
	file, err := s.Open(obj.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	img, err := OpenImage(file, obj.Size)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.Blocks(t.Context(), 1<<30, func(int64, []byte) error { return nil })
	if err != nil || c.Size != 104857600 || c.Data > 8<<20 {
		t.Errorf("Blocks = %+v, %v; want 104857600 bytes, few of them data", c, err)
	}
}

// zeros is an endless file of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error)            { clear(p); return len(p), nil }
func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// heapGrowth is by how many bytes f makes the heap and the running total grow.
func heapGrowth(f func()) (total uint64) {
	var a, b runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&a)
	f()
	runtime.ReadMemStats(&b)
	return b.TotalAlloc - a.TotalAlloc
}

func TestLargeSparseImageNeedsLittleMemory(t *testing.T) {
	const size, bound = 256 << 20, 24 << 20
	packed, err := os.Create(filepath.Join(t.TempDir(), "disk.zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	var c, back Contents
	grown := heapGrowth(func() {
		c, err = CompressImage(t.Context(), packed, io.LimitReader(zeros{}, size), size)
		if err != nil {
			t.Fatal(err)
		}
	})
	if fi, _ := packed.Stat(); fi.Size() > size/1000 || grown > bound {
		t.Errorf("CompressImage: file of %d bytes, %d bytes allocated in all, want below %d", fi.Size(), grown, bound)
	}
	img, err := OpenImage(packed, mustSize(t, packed))
	if err != nil {
		t.Fatal(err)
	}
	grown = heapGrowth(func() {
		back, err = img.Blocks(t.Context(), 0, func(int64, []byte) error { t.Error("a block of zeros is passed on"); return nil })
	})
	if err != nil || back != c || grown > bound {
		t.Errorf("Blocks = %+v, %v; want %+v; %d bytes allocated in all, want below %d", back, err, c, grown, bound)
	}
}

func mustSize(t *testing.T, f *os.File) int64 {
	t.Helper()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// qemuImg runs qemu-img, which knows the format best.
func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img (package qemu-utils) to write qcow2")
	}
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Skipf("qemu-img %v: %v: %s", args, err, out)
	}
}

func TestQcow2OfQEMUGivesTheSameDisk(t *testing.T) {
	disk := testDisk(5<<20 + sectorSize)
	for _, args := range [][]string{
		{"-o", "compat=0.10"},
		{"-o", "compat=1.1"},
		{"-c"},
		{"-c", "-o", "compression_type=zstd"},
		{"-o", "cluster_size=512"},
		{"-o", "cluster_size=2M"},
		{"-c", "-o", "cluster_size=4k"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			dir := t.TempDir()
			raw, qcow := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
			if err := os.WriteFile(raw, disk, 0o600); err != nil {
				t.Fatal(err)
			}
			qemuImg(t, append(append([]string{"convert", "-O", "qcow2"}, args...), raw, qcow)...)
			file, err := os.ReadFile(qcow)
			if err != nil {
				t.Fatal(err)
			}
			got, _, img := rebuild(t, file)
			if img.Format != Qcow2 || img.VirtualSize != int64(len(disk)) || !bytes.Equal(got, disk) {
				t.Errorf("format %s, %d bytes, same disk %v", img.Format, img.VirtualSize, bytes.Equal(got, disk))
			}
		})
	}
}

// qcow2File is a small hand-made image: one data cluster, one zero cluster.
func qcow2File(edit func(h []byte)) []byte {
	const cluster = 512
	f := make([]byte, 4*cluster)
	be := binary.BigEndian
	copy(f, qcow2Magic)
	be.PutUint32(f[4:], 3)
	be.PutUint32(f[20:], 9)
	be.PutUint64(f[24:], 3*cluster)
	be.PutUint32(f[36:], 1)
	be.PutUint64(f[40:], cluster)
	be.PutUint32(f[100:], 112)
	be.PutUint64(f[cluster:], 2*cluster|1<<63)
	be.PutUint64(f[2*cluster:], 3*cluster|1<<63)
	be.PutUint64(f[2*cluster+8:], 3*cluster|1) // reads as zeros in spite of its offset
	copy(f[3*cluster:], "data")
	if edit != nil {
		edit(f)
	}
	return f
}

func TestQcow2ZeroClusters(t *testing.T) {
	got, c, _ := rebuild(t, qcow2File(nil))
	want := append([]byte("data"), make([]byte, 3*512-4)...)
	if !bytes.Equal(got, want) || c.Size != 3*512 {
		t.Errorf("disk = %q, want %q", got, want)
	}
}

func TestQcow2Refusals(t *testing.T) {
	be := binary.BigEndian
	for _, tt := range []struct {
		name string
		edit func(h []byte)
		kind error
	}{
		{"backing file", func(h []byte) { be.PutUint64(h[8:], 200); be.PutUint32(h[16:], 5) }, ErrUnsupported},
		{"encrypted", func(h []byte) { be.PutUint32(h[32:], 2) }, ErrUnsupported},
		{"version 4", func(h []byte) { be.PutUint32(h[4:], 4) }, ErrUnsupported},
		{"external data", func(h []byte) { be.PutUint64(h[72:], incompatExternal) }, ErrUnsupported},
		{"extended L2", func(h []byte) { be.PutUint64(h[72:], incompatExtendedL2) }, ErrUnsupported},
		{"unknown feature", func(h []byte) { be.PutUint64(h[72:], 1<<40) }, ErrUnsupported},
		{"unknown compression", func(h []byte) { be.PutUint64(h[72:], incompatCompression); h[104] = 7 }, ErrUnsupported},
		{"marked corrupt", func(h []byte) { be.PutUint64(h[72:], incompatCorrupt) }, ErrCorrupt},
		{"cluster size", func(h []byte) { be.PutUint32(h[20:], 63) }, ErrCorrupt},
		{"size for a giant table", func(h []byte) { be.PutUint64(h[24:], 1<<50) }, ErrCorrupt},
		{"table outside", func(h []byte) { be.PutUint64(h[40:], 1<<40) }, ErrCorrupt},
		{"cluster outside", func(h []byte) { be.PutUint64(h[1024:], 1<<40) }, ErrCorrupt},
		{"packed cluster outside", func(h []byte) { be.PutUint64(h[1024:], 1<<40|entryCompressed) }, ErrCorrupt},
		{"packed cluster is noise", func(h []byte) { be.PutUint64(h[1024:], 1536|entryCompressed) }, ErrCorrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := qcow2File(tt.edit)
			img, err := OpenImage(bytes.NewReader(f), int64(len(f)))
			if err == nil {
				_, err = img.Blocks(t.Context(), 0, func(int64, []byte) error { return nil })
			}
			var e *Error
			if !errors.Is(err, tt.kind) || !errors.As(err, &e) || e.Remedy == "" {
				t.Errorf("error = %v, want kind %v and a remedy", err, tt.kind)
			}
		})
	}
}

func FuzzOpenImage(f *testing.F) {
	f.Add(qcow2File(nil))
	f.Add(qcow2File(func(h []byte) { h[7] = 2 }))
	for _, format := range []Format{Raw, Zip, Gzip, Zstd} {
		f.Add(pack(f, format, testDisk(4096)))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		img, err := OpenImage(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		c, err := img.Blocks(t.Context(), 16<<20, func(off int64, data []byte) error { return nil })
		if err == nil && img.VirtualSize >= 0 && c.Size != img.VirtualSize && img.Format != Zstd {
			t.Errorf("%s of %d bytes streams %d", img.Format, img.VirtualSize, c.Size)
		}
	})
}
