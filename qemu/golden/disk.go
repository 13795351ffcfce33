package golden

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"baystream/image"
)

// makeDisk turns the system below root into the disk image at disk, sparse:
// an ESP with kernel and initramfs as one program, and the root as ext4. The
// kernel leaves /boot of the root for it, so that there is one copy.
func makeDisk(ctx context.Context, root, work, disk string) error {
	uki, err := takeUKI(root)
	if err != nil {
		return err
	}
	ext4 := filepath.Join(work, "root.ext4")
	if err := makeExt4(ctx, root, ext4); err != nil {
		return err
	}
	err = image.WriteDisk(disk, image.Disk{
		Name: "golden Debian",
		Partitions: []image.Partition{
			{Name: espName, Type: image.TypeESP, Size: espSize, Files: []image.File{
				{Path: image.FallbackLoader, Mode: 0o644, Data: uki},
				image.Dir("baystream/personality"),
			}},
			{Name: rootLabel, Type: image.TypeLinux, Image: ext4},
		},
	})
	if err != nil {
		return err
	}
	return os.Remove(ext4)
}

// takeUKI makes the EFI program of the installed kernel and removes the
// kernel's files.
func takeUKI(root string) ([]byte, error) {
	kernel, release, err := only(root, "boot/vmlinuz-")
	if err != nil {
		return nil, err
	}
	initrd, _, err := only(root, "boot/initrd.img-")
	if err != nil {
		return nil, err
	}
	parts := image.UKIParts{Cmdline: cmdline, Uname: release}
	for _, f := range []struct {
		to   *[]byte
		file string
	}{
		{&parts.Stub, filepath.Join(root, image.StubPath)},
		{&parts.OSRelease, filepath.Join(root, "usr/lib/os-release")},
		{&parts.Linux, kernel},
		{&parts.Initrd, initrd},
	} {
		if *f.to, err = os.ReadFile(f.file); err != nil {
			return nil, err
		}
	}
	for _, file := range []string{kernel, initrd} {
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	return image.UKI(parts)
}

// only returns the one file whose name begins with prefix below root, and the
// rest of its name.
func only(root, prefix string) (file, rest string, err error) {
	start := filepath.Join(root, prefix)
	found, err := filepath.Glob(start + "*")
	if err != nil {
		return "", "", err
	}
	if len(found) != 1 {
		return "", "", fmt.Errorf("%d files %s*, want one", len(found), prefix)
	}
	return found[0], strings.TrimPrefix(found[0], start), nil
}

// makeExt4 makes a file system with everything below root in a new file. Its
// inode tables are written here, so that no clone has to do it at its start.
func makeExt4(ctx context.Context, root, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(rootSize); err != nil {
		return err
	}
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		program = "/sbin/mke2fs" // not on the path of every user
	}
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-L", rootLabel, "-m", "1", "-N", "65536",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-J", "size=16", "-d", root, file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs (package e2fsprogs): %w: %s", err, bytes.TrimSpace(out))
	}
	return f.Sync()
}
