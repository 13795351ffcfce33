package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
	"baystream/daemon/replica"
)

// replicaPool is the pool of this appliance as replicas need it.
type replicaPool struct {
	role  *storageRole
	store *artifact.Store
}

// Expanded implements replica.Pool.
func (p replicaPool) Expanded(ctx context.Context, id string) (string, error) {
	st, err := p.role.up()
	if err != nil {
		return "", err
	}
	s, err := st.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, g := range s.Goldens {
		if g.ID == id {
			return g.Digest, nil
		}
	}
	return "", nil
}

// Expand implements replica.Pool.
func (p replicaPool) Expand(ctx context.Context, id, sum string) (string, error) {
	f, err := p.store.Open(sum)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	img, err := artifact.OpenImage(f, fi.Size())
	if err != nil {
		return "", err
	}
	x, err := p.role.ImportGolden(ctx, id, img, func(int64, int64) {})
	return x.Digest, err
}

// Discard implements replica.Pool.
func (p replicaPool) Discard(ctx context.Context, id string) error {
	return p.role.DeleteGolden(ctx, id)
}

// replicate keeps a copy of every artifact on this appliance, from the day on
// which it is one of a pair.
func (d *Daemon) replicate(ctx context.Context, store *artifact.Store) error {
	changed := d.mem.Changed(ctx)
	for !d.mem.InPair() {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
	select {
	case <-d.role.settled:
	case <-ctx.Done():
		return nil
	}
	records := replica.NewRecords(d.state, d.name())
	pool := replicaPool{d.role, store}
	r, err := replica.New(replica.Config{
		Store: store, Pool: pool, Wanted: records.Wanted, Sources: d.mem.sources, TLS: d.mem.key.ClientTLS(nil),
		Partial: filepath.Join(d.cfg.State, "replica"), Ledger: records, Log: d.log.With("part", "replica"),
	})
	if err != nil {
		return err
	}
	tidied := make(chan struct{})
	go func() {
		defer close(tidied)
		for pause(ctx, tidyEvery) {
			if err := d.tidy(ctx, pool); err != nil && ctx.Err() == nil {
				d.log.Debug("artifacts that the domain no longer has", "err", err)
			}
		}
	}()
	defer func() { <-tidied }()
	return r.Run(ctx, records.Changed(ctx))
}

// sources are the addresses of the other appliances.
func (m *membership) sources(context.Context) ([]string, error) {
	if p, ok := m.Partner(); ok && p.Address != "" {
		return []string{p.Address}, nil
	}
	return nil, nil
}

const tidyEvery = time.Minute

// tidy removes from the standby what was deleted at the active appliance. While
// any task is under way it may be just what that makes.
func (d *Daemon) tidy(ctx context.Context, pool replicaPool) error {
	if id, self, _ := d.mem.Active(); self || id == "" {
		return nil
	}
	st, err := d.role.up()
	if err != nil {
		return err
	}
	have, err := st.Status(ctx) // before what is wanted is read: what comes later stays
	if err != nil {
		return err
	}
	tasks, err := d.state.Tasks.List(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if !t.Ended() {
			return nil
		}
	}
	images, err := d.state.GoldenImages.List(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, g := range images {
		wanted[g.InPool()] = true
	}
	var errs []error
	for _, g := range have.Goldens {
		if !wanted[g.ID] {
			if err := pool.Discard(ctx, g.ID); err != nil && domain.KindOf(err) != domain.Conflict {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
