package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"baystream/daemon/mirror"
	"baystream/daemon/pool"
)

// ledger is the memory of what should exist: the Records' content, the numbers
// handed out, and a lock for each ID. It does no I/O besides Records.
type ledger struct {
	rec Records

	mu      sync.Mutex
	goldens map[string]Golden
	volumes map[string]Volume
	locks   map[string]*idLock
	next    uint32 // where the search for a free thin ID begins
}

type idLock struct {
	ch    chan struct{} // holds a token while locked
	users int
}

func loadLedger(ctx context.Context, rec Records) (*ledger, error) {
	l := &ledger{rec: rec, goldens: map[string]Golden{}, volumes: map[string]Volume{}, locks: map[string]*idLock{}, next: 1}
	s, err := rec.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load records: %w", err)
	}
	for _, g := range s.Goldens {
		l.goldens[g.ID] = g
		l.next = max(l.next, g.ThinID+1)
	}
	for _, v := range s.Volumes {
		l.volumes[v.ID] = v
		l.next = max(l.next, v.ThinID+1)
	}
	return l, nil
}

// lock waits for the ID's turn. The returned function ends it.
func (l *ledger) lock(ctx context.Context, id string) (func(), error) {
	l.mu.Lock()
	k := l.locks[id]
	if k == nil {
		k = &idLock{ch: make(chan struct{}, 1)}
		l.locks[id] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		if k.users--; k.users == 0 {
			delete(l.locks, id)
		}
		l.mu.Unlock()
	}
	select {
	case k.ch <- struct{}{}:
		return func() { <-k.ch; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

func (l *ledger) golden(id string) (Golden, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g, ok := l.goldens[id]
	return g, ok
}

func (l *ledger) volume(id string) (Volume, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.volumes[id]
	return v, ok
}

func (l *ledger) all() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s State
	for _, g := range l.goldens {
		s.Goldens = append(s.Goldens, g)
	}
	for _, v := range l.volumes {
		s.Volumes = append(s.Volumes, v)
	}
	return s
}

// newThin finds a thin ID that no record holds; the caller holds mu. IDs run
// upwards, so that one is not reused while its old blocks are given back.
func (l *ledger) newThin() (uint32, error) {
	used := map[uint32]bool{}
	for _, g := range l.goldens {
		used[g.ThinID] = true
	}
	for _, v := range l.volumes {
		used[v.ThinID] = true
	}
	for range len(used) + 1 {
		if l.next == 0 || l.next > pool.MaxThinID {
			l.next = 1
		}
		id := l.next
		l.next++
		if !used[id] {
			return id, nil
		}
	}
	return 0, errors.New("no free thin ID")
}

// newMinor is the lowest DRBD minor that no record holds; the caller holds mu.
func (l *ledger) newMinor() uint32 {
	used := map[uint32]bool{}
	for _, v := range l.volumes {
		used[v.Minor] = true
	}
	m := uint32(1)
	for used[m] {
		m++
	}
	return m
}

// addGolden enters a new image, not ready yet.
func (l *ledger) addGolden(ctx context.Context, id string, size uint64) (Golden, error) {
	l.mu.Lock()
	thin, err := l.newThin()
	g := Golden{ID: id, ThinID: thin, SizeBytes: size}
	if err == nil {
		l.goldens[id] = g
	}
	l.mu.Unlock()
	if err != nil {
		return Golden{}, err
	}
	return g, l.putGolden(ctx, g)
}

// addVolume enters a new volume, not made yet. The golden image must be ready.
func (l *ledger) addVolume(ctx context.Context, s Spec) (Volume, error) {
	l.mu.Lock()
	v, err := l.newVolume(s)
	if err == nil {
		l.volumes[v.ID] = v
	}
	l.mu.Unlock()
	if err != nil {
		return Volume{}, err
	}
	if err := l.rec.PutVolume(ctx, v); err != nil {
		l.mu.Lock()
		delete(l.volumes, v.ID)
		l.mu.Unlock()
		return Volume{}, fmt.Errorf("record: %w", err)
	}
	return v, nil
}

func (l *ledger) newVolume(s Spec) (Volume, error) {
	var digest string
	if s.GoldenID != "" {
		g, ok := l.goldens[s.GoldenID]
		if !ok || !g.Ready {
			return Volume{}, fmt.Errorf("golden image %s: %w", s.GoldenID, ErrNotFound)
		}
		if s.SizeBytes < g.SizeBytes {
			return Volume{}, fmt.Errorf("size %d is smaller than golden image %s with %d bytes: ask for as much at least",
				s.SizeBytes, g.ID, g.SizeBytes)
		}
		digest = g.Digest
	}
	thin, err := l.newThin()
	if err != nil {
		return Volume{}, err
	}
	return Volume{ID: s.ID, Name: s.Name, GoldenID: s.GoldenID, Digest: digest, SizeBytes: s.SizeBytes, Group: s.Group, Draft: s.Draft,
		ThinID: thin, Minor: l.newMinor(), UUID: mirror.NewUUID()}, nil
}

// adopt enters a volume that the partner has made, not made here yet. All but
// the thin ID is the partner's.
func (l *ledger) adopt(ctx context.Context, v Volume) (Volume, error) {
	l.mu.Lock()
	err := l.adoptable(v)
	if err == nil {
		v.ThinID, err = l.newThin()
	}
	v.Made, v.Deleting, v.Draft, v.Access = false, false, false, nil
	if err == nil {
		l.volumes[v.ID] = v
	}
	l.mu.Unlock()
	if err != nil {
		return Volume{}, err
	}
	return v, l.putVolume(ctx, v)
}

// adoptable says why a partner's volume cannot be had here; the caller holds mu.
func (l *ledger) adoptable(v Volume) error {
	if v.GoldenID != "" {
		switch g, ok := l.goldens[v.GoldenID]; {
		case !ok || !g.Ready:
			return fmt.Errorf("golden image %s: %w", v.GoldenID, ErrNotFound)
		case g.Digest != v.Digest:
			return fmt.Errorf("%w: golden image %s has digest %s here, %s at the partner", ErrConflict, v.GoldenID, g.Digest, v.Digest)
		}
	}
	for _, o := range l.volumes {
		if o.Minor == v.Minor && o.ID != v.ID {
			return fmt.Errorf("%w: minor %d belongs to OS volume %s (%s)", ErrConflict, v.Minor, o.Name, o.ID)
		}
	}
	return nil
}

// moveThin gives a volume another thin ID, when the one chosen turned out to
// be taken in the pool by something without a record.
func (l *ledger) moveThin(ctx context.Context, v Volume) (Volume, error) {
	l.mu.Lock()
	id, err := l.newThin()
	l.mu.Unlock()
	if err != nil {
		return v, err
	}
	v.ThinID = id
	return v, l.putVolume(ctx, v)
}

// retire marks an image as no longer ready, unless a volume is cloned from it.
// That is on record when it returns: after a crash, an image that has lost its
// blocks must not look whole.
func (l *ledger) retire(ctx context.Context, id string) (Golden, error) {
	g, err := l.unready(id)
	if err != nil {
		return Golden{}, err
	}
	return g, l.putGolden(ctx, g)
}

func (l *ledger) unready(id string) (Golden, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g, ok := l.goldens[id]
	if !ok {
		return Golden{}, ErrNotFound
	}
	for _, v := range l.volumes {
		if v.GoldenID == id {
			return Golden{}, fmt.Errorf("%w: OS volume %s (%s) is a clone of it: delete that first", ErrInUse, v.Name, v.ID)
		}
	}
	g.Ready = false
	l.goldens[id] = g
	return g, nil
}

func (l *ledger) putGolden(ctx context.Context, g Golden) error {
	l.mu.Lock()
	l.goldens[g.ID] = g
	l.mu.Unlock()
	if err := l.rec.PutGolden(ctx, g); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

func (l *ledger) putVolume(ctx context.Context, v Volume) error {
	if err := l.rec.PutVolume(ctx, v); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	l.mu.Lock()
	l.volumes[v.ID] = v
	l.mu.Unlock()
	return nil
}

func (l *ledger) dropGolden(ctx context.Context, id string) error {
	if err := l.rec.DeleteGolden(ctx, id); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	l.mu.Lock()
	delete(l.goldens, id)
	l.mu.Unlock()
	return nil
}

func (l *ledger) dropVolume(ctx context.Context, id string) error {
	if err := l.rec.DeleteVolume(ctx, id); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	l.mu.Lock()
	delete(l.volumes, id)
	l.mu.Unlock()
	return nil
}
