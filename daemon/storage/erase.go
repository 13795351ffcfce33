package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EraseDisk makes every disk that carries our partitions blank again: the state
// and the pool's metadata are overwritten with zeros, the pool's data is
// discarded. It refuses a disk that is in use. That there is none is no error.
func EraseDisk(ctx context.Context, o DiskOptions) error {
	disks := o.Candidates
	if disks == nil {
		disks = wholeDisks("/")
	}
	var errs []error
	for _, d := range allFacts(disks) {
		if d.Err != nil || !d.ours() {
			continue
		}
		if err := erase(ctx, d); err != nil {
			errs = append(errs, fmt.Errorf("storage: erase %s: %w", d.Path, err))
		}
	}
	return errors.Join(errs...)
}

func erase(ctx context.Context, d DiskFacts) error {
	f, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err // EBUSY: something of it is mounted or mapped
	}
	defer f.Close()
	for _, s := range d.Slices {
		start, size := s.Start*512, s.Sectors*512
		if s.Name == partData {
			_ = blockRange(f, unix.BLKDISCARD, start, size) // a disk may not know how
			size = min(size, mib)
		}
		if err := zeroes(ctx, f, start, size); err != nil {
			return err
		}
	}
	for _, at := range []uint64{0, d.Size - mib} { // the partition tables: last, so that a cut-off erasing is repeated
		if err := zeroes(ctx, f, at, mib); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); err != nil && !errors.Is(err, unix.ENOTTY) { // a file has none
		return fmt.Errorf("make the kernel read it: %w", err)
	}
	return nil
}

// zeroes writes zeros, in pieces so that ctx can end it, and by hand where the
// device does not do it itself.
func zeroes(ctx context.Context, f *os.File, start, size uint64) error {
	const piece = 64 * mib
	var empty []byte
	for at := start; at < start+size; at += piece {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(piece, start+size-at)
		if blockRange(f, unix.BLKZEROOUT, at, n) == nil {
			continue
		}
		if empty == nil {
			empty = make([]byte, piece)
		}
		if _, err := f.WriteAt(empty[:n], int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// blockRange is an ioctl on a range of bytes (linux/fs.h).
func blockRange(f *os.File, request uint, start, size uint64) error {
	arg := [2]uint64{start, size}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
