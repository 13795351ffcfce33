package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"baystream/daemon/mirror"
	"baystream/daemon/pool"
	"baystream/daemon/target"
)

// A TakeDownConfig says what TakeDown works with; the zero value will do.
type TakeDownConfig struct {
	PoolName string // default "bay-pool"
	Log      *slog.Logger
	Say      func(format string, args ...any) // told each part that is down; nil: nobody
}

// TakeDown ends all storage of this module in order, before the machine ends:
// targets, volumes, legs, pool. It needs no records, only what the kernel has,
// so it can run when the domain state is closed. What servers wrote and were
// told is done is on the disk afterwards; nothing else makes dm-thin commit the
// last second. Servers that are logged in see their connection end and wait,
// so their way here should be cut before. What cannot be taken down does not
// keep the rest from it.
func TakeDown(ctx context.Context, cfg TakeDownConfig) error {
	if cfg.PoolName == "" {
		cfg.PoolName = "bay-pool"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Say == nil {
		cfg.Say = func(string, ...any) {}
	}
	p, err := pool.Live(cfg.PoolName, cfg.Log)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it never came up: nothing stands on it
	}
	if err != nil {
		return fmt.Errorf("storage: take down: %w", err)
	}
	err = errors.Join(takeTargets(ctx, cfg), takeVolumes(ctx, cfg, p), takePool(ctx, cfg, p), p.Close())
	if err != nil {
		return fmt.Errorf("storage: take down: %w", err)
	}
	return nil
}

func takeTargets(ctx context.Context, cfg TakeDownConfig) error {
	r, err := target.New(cfg.Log, IQNPrefix)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the subsystem is not there
	}
	if err != nil {
		return err
	}
	iqns, err := r.Targets()
	errs := inParallel(iqns, func(iqn string) error {
		return r.Remove(ctx, iqn, strings.TrimPrefix(iqn, IQNPrefix), true)
	})
	if err = errors.Join(err, errs); err == nil {
		cfg.Say("%d targets removed", len(iqns))
	}
	return err
}

func takeVolumes(ctx context.Context, cfg TakeDownConfig, p *pool.Pool) error {
	active, err := p.Active("bay-vol-")
	errs := []error{err}
	for _, name := range active {
		if strings.Contains(name, partMark) {
			errs = append(errs, p.Deactivate(ctx, name))
		}
	}
	m, err := mirror.Open(cfg.Log)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	states, err := m.States(ctx)
	errs = append(errs, err, inParallel(states, func(s mirror.State) error { return m.Down(ctx, s.Name, s.Minor) }))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	cfg.Say("%d volumes down", len(states))
	return nil
}

func takePool(ctx context.Context, cfg TakeDownConfig, p *pool.Pool) error {
	legs, err := p.Active("bay-")
	errs := []error{err}
	for _, name := range legs {
		if name != cfg.PoolName {
			errs = append(errs, p.Deactivate(ctx, name))
		}
	}
	if err = errors.Join(errs...); err == nil {
		err = p.Down(ctx)
	}
	if err != nil { // something stands on it: at least its metadata is written
		return errors.Join(err, p.Commit())
	}
	cfg.Say("pool down")
	return nil
}

// inParallel calls f for all, a few at a time, and joins the errors.
func inParallel[T any](all []T, f func(T) error) error {
	errs := make([]error, len(all))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, v := range all {
		g.Go(func() error {
			errs[i] = f(v)
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(errs...)
}
