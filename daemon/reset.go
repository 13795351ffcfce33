package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"baystream/daemon/storage"
)

// resetMark in the state directory asks for a factory reset at the next start,
// when nothing of the data disk is in use yet.
const resetMark = "factory-reset"

// FactoryReset erases the data disk: at the next start, if the state is in use
// now, else at once. The caller restarts the module.
func FactoryReset(ctx context.Context, cfg Config) error {
	used, err := mounted("/proc/self/mounts", cfg.State)
	if err != nil {
		return err
	}
	if used {
		cfg.Log.Info("factory reset at the next start")
		return renameio.WriteFile(filepath.Join(cfg.State, resetMark), []byte("asked for at the console\n"), 0o600)
	}
	return storage.EraseDisk(ctx, storage.DiskOptions{Log: cfg.Log})
}

// resetAsked says whether the mounted state asks to be erased.
func (d *Daemon) resetAsked() bool {
	_, err := os.Stat(filepath.Join(d.cfg.State, resetMark))
	return err == nil
}

// reset erases the disk that is mounted and makes it anew.
func (d *Daemon) reset(ctx context.Context, o storage.DiskOptions) (storage.Disk, error) {
	d.log.Warn("factory reset: the data disk is erased")
	d.cfg.Console("factory reset: the data disk is erased")
	if err := unix.Unmount(d.cfg.State, 0); err != nil {
		return storage.Disk{}, fmt.Errorf("factory reset: unmount %s: %w", d.cfg.State, err)
	}
	if err := storage.EraseDisk(ctx, o); err != nil {
		return storage.Disk{}, errors.Join(errors.New("factory reset"), err)
	}
	return storage.PrepareDisk(ctx, o)
}

// mounted says whether something is mounted at dir.
func mounted(mounts, dir string) (bool, error) {
	b, err := os.ReadFile(mounts)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == dir {
			return true, nil
		}
	}
	return false, nil
}
