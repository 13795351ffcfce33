package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Names of the parts in an output folder.
const (
	partBzImage   = "bzImage"
	partVmlinux   = "vmlinux"
	partInitramfs = "initramfs.zst"
	partCmdline   = "cmdline"
	partManifest  = "manifest.json"
)

// Limit is what bzImage and initramfs.zst may have together, in bytes.
const Limit = 40 << 20

// Built is an image in a folder.
type Built struct {
	Kernel    string // path of vmlinux, which QEMU boots directly
	BzImage   string // path of the same kernel as Debian ships and signs it
	Initramfs string // path of initramfs.zst
	Cmdline   string // the kernel command line itself
	Manifest  Manifest
}

// Build makes an image in dir: bzImage, vmlinux, initramfs.zst, cmdline and
// manifest.json. Parts that would come out the same stay untouched, so a build
// after no change takes a fraction of a second.
//
// The initramfs is two archives one after the other, each in its own zstd
// frame: first what comes from Debian, then our programs. The kernel unpacks
// one after the other; a change of a program leaves the first, larger frame
// as it is, for the build and for an update over the network.
func Build(ctx context.Context, spec Spec, dir string) (*Built, error) {
	b := builder{spec: spec.withDefaults(), dir: dir}
	if err := b.build(ctx); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	return Load(dir)
}

func (s Spec) withDefaults() Spec {
	if s.Flavour == "" {
		s.Flavour = FlavourGeneric
	}
	if s.Version == "" {
		s.Version = "devel"
	}
	if s.Cmdline == "" {
		s.Cmdline = DefaultCmdline
	}
	if s.Progress == nil {
		s.Progress = func(string) {}
	}
	return s
}

type builder struct {
	spec Spec
	dir  string
}

func (b *builder) build(ctx context.Context) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	b.spec.Progress("packages")
	kernel, debs, err := b.packages(ctx)
	if err != nil {
		return err
	}
	b.spec.Progress("kernel " + kernel.Version)
	vmlinux, err := kernel.Vmlinux()
	if err != nil {
		return err
	}
	b.spec.Progress("initramfs")
	initramfs, frames, err := b.initramfs(kernel, debs)
	if err != nil {
		return err
	}
	m := Manifest{Version: b.spec.Version, Kernel: kernel.Version, Packages: packageList(kernel, debs), Frames: frames}
	for _, part := range []struct {
		name string
		data []byte
	}{
		{partBzImage, kernel.BzImage},
		{partVmlinux, vmlinux},
		{partInitramfs, initramfs},
		{partCmdline, []byte(b.spec.Cmdline + "\n")},
	} {
		p, err := b.put(part.name, part.data)
		if err != nil {
			return err
		}
		m.Parts = append(m.Parts, p)
	}
	return writeManifest(b.dir, m)
}

// packages fetches and opens all packages of the image.
func (b *builder) packages(ctx context.Context) (*Kernel, map[string]*Deb, error) {
	fetch := FetchDebs
	if b.spec.Refresh {
		fetch = RefreshDebs
	}
	kernelName := KernelPackage(b.spec.Flavour)
	paths, err := fetch(ctx, b.spec.CacheDir, append(debNames(), kernelName)...)
	if err != nil {
		return nil, nil, err
	}
	kernel, err := KernelFromDeb(paths[kernelName])
	if err != nil {
		return nil, nil, err
	}
	debs := make(map[string]*Deb)
	for _, name := range debNames() {
		if debs[name], err = OpenDeb(paths[name]); err != nil {
			return nil, nil, err
		}
	}
	return kernel, debs, nil
}

// initramfs packs and compresses both archives, or takes a frame from the
// last build when its archive is the same.
func (b *builder) initramfs(k *Kernel, debs map[string]*Deb) ([]byte, []Frame, error) {
	baseFiles, err := base(k, debs, b.spec.Version)
	if err != nil {
		return nil, nil, err
	}
	ourFiles, err := ours(b.spec)
	if err != nil {
		return nil, nil, err
	}
	ourFiles = append(ourFiles, b.spec.Extra...)
	// Our paths lead through the base's links as well (/bin is /usr/bin).
	if ourFiles, err = resolve(ourFiles, baseFiles); err != nil {
		return nil, nil, err
	}
	last := lastFrames(b.dir)
	data := make([][]byte, 2)
	frames := make([]Frame, 2)
	var g errgroup.Group
	for i, archive := range []struct {
		name  string
		files []File
	}{{"debian", baseFiles}, {"programs", ourFiles}} {
		g.Go(func() (err error) {
			data[i], frames[i], err = frame(archive.name, archive.files, last)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return slices.Concat(data...), frames, nil
}

// resolve rewrites the paths of files that lead through links among others.
func resolve(files, others []File) ([]File, error) {
	links := linksOf(others)
	out := slices.Clone(files)
	for i := range out {
		at, err := throughLinks(out[i].Path, links)
		if err != nil {
			return nil, err
		}
		out[i].Path = at
	}
	return out, nil
}

func frame(name string, files []File, last map[string][]byte) ([]byte, Frame, error) {
	var plain bytes.Buffer
	if err := Pack(&plain, files); err != nil {
		return nil, Frame{}, fmt.Errorf("archive %s: %w", name, err)
	}
	f := Frame{Name: name, PlainSize: int64(plain.Len()), PlainSHA256: hexSum(plain.Bytes()), Compressor: compressor()}
	data, ok := last[f.key()]
	if !ok {
		var err error
		if data, err = Compress(plain.Bytes()); err != nil {
			return nil, Frame{}, fmt.Errorf("archive %s: %w", name, err)
		}
	}
	f.Size = int64(len(data))
	return data, f, nil
}

// Compress is data as one zstd frame, as small as the library makes it. There
// is no checksum inside: the kernel would spend boot time on it, and what
// boots is hashed as a whole. The window is what the kernel must hold in
// memory to unpack, 8 MiB.
func Compress(data []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(8<<20),
		zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return enc.EncodeAll(data, nil), nil
}

// put writes one part unless it is there already.
func (b *builder) put(name string, data []byte) (Part, error) {
	p := Part{Name: name, Size: int64(len(data)), SHA256: hexSum(data)}
	at := filepath.Join(b.dir, name)
	if old, err := os.ReadFile(at); err == nil && bytes.Equal(old, data) {
		return p, nil
	}
	return p, replaceFile(at, data)
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func packageList(k *Kernel, debs map[string]*Deb) []Package {
	list := []Package{{k.deb.Package, k.deb.Version}}
	for _, name := range slices.Sorted(maps.Keys(debs)) {
		list = append(list, Package{debs[name].Package, debs[name].Version})
	}
	return list
}
