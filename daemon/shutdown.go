package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"baystream/daemon/group"
	"baystream/daemon/storage"
	"baystream/netcfg"
)

// shutdownLimit bounds Shutdown; PID 1 gives it a little more.
const shutdownLimit = 50 * time.Second

// Shutdown ends what the daemon leaves in the kernel when it stops, for the end
// of the machine: it must not run when the daemon is only restarted. The portal
// goes first, so that servers see silence and wait; then targets, volumes and
// pool; then all is on the disk. Each part is told on the console.
func Shutdown(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownLimit)
	defer cancel()
	d := &Daemon{cfg: cfg, log: cfg.Log, board: newBoard()}
	d.probe()
	say := func(format string, args ...any) { cfg.Console("shutdown: "+format, args...) }
	var errs []error
	depl := d.depl
	frame := netcfg.Settings{Management: d.mgmt, Deployment: d.depl}
	if _, kept, _, err := readKept(filepath.Join(cfg.State, netFile), frame); err == nil && kept != nil {
		depl = *kept
	}
	withdraw := func() error { return nil }
	if d.onModule() && depl.VLAN != 0 {
		withdraw = func() error { return netcfg.Down(netcfg.DeploymentLink(depl)) }
	}
	if portals, err := d.groupPortals(); err == nil && portals != nil {
		// The mirrors need the link: a volume that ends without its partner knowing freezes.
		withdraw = func() error {
			var errs []error
			for n := range portals {
				errs = append(errs, group.Addresses{Groups: portals}.Remove(ctx, n))
			}
			return errors.Join(errs...)
		}
	}
	if err := withdraw(); err != nil {
		errs = append(errs, err) // the sessions end with an error then, and servers log in again
	} else {
		say("portal withdrawn")
	}
	errs = append(errs, storage.TakeDown(ctx, storage.TakeDownConfig{Log: d.log, Say: say}))
	unix.Sync()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	say("all is on the disk")
	return nil
}
