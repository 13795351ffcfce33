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
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Names of the parts in an output folder.
const (
	partBzImage   = "bzImage"
	partVmlinux   = "vmlinux"
	partInitramfs = "initramfs"
	partCmdline   = "cmdline"
	partManifest  = "manifest.json"
)

// Limit is what bzImage and initramfs may have together, in bytes.
const Limit = 40 << 20

// Built is an image in a folder.
type Built struct {
	Kernel    string // path of vmlinux, which QEMU boots directly
	BzImage   string // path of the same kernel as Debian ships and signs it
	Initramfs string // path of initramfs
	Cmdline   string // the kernel command line itself
	Manifest  Manifest
}

// Build makes an image in dir: bzImage, vmlinux, initramfs, cmdline and
// manifest.json. Parts that would come out the same stay untouched.
//
// The initramfs is two archives one after the other, which the kernel unpacks
// both. The first has what must be there to begin with: the skeleton, the first
// process, the modules to mount the other one with; it is a zstd frame. The
// second holds one file, a squashfs of all that is below /usr, which stays
// packed: else the kernel would unpack it at every boot, and keep it in memory.
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

// initramfs packs both archives.
func (b *builder) initramfs(k *Kernel, debs map[string]*Deb) ([]byte, []Frame, error) {
	files, err := base(k, debs, b.spec.Version)
	if err != nil {
		return nil, nil, err
	}
	own, err := ours(b.spec)
	if err != nil {
		return nil, nil, err
	}
	boot, usr, err := split(slices.Concat(files, own, b.spec.Extra))
	if err != nil {
		return nil, nil, err
	}
	early, err := k.ModuleFiles(k.known(EarlyModules)...)
	if err != nil {
		return nil, nil, err
	}
	packed, err := Squash(usr)
	if err != nil {
		return nil, nil, err
	}
	var first, second bytes.Buffer
	if err := Pack(&first, slices.Concat(boot, early)); err != nil {
		return nil, nil, fmt.Errorf("archive boot: %w", err)
	}
	if err := Pack(&second, []File{{Path: UsrImage, Mode: 0o400, Data: packed}}); err != nil {
		return nil, nil, fmt.Errorf("archive usr: %w", err)
	}
	compressed, err := Compress(first.Bytes())
	if err != nil {
		return nil, nil, err
	}
	// The kernel looks for the second archive at a multiple of four.
	compressed = append(compressed, make([]byte, -len(compressed)&3)...)
	return append(compressed, second.Bytes()...), []Frame{
		{Name: "boot", Size: int64(len(compressed)), PlainSize: int64(first.Len())},
		{Name: "usr", Size: int64(second.Len()), PlainSize: sizeOf(usr)},
	}, nil
}

// split takes what is below /usr out of files, with paths from there.
func split(files []File) (rest, usr []File, err error) {
	files, err = layout(files)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		if below, ok := strings.CutPrefix(f.Path, "usr/"); ok {
			f.Path = below
			usr = append(usr, f)
		} else {
			rest = append(rest, f)
		}
	}
	return rest, usr, nil
}

func sizeOf(files []File) (sum int64) {
	for _, f := range files {
		sum += int64(len(f.Data))
	}
	return sum
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
