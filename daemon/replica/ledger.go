package replica

import (
	"context"
	"slices"
	"strings"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
)

// Records is a Ledger in the domain state, and what is wanted according to it.
type Records struct {
	state     *cluster.Store
	presence  *cluster.KV[Presence]
	appliance string
}

// NewRecords makes the records of the named appliance.
func NewRecords(state *cluster.Store, appliance string) *Records {
	return &Records{state: state, presence: cluster.NewKV[Presence](state.Client, "presence"), appliance: appliance}
}

// Wanted are the objects that the domain's artifacts stand on.
func (r *Records) Wanted(ctx context.Context) ([]Item, error) {
	var all []Item
	images, err := r.state.GoldenImages.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range images {
		if g.CheckSum == "" || g.ObjectBytes == 0 {
			continue // on its way in
		}
		all = append(all, Item{
			SHA256: g.CheckSum, Bytes: g.ObjectBytes, Name: "golden image " + g.Name,
			Golden: &Golden{ID: g.ID, PoolID: g.InPool(), Digest: g.ContentDigest},
		})
	}
	bundles, err := r.state.ArtifactBundles.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range bundles {
		if b.CheckSum != "" && b.Size > 0 {
			all = append(all, Item{SHA256: b.CheckSum, Bytes: b.Size, Name: "artifact bundle " + b.Name})
		}
	}
	return all, nil
}

// Changed wakes its reader when Wanted may have changed.
func (r *Records) Changed(ctx context.Context) <-chan struct{} {
	wake := make(chan struct{}, 1)
	go func() {
		images, bundles := r.state.GoldenImages.Watch(ctx), r.state.ArtifactBundles.Watch(ctx)
		for {
			select {
			case <-ctx.Done():
				return
			case <-images:
			case <-bundles:
			}
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	return wake
}

// Note implements Ledger. It writes only what has changed, the time of the last
// check aside, and so ends the wakes that it causes itself.
func (r *Records) Note(ctx context.Context, i Item, p Presence) error {
	key := r.appliance + "|" + i.SHA256
	old, known, err := r.presence.Get(ctx, key)
	if err != nil {
		return err
	}
	same := old
	same.Verified = p.Verified
	if !known || same != p {
		if err := r.presence.Put(ctx, key, p); err != nil {
			return err
		}
	}
	if i.Golden == nil {
		return nil
	}
	return r.noteGolden(ctx, i, p)
}

// noteGolden keeps the presence that REST shows with a golden image.
func (r *Records) noteGolden(ctx context.Context, i Item, p Presence) error {
	mine := func(have domain.Presence) bool { return have.Appliance == r.appliance }
	g, err := r.state.GoldenImages.Get(ctx, i.Golden.ID)
	if err != nil {
		return ignoreMissing(err)
	}
	at := slices.IndexFunc(g.Presence, mine)
	held := at >= 0
	if held == (p.State == Present) && (!held || g.Presence[at].InPool == p.InPool) {
		return nil
	}
	_, err = r.state.GoldenImages.Update(ctx, g.ID, func(g *domain.GoldenImage) error {
		g.Presence = slices.DeleteFunc(slices.Clone(g.Presence), mine)
		if p.State == Present && g.CheckSum == i.SHA256 {
			g.Presence = append(g.Presence, domain.Presence{Appliance: r.appliance, Verified: p.Verified, InPool: p.InPool})
		}
		return nil
	})
	return ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if err != nil && domain.KindOf(err) == domain.NotFound {
		return nil // deleted meanwhile
	}
	return err
}

// All is where the object with the sum is, by appliance.
func (r *Records) All(ctx context.Context, sum string) (map[string]Presence, error) {
	all, err := r.presence.List(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]Presence{}
	for key, p := range all {
		if appliance, s, ok := strings.Cut(key, "|"); ok && s == sum {
			out[appliance] = p
		}
	}
	return out, nil
}
