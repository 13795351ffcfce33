// Package sampleos builds the project's small sample OS: a disk image that a
// compute module boots by UEFI from its OS volume within seconds and that
// then writes, reads and checks for ever. The program in it is described in
// sampleos/init, and so are the console lines that tests read.
//
// The image is Debian's cloud kernel, an initramfs with that program and
// Debian's open-iscsi, an ESP that holds both as one UEFI program, a small
// ext4 root, and an area for the workload. PlanScript is what personalises it.
//
// Build works on files alone, without mounts or root, and the same inputs give
// the same bytes.
package sampleos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"baystream/image"
)

// PlanScript is the deploy script that gives a clone of the image its
// personality. Attributes: HostName, Address (ADDRESS/LENGTH, or - for none)
// and Message, which has a default.
const PlanScript = `# Personality of the sample OS, read at each start from the EFI partition.
mount /dev/sda1 /
mkdir-p /personality
upload -<<END /personality/hostname
@HostName@
END
upload -<<END /personality/address
@Address@
END
upload -<<END /personality/message
@Message:hello@
END
umount /
`

// Names of the partitions in the GPT; init looks for them.
const (
	ESPName  = "sample-esp"
	RootName = "sample-root"
	WorkName = "sample-work"
)

// Sizes in bytes. FAT32 needs 33 MiB at least.
const (
	espSize  = 40 << 20
	rootSize = 16 << 20
	workSize = 4 << 20
)

// Modules of the cloud kernel that the sample OS loads, in this order.
var modules = []string{
	"crc32c-intel", "virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod", "ext4",
	"vfat", "nls_cp437", "nls_ascii", "iscsi_tcp", "iscsi_ibft",
}

// initiator are the programs of open-iscsi in the image, and initiatorDebs the
// packages that they and their libraries come from.
var initiator = []string{"sbin/iscsistart", "sbin/iscsid"}

var initiatorDebs = []string{
	"open-iscsi", "libopeniscsiusr", "libisns0", "libssl3", "libkmod2", "libmount1", "libblkid1", "libselinux1",
	"libpcre2-8-0", "libsystemd0", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5", "libzstd1", "libc6",
}

// cmdline keeps the kernel off the console, which belongs to init: two writers
// would tear each other's lines.
const cmdline = "console=ttyS0,115200 quiet loglevel=1 panic=10 no_timer_check net.ifnames=0"

// Options of a build. Only CacheDir is needed.
type Options struct {
	CacheDir string // of packages
	// Init is the program of sampleos/init, already built. Empty: it is
	// built, in ModuleDir (empty: the current folder, which must be in the
	// project).
	Init      string
	ModuleDir string
	// Personality are files below personality/ on the ESP, name to content,
	// for a disk that no plan script has touched.
	Personality map[string]string
}

// Build writes the disk image to outFile, raw and sparse, 62 MiB long.
func Build(ctx context.Context, outFile string, o Options) error {
	work, err := os.MkdirTemp(filepath.Dir(outFile), ".sampleos-")
	if err != nil {
		return fmt.Errorf("sample OS: %w", err)
	}
	defer os.RemoveAll(work)
	b := builder{Options: o, work: work}
	if err := b.build(ctx, outFile); err != nil {
		return fmt.Errorf("sample OS: %w", err)
	}
	return nil
}

type builder struct {
	Options
	work string
}

func (b *builder) build(ctx context.Context, outFile string) error {
	if b.CacheDir == "" {
		return errors.New("no cache folder given")
	}
	kernelName := image.KernelPackage(image.FlavourCloud)
	stub := image.StubPackage
	debs, err := image.FetchDebs(ctx, b.CacheDir, append([]string{kernelName, stub}, initiatorDebs...)...)
	if err != nil {
		return err
	}
	kernel, err := image.KernelFromDeb(debs[kernelName])
	if err != nil {
		return err
	}
	initrd, err := b.initramfs(ctx, kernel, debs)
	if err != nil {
		return err
	}
	uki, err := b.uki(kernel, initrd, debs[stub])
	if err != nil {
		return err
	}
	tmp := filepath.Join(b.work, "disk.raw")
	if err := b.disk(ctx, tmp, uki); err != nil {
		return err
	}
	return os.Rename(tmp, outFile)
}

// initramfs is the archive the kernel unpacks, compressed.
func (b *builder) initramfs(ctx context.Context, kernel *image.Kernel, debs map[string]string) ([]byte, error) {
	program := b.Init
	if program == "" {
		program = filepath.Join(b.work, "init")
		if err := image.GoBuild(ctx, b.ModuleDir, "baystream/qemu/sampleos/init", program); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("first process: %w", err)
	}
	files, err := openISCSI(debs)
	if err != nil {
		return nil, err
	}
	mods, err := kernel.ModuleFiles(modules...)
	if err != nil {
		return nil, err
	}
	files = append(files, mods...)
	files = append(files, skeleton()...)
	files = append(files, image.Program("init", data))
	var plain bytes.Buffer
	if err := image.Pack(&plain, files); err != nil {
		return nil, err
	}
	return image.Compress(plain.Bytes())
}

// openISCSI are the initiator's programs with their libraries.
func openISCSI(debs map[string]string) ([]image.File, error) {
	var libs []*image.Deb
	for _, name := range initiatorDebs {
		deb, err := image.OpenDeb(debs[name])
		if err != nil {
			return nil, err
		}
		libs = append(libs, deb)
	}
	programs, err := libs[0].Files(initiator...)
	if err != nil {
		return nil, err
	}
	return image.Closure(programs, libs...)
}

func skeleton() []image.File {
	return []image.File{
		image.Dir("usr/sbin"), image.Dir("usr/lib"), image.Dir("usr/lib64"),
		image.Symlink("sbin", "usr/sbin"), image.Symlink("lib", "usr/lib"), image.Symlink("lib64", "usr/lib64"),
		image.Dir("proc"), image.Dir("sys"), image.Dir("run"), image.Dir("tmp"), image.Dir("esp"), image.Dir("sysroot"),
		{Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		image.Text("etc/modules", strings.Join(modules, "\n")+"\n"),
	}
}

// makeExt4 makes an empty ext4 file system in a new file. Identifiers and
// times are fixed: every clone of one image has the same ones anyway.
func makeExt4(ctx context.Context, file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		program = "/sbin/mke2fs" // not on the path of every user
	}
	const uuid = "5a3b1e0c-5d5a-4c0e-9c1e-73616d706c65"
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-b", "4096", "-L", RootName, "-U", uuid,
		"-E", "hash_seed="+uuid+",lazy_itable_init=0,lazy_journal_init=0,nodiscard", file)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000", "MKE2FS_CONFIG=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs (package e2fsprogs): %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
