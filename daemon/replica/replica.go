// Package replica keeps a copy of every artifact on every appliance.
//
// What an appliance should have is in the domain state (Wanted); what it has is
// in its artifact store. A Replica compares the two and fetches what is missing
// from whoever has it, one object at a time: over mutual TLS, from where an
// interrupted copy ended, and believed only when its SHA-256 holds. Golden
// images are then expanded in this appliance's pool, and only a digest that is
// the partner's counts. Where each artifact is, and since when, is written down
// (Ledger) and shown.
//
// A Source is the other side: it serves the objects of this appliance, two at a
// time. The artifact store and the pool belong to others; here are only the
// interfaces that are needed of them.
package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
)

// Item is one object that every appliance should hold.
type Item struct {
	SHA256 string
	Bytes  int64
	Name   string // for people
	Golden *Golden
}

// Golden is the image within an object, as the pool should hold it.
type Golden struct {
	ID     string // of the resource
	PoolID string
	Digest string // that the partner computed; empty: not known yet
}

// Store is the part of artifact.Store that copies need.
type Store interface {
	Stat(sum string) (artifact.Object, error)
	Open(sum string) (*os.File, error)
	Put(ctx context.Context, r io.Reader, lim artifact.PutLimits) (artifact.Object, error)
}

// Pool is the part of the storage that golden images need.
type Pool interface {
	// Expanded returns the digest of the golden image, empty if it is not there.
	Expanded(ctx context.Context, poolID string) (digest string, err error)
	// Expand writes the object's image into the pool and returns its digest. It
	// may be repeated.
	Expand(ctx context.Context, poolID, sum string) (digest string, err error)
	// Discard removes what Expand made.
	Discard(ctx context.Context, poolID string) error
}

// Config is what a Replica stands on. Pool may be nil: a witness has none.
type Config struct {
	Store   Store
	Pool    Pool
	Wanted  func(ctx context.Context) ([]Item, error)
	Sources func(ctx context.Context) ([]string, error) // addresses (ADDRESS:PORT) of the other appliances
	TLS     *tls.Config
	Partial string // directory for copies under way; on the file system of the store
	Ledger  Ledger
	Log     *slog.Logger
}

// Ledger is told where artifacts are.
type Ledger interface {
	Note(ctx context.Context, i Item, p Presence) error
}

// States of a copy.
const (
	Missing = "missing" // nobody that answers has it
	Copying = "copying"
	Present = "present" // its checksum held
	Damaged = "damaged" // it differs from what it should be
)

// Presence is how an artifact is on this appliance.
type Presence struct {
	State    string `json:"state"`
	Bytes    int64  `json:"bytes"` // that are here
	InPool   bool   `json:"inPool"`
	Detail   string `json:"detail,omitempty"`
	Verified string `json:"verified,omitempty"`
}

// Replica copies what this appliance lacks.
type Replica struct {
	Config
	client *http.Client
	stall  time.Duration
}

// New makes a Replica.
func New(cfg Config) (*Replica, error) {
	if err := os.MkdirAll(cfg.Partial, 0o700); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return &Replica{Config: cfg, stall: 30 * time.Second, client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: cfg.TLS, ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true,
	}}}, nil
}

// retry is how long Run waits after a round in which something was missing.
const retry = 30 * time.Second

// Run copies whenever changed wakes it, and again while something is missing,
// until ctx ends.
func (r *Replica) Run(ctx context.Context, changed <-chan struct{}) error {
	for {
		var again <-chan time.Time
		if err := r.Sync(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("copy artifacts", "err", err)
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

// Sync is one round. What cannot be copied does not stop the rest.
func (r *Replica) Sync(ctx context.Context) error {
	items, err := r.Wanted(ctx)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	r.sweep(items)
	var errs []error
	for _, i := range items {
		p, err := r.bring(ctx, i)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			p.Detail = err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", i.Name, err))
		}
		errs = append(errs, r.Ledger.Note(ctx, i, p))
	}
	return errors.Join(errs...)
}

// bring makes one item present.
func (r *Replica) bring(ctx context.Context, i Item) (Presence, error) {
	p := Presence{State: Present, Bytes: i.Bytes}
	if _, err := r.Store.Stat(i.SHA256); err != nil {
		if p.Bytes, err = r.fetch(ctx, i); err != nil {
			p.State = Missing
			if p.Bytes > 0 {
				p.State = Copying
			}
			return p, err
		}
		r.Log.Info("artifact copied", "artifact", i.Name, "bytes", i.Bytes)
		p.Bytes = i.Bytes
	}
	p.Verified = domain.Stamp(time.Now())
	if r.Pool == nil || i.Golden == nil {
		return p, nil
	}
	return r.expand(ctx, i, p)
}

// expand makes a golden image present in the pool, with the partner's digest.
func (r *Replica) expand(ctx context.Context, i Item, p Presence) (Presence, error) {
	g := i.Golden
	digest, err := r.Pool.Expanded(ctx, g.PoolID)
	if err == nil && digest == "" {
		digest, err = r.Pool.Expand(ctx, g.PoolID, i.SHA256)
	}
	if err != nil {
		return p, err
	}
	if g.Digest != "" && digest != g.Digest {
		p.State = Damaged
		return p, errors.Join(fmt.Errorf("expanded image has digest %s, the partner's %s: it is discarded", digest, g.Digest), r.Pool.Discard(ctx, g.PoolID))
	}
	p.InPool = true
	return p, nil
}

// sweep removes copies under way of what is no longer wanted.
func (r *Replica) sweep(items []Item) {
	keep := map[string]bool{}
	for _, i := range items {
		keep[i.SHA256] = true
	}
	left, err := os.ReadDir(r.Partial)
	if err != nil {
		return
	}
	for _, e := range left {
		if !keep[e.Name()] {
			_ = os.Remove(filepath.Join(r.Partial, e.Name())) // the next round tries again
		}
	}
}
