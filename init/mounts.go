package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// fsMount is a file system of the kernel that the appliance expects.
type fsMount struct {
	fstype, dir string
	flags       uintptr
	data        string
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mount returns a boot step's work. It succeeds if the place is mounted
// already. A file system that the kernel has as a module is loaded first.
func mount(fstype, dir string, flags uintptr, data string) func(context.Context) error {
	m := fsMount{fstype, dir, flags, data}
	return func(context.Context) error { return m.do(unix.Mount, loadModules) }
}

func (m fsMount) do(sysMount func(source, target, fstype string, flags uintptr, data string) error, load func(...string) error) error {
	try := func() error {
		// Sysfs makes the mount point of a file system when it knows it.
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		return sysMount(m.fstype, m.dir, m.fstype, m.flags, m.data)
	}
	err := try()
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT) {
		if loadErr := load(m.fstype); loadErr != nil {
			return fmt.Errorf("mount %s on %s: %w: %w", m.fstype, m.dir, err, loadErr)
		}
		err = try()
	}
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.dir, err)
	}
	return nil
}

// ifThere skips a step's work on machines where path does not exist.
func ifThere(path string, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return do(ctx)
	}
}
