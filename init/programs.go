package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Most of an image stays packed in memory: programs, libraries and modules are
// a squashfs in the initramfs, which is mounted where they belong. Only what is
// used gets unpacked, and the kernel may drop it again.
const (
	programsImage = "/usr.squashfs"
	programsDir   = "/usr"
)

// hashModule makes the kernel check modules' signatures three times as fast,
// and programsModules are what the image is mounted with. They stand unpacked
// below programsDir, where the mount covers them.
const hashModule = "sha256-ssse3"

var programsModules = []string{"loop", "squashfs"}

// mountPrograms is a boot step: it mounts the image's programs.
func (p *initProcess) mountPrograms(context.Context) error {
	if mounted, err := isMount(programsDir); err != nil || mounted {
		return err
	}
	if err := p.modules.load(hashModule); err != nil {
		p.log.Warn("modules load more slowly", "err", err)
	}
	err := p.modules.load(programsModules...)
	p.modules.forget() // the mount brings a longer list
	if err == nil {
		err = mountImage(programsImage, programsDir, "squashfs")
	}
	return err
}

// mountImage mounts a file, read-only, by a loop device that goes with the
// mount, see loop(4).
func mountImage(file, dir, fstype string) error {
	device, err := loopDevice(file)
	if err != nil {
		return fmt.Errorf("mount %s: %w", file, err)
	}
	defer device.Close() // the mount keeps the device
	if err := unix.Mount(device.Name(), dir, fstype, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", file, dir, err)
	}
	return nil
}

// loopDevice makes file the contents of a free loop device.
func loopDevice(file string) (*os.File, error) {
	image, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("free loop device: %w", err)
	}
	device, err := os.Open(fmt.Sprintf("/dev/loop%d", n))
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:], file)
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", device.Name(), err), device.Close())
	}
	return device, nil
}

// isMount tells whether something is mounted on dir.
func isMount(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &here), unix.Stat(filepath.Dir(dir), &above)); err != nil {
		return false, fmt.Errorf("%s: %w", dir, err)
	}
	return here.Dev != above.Dev, nil
}
