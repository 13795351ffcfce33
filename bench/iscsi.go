package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"baystream/image"
	"baystream/internal/vmtest/orders"
	"baystream/qemu"
)

// What the guest of the iSCSI group consists of, beside the tests of
// bench/iscsi and vmtest's first process.
var (
	iscsiModules = []string{
		"brd", "dm-mod", "dm-thin-pool", "configfs", "drbd", "target_core_mod", "target_core_iblock", "iscsi_target_mod",
		"crc32c_generic", "sd_mod", "iscsi_tcp",
	}
	brdOptions = "brd rd_nr=2 rd_size=786432"

	iscsiTools = []struct{ pkg, path string }{{"open-iscsi", "sbin/iscsistart"}, {"tgt", "usr/sbin/tgtd"}, {"tgt", "usr/sbin/tgtadm"}}
	iscsiDebs  = []string{
		"open-iscsi", "tgt", "libc6", "libopeniscsiusr", "libisns0", "libssl3", "libkmod2", "libmount1", "libblkid1",
		"libselinux1", "libpcre2-8-0", "libsystemd0", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5",
		"libzstd1", "libaio1", "libibverbs1", "librdmacm1", "libnl-3-200", "libnl-route-3-200",
	}
)

const iscsiCmdline = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr"

// iscsi measures I/O beside bare LIO and tgt.
func (b *bench) iscsi(ctx context.Context, f figures) error {
	kernel, initramfs, err := b.iscsiGuest(ctx)
	if err != nil {
		return err
	}
	vm, err := qemu.NewVM(qemu.VMConfig{Name: "iscsi", Dir: b.work, RunDir: b.work, MemoryMiB: 1536, ICount: true,
		Kernel: kernel, Initramfs: initramfs, Cmdline: iscsiCmdline}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer vm.Close()
	if err := vm.PowerOn(ctx); err != nil {
		return err
	}
	m, err := vm.WaitConsole(ctx, guestEnd)
	console := vm.Console().Tail(100000)
	if b.verbose {
		fmt.Fprintln(b.out, console)
	}
	if err != nil {
		return fmt.Errorf("iscsi: %w; the console's last lines:\n%s", err, tail(console, 25))
	}
	if m[1] != "0" {
		return fmt.Errorf("iscsi: the guest ended with status %s; the console's last lines:\n%s", m[1], tail(console, 25))
	}
	collect(f, "", console)
	return nil
}

var guestEnd = regexp.MustCompile(`vmtest: exit status (\d+)`)

// iscsiGuest builds the kernel and the initramfs of the VM.
func (b *bench) iscsiGuest(ctx context.Context) (kernel, initramfs string, err error) {
	test, guest := filepath.Join(b.work, "iscsi.test"), filepath.Join(b.work, "vmtest")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", test, "./bench/iscsi")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("go test -c: %w\n%s", err, out)
	}
	if err := image.GoBuild(ctx, "", "./internal/vmtest/guest", guest); err != nil {
		return "", "", err
	}
	files, vmlinux, err := b.iscsiDebian(ctx)
	if err != nil {
		return "", "", err
	}
	for at, from := range map[string]string{"init": guest, "test": test} {
		data, err := os.ReadFile(from)
		if err != nil {
			return "", "", err
		}
		files = append(files, image.Program(at, data))
	}
	o := orders.Orders{Args: []string{"-test.v", "-test.timeout=0", "-test.run=^TestGuestISCSI$"}}
	for _, m := range iscsiModules {
		if m == "brd" {
			m = brdOptions
		}
		o.Modules = append(o.Modules, m)
	}
	j, err := json.Marshal(o)
	if err != nil {
		return "", "", err
	}
	files = append(files, image.Text("vmtest.json", string(j)))
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "etc"} {
		files = append(files, image.Dir(d))
	}
	kernel = filepath.Join(b.work, "iscsi.vmlinux")
	if err := os.WriteFile(kernel, vmlinux, 0o600); err != nil {
		return "", "", err
	}
	initramfs, err = b.initramfs("iscsi", nil, files...)
	return kernel, initramfs, err
}

// iscsiDebian takes modules and programs out of Debian's packages.
func (b *bench) iscsiDebian(ctx context.Context) ([]image.File, []byte, error) {
	kpkg := image.KernelPackage(image.FlavourGeneric)
	paths, err := image.FetchDebs(ctx, b.cache, append([]string{kpkg}, iscsiDebs...)...)
	if err != nil {
		return nil, nil, err
	}
	k, err := image.KernelFromDeb(paths[kpkg])
	if err != nil {
		return nil, nil, err
	}
	files, err := k.ModuleFiles(iscsiModules...)
	if err != nil {
		return nil, nil, err
	}
	var debs []*image.Deb
	byName := map[string]*image.Deb{}
	for _, name := range iscsiDebs {
		d, err := image.OpenDeb(paths[name])
		if err != nil {
			return nil, nil, err
		}
		debs, byName[name] = append(debs, d), d
	}
	for _, tool := range iscsiTools {
		found, err := byName[tool.pkg].Files(tool.path)
		if err != nil {
			return nil, nil, fmt.Errorf("package %s: %w", tool.pkg, err)
		}
		for i := range found {
			if found[i].Data, err = withoutRunpath(found[i].Data); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", tool.path, err)
			}
		}
		files = append(files, found...)
	}
	if files, err = image.Closure(files, debs...); err != nil {
		return nil, nil, err
	}
	vmlinux, err := k.Vmlinux()
	return files, vmlinux, err
}

// withoutRunpath makes the dynamic linker overlook a program's own library
// path, which image.Closure does not support: tgtd names a folder for plug-ins
// that we do not take.
func withoutRunpath(program []byte) ([]byte, error) {
	const unknown = 0x6fffff00 // a tag that means nothing to the linker
	obj, err := elf.NewFile(bytes.NewReader(program))
	var format *elf.FormatError
	if errors.As(err, &format) {
		return program, nil // not a program
	}
	if err != nil {
		return nil, err
	}
	s := obj.Section(".dynamic")
	if s == nil {
		return program, nil
	}
	out := append([]byte(nil), program...)
	for at := s.Offset; at+16 <= s.Offset+s.FileSize; at += 16 {
		if elf.DynTag(binary.LittleEndian.Uint64(out[at:])) == elf.DT_RUNPATH {
			binary.LittleEndian.PutUint64(out[at:], unknown)
		}
	}
	return out, nil
}
