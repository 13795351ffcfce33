package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/daemon/domain"
	"baystream/daemon/rest"
	"baystream/internal/local"
)

// serveConsole serves the interface to this module's serial console, and keeps
// for it who the administrators are. Its faults cost nothing but the console.
func (d *Daemon) serveConsole(ctx context.Context, g *errgroup.Group, server *rest.Server, users <-chan struct{}) {
	if !d.onModule() {
		return
	}
	ln, err := listenLocal(local.Dir, local.Socket)
	if err != nil {
		d.log.Warn("serial console", "err", err)
	} else {
		g.Go(func() error {
			if err := server.ServeLocal(ctx, ln); err != nil {
				d.log.Warn("serial console", "err", err)
			}
			return nil
		})
	}
	g.Go(func() error { return d.tellAdministrators(ctx, users) })
}

// listenLocal opens a socket in a directory for root alone.
func listenLocal(dir, path string) (net.Listener, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of a daemon that was killed
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// usersEvery is how often the administrators are looked at unasked: users of a
// pair change on the other appliance, too.
const usersEvery = time.Minute

func (d *Daemon) tellAdministrators(ctx context.Context, changed <-chan struct{}) error {
	dirs := []string{local.Dir}
	if d.disk.Path != "" {
		dirs = append(dirs, d.cfg.State)
	}
	for {
		if err := d.writeAdministrators(ctx, dirs); err != nil && ctx.Err() == nil {
			d.log.Warn("administrators of the serial console", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(usersEvery):
		}
	}
}

func (d *Daemon) writeAdministrators(ctx context.Context, dirs []string) error {
	users, err := d.state.Users.List(ctx)
	if err != nil {
		return err
	}
	a := local.Administrators{}
	for key, u := range users {
		if u.Role == domain.RoleInfrastructure {
			a[key] = u.PasswordHash
		}
	}
	var errs []error
	for _, dir := range dirs {
		if err := a.Write(dir); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// wake sends to a channel that is buffered by one.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
