package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/mirror"
	"baystream/daemon/pair"
	"baystream/daemon/storage"
)

// stall is how long a leg has kept its requests.
type stall struct {
	done  uint64
	since time.Duration
}

// Look implements group.Volumes.
func (p *pairing) Look(ctx context.Context) (map[int][]pair.Volume, error) {
	legs, err := p.st.Legs(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[int][]pair.Volume{}
	for _, v := range p.volumes {
		if v.served() {
			out[v.group()] = append(out[v.group()], p.view(v, legs))
		}
	}
	for _, vols := range out {
		slices.SortFunc(vols, func(a, b pair.Volume) int { return cmp.Compare(a.ID, b.ID) })
	}
	p.targets = p.targets[:0]
	for id, l := range legs {
		if l.Exported {
			p.targets = append(p.targets, id)
		}
	}
	slices.Sort(p.targets)
	return out, nil
}

func (p *pairing) targetsHere() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.targets)
}

// view is one volume as the planner sees it; called with mu held. A leg of
// another incarnation, or one that is still a draft, is none.
func (p *pairing) view(v pairVolume, legs map[string]storage.Leg) pair.Volume {
	out := pair.Volume{ID: v.ID, Disk: pair.Missing}
	l, ok := legs[v.ID]
	if !ok || !l.Up || l.Draft || l.UUID != v.UUID {
		delete(p.stalls, v.ID)
		return out
	}
	m := l.Mirror
	out.Primary = m.Role == mirror.Primary
	out.Disk, out.PeerDisk = diskState(m.Disk), diskState(m.PeerDisk)
	out.PeerRole = map[mirror.Role]pair.PeerRole{mirror.Primary: pair.RolePrimary, mirror.Secondary: pair.RoleSecondary}[m.PeerRole]
	out.Conn = connState(m.Connection)
	out.Frozen = m.Suspended
	out.Live = len(l.Sessions) > 0
	if v.Access == nil {
		out.Exported = out.Primary // there is nobody to show it to
	} else {
		made, known := p.shown[v.ID]
		out.Exported = l.Exported && (!known || made == *v.Access)
	}
	s := p.stalls[v.ID]
	if l.Waiting == 0 || s.since == 0 || s.done != l.Done {
		s = stall{done: l.Done, since: now()}
	} else {
		out.Stuck = now() - s.since
	}
	p.stalls[v.ID] = s
	return out
}

// diskState is a leg's state as the planner names it.
func diskState(d mirror.Disk) pair.Disk {
	switch d {
	case mirror.Diskless, mirror.Attaching:
		return pair.Diskless
	case mirror.Failed:
		return pair.Failed
	case mirror.Outdated:
		return pair.Outdated
	case mirror.DiskUnknown:
		return pair.Unknown
	case mirror.Consistent:
		return pair.Consistent
	case mirror.UpToDate:
		return pair.UpToDate
	}
	return pair.Inconsistent
}

// connState is the state of a link as the planner names it.
func connState(c mirror.Connection) pair.Conn {
	switch {
	case c == mirror.StandAlone:
		return pair.StandAlone
	case !c.Up():
		return pair.Connecting
	case c.Source():
		return pair.SyncSource
	case c.Resyncing():
		return pair.SyncTarget
	}
	return pair.Connected
}

// Resource implements group.Volumes.
func (p *pairing) Resource(id string) string { return p.st.Resource(id) }

// Do implements group.Volumes.
func (p *pairing) Do(ctx context.Context, a pair.Action) error {
	switch a.Op {
	case pair.Promote:
		return p.st.Promote(ctx, a.Volume)
	case pair.Demote:
		return p.st.Demote(ctx, a.Volume)
	case pair.Flush:
		return p.st.FlushLeg(ctx, a.Volume)
	case pair.ForceDisconnect:
		return p.st.ForceDisconnect(ctx, a.Volume)
	case pair.Connect:
		if len(p.partnerAddresses()) == 0 {
			return nil // there is none to look for
		}
		return p.st.Connect(ctx, a.Volume)
	case pair.BringUp:
		return p.bringUp(ctx, a.Volume, a.Disown)
	case pair.TakeDown:
		return p.st.BringDown(ctx, a.Volume)
	case pair.Outdate:
		return p.st.Outdate(ctx, a.Volume)
	case pair.DetachForce:
		return p.st.DetachForce(ctx, a.Volume)
	case pair.ResumeIO:
		return p.st.ResumeIO(ctx, a.Volume)
	case pair.Export:
		return p.expose(ctx, a.Volume)
	case pair.Unexport:
		return p.hide(ctx, a.Volume, true)
	}
	return fmt.Errorf("%v is nothing that a volume can do", a.Op)
}

// want is a volume as the pair has it.
func (p *pairing) want(id string) (pairVolume, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.volumes[id]
	return v, ok
}

// bringUp attaches this appliance's leg of a volume, and makes it first if there
// is none of this incarnation.
func (p *pairing) bringUp(ctx context.Context, id string, disown bool) error {
	v, ok := p.want(id)
	if !ok || !v.served() {
		return fmt.Errorf("OS volume %s: %w", id, storage.ErrNotFound)
	}
	if own, err := p.st.Volume(id); err == nil && own.Made && own.UUID == v.UUID {
		if own.Draft {
			return p.st.Settle(ctx, id)
		}
		return p.st.BringUp(ctx, id, disown)
	}
	_, err := p.st.AdoptVolume(ctx, v.Volume) // it is as the golden image is: the target of a resync
	return err
}

func (p *pairing) expose(ctx context.Context, id string) error {
	v, ok := p.want(id)
	if !ok || v.Access == nil {
		return nil
	}
	if err := p.st.Expose(ctx, id, *v.Access); err != nil {
		return err
	}
	p.mu.Lock()
	p.shown[id] = *v.Access
	p.mu.Unlock()
	return nil
}

func (p *pairing) hide(ctx context.Context, id string, force bool) error {
	if err := p.st.Hide(ctx, id, force); err != nil {
		return err
	}
	p.mu.Lock()
	delete(p.shown, id)
	p.mu.Unlock()
	return nil
}

// How often the keeper looks without an event, and how long one chore may take.
const (
	choresEvery = time.Second
	choreLimit  = 30 * time.Second
)

// keep does what is no decision: legs of volumes that the partner is making,
// the ends of deletions, targets that nobody should reach any more.
func (p *pairing) keep(ctx context.Context) error {
	tick := time.NewTicker(choresEvery)
	defer tick.Stop()
	for {
		p.round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-p.chores:
		}
	}
}

func (p *pairing) round(ctx context.Context) {
	legs, err := p.st.Legs(ctx)
	if err != nil {
		return // the runner has said so
	}
	p.mu.Lock()
	volumes := make([]pairVolume, 0, len(p.volumes))
	for _, v := range p.volumes {
		volumes = append(volumes, v)
	}
	p.mu.Unlock()
	slices.SortFunc(volumes, func(a, b pairVolume) int { return cmp.Compare(a.ID, b.ID) })
	for _, old := range volumes {
		v, ok := p.want(old.ID) // earlier chores may have taken long
		if !ok {
			continue
		}
		p.chore(ctx, v.ID, func(ctx context.Context) error { return p.tend(ctx, v, legs) })
	}
	active, self, _ := p.d.mem.Active()
	for id, l := range legs {
		v, known := p.want(id)
		stale := l.Draft && !self && active != "" && !(known && v.Maker == p.d.mem.ID() && !v.Deleting && v.UUID == l.UUID && v.Joined)
		if stale { // of a deployment that the other appliance has taken over
			p.chore(ctx, id, func(ctx context.Context) error { return p.st.DeleteVolume(ctx, id) })
		}
	}
}

// chore does f within its time, and says once what it could not do.
func (p *pairing) chore(ctx context.Context, id string, f func(context.Context) error) {
	once, cancel := context.WithTimeout(ctx, choreLimit)
	defer cancel()
	err := f(once)
	if ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	p.mu.Lock()
	news := p.said[id] != text
	if p.said[id] = text; text == "" {
		delete(p.said, id)
	}
	p.mu.Unlock()
	if news && text != "" {
		p.d.log.Info("volume of the pair waits", "err", err)
	}
}

// tend does what one volume needs here.
func (p *pairing) tend(ctx context.Context, v pairVolume, legs map[string]storage.Leg) error {
	l, here := legs[v.ID]
	switch {
	case v.Deleting:
		return p.remove(ctx, v, l, here)
	case !v.Joined && v.Maker == p.d.mem.ID():
		return nil // join is at work
	case !v.Joined:
		return p.adopt(ctx, v)
	case here && l.Draft && l.UUID == v.UUID:
		return p.st.Settle(ctx, v.ID)
	case here && l.Exported && v.Access == nil:
		return p.hide(ctx, v.ID, false)
	case here && l.Exported && !p.knows(v):
		return p.expose(ctx, v.ID)
	}
	return nil
}

// knows says that this daemon has made the target of v; one that it found may
// be of other access data.
func (p *pairing) knows(v pairVolume) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.shown[v.ID]
	return ok
}

// adopt makes the leg of a volume that the partner is making, so that it gets
// what was written there.
func (p *pairing) adopt(ctx context.Context, v pairVolume) error {
	if _, err := p.st.AdoptVolume(ctx, v.Volume); err != nil {
		return err
	}
	return p.st.Connect(ctx, v.ID)
}

var errGone = errors.New("is gone")

// remove destroys this appliance's leg of a volume and notes it. The primary
// goes first, so that nothing freezes over its end.
func (p *pairing) remove(ctx context.Context, v pairVolume, l storage.Leg, here bool) error {
	if here && l.Mirror.Connection.Up() && l.Mirror.PeerRole == mirror.Primary {
		return nil
	}
	if name := p.st.Resource(v.ID); name != "" {
		defer p.desk.Expect(name, false)()
		p.desk.Answer(name, math.MaxUint64, false)
	}
	if own, err := p.st.Volume(v.ID); err == nil && own.UUID == v.UUID {
		if err := p.st.DeleteVolume(ctx, v.ID); err != nil {
			return err
		}
	}
	p.mu.Lock()
	rec := p.record
	delete(p.shown, v.ID)
	p.mu.Unlock()
	if v.Gone[p.self] && (v.Gone[p.self.Other()] || rec.module(p.self.Other()) == "") {
		return p.forget(ctx, v)
	}
	if v.Gone[p.self] {
		return nil
	}
	_, err := p.state.volumes.Update(ctx, v.ID, func(now *pairVolume) error {
		if now.ID == "" || !now.Deleting || now.UUID != v.UUID {
			return errGone
		}
		if now.Gone == nil {
			now.Gone = map[pair.Side]bool{}
		}
		now.Gone[p.self] = true
		return nil
	})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// forget removes the record of a deletion that has ended everywhere, unless a
// volume was made anew under its id.
func (p *pairing) forget(ctx context.Context, v pairVolume) error {
	return cluster.Atomically(ctx, p.d.state.Client, func(tx *cluster.Txn) error {
		now, found, err := p.state.volumes.GetIn(tx, v.ID)
		if err == nil && found && now.Deleting && now.UUID == v.UUID {
			p.state.volumes.DeleteIn(tx, v.ID)
		}
		return err
	})
}

// partnerHeard says that the partner spoke a moment ago.
func (p *pairing) partnerHeard() bool {
	_, at := p.line.Last()
	return at >= 0 && now()-at <= pair.HeardFor
}

// put changes the record of a volume, and what is known of it here.
func (p *pairing) put(ctx context.Context, id string, change func(*pairVolume) error) (pairVolume, error) {
	v, err := p.state.volumes.Update(ctx, id, change)
	if err != nil {
		return v, err
	}
	p.know(v)
	return v, nil
}

// know notes a volume before the domain state tells of it.
func (p *pairing) know(v pairVolume) {
	p.mu.Lock()
	all := map[string]pairVolume{}
	for id, o := range p.volumes {
		all[id] = o
	}
	all[v.ID] = v
	p.volumes = all
	p.mu.Unlock()
	wake(p.changed)
	wake(p.chores)
}

// resetServers resets every running server of the volumes, whose last writes may
// be gone though they believe them done.
func (p *pairing) resetServers(ctx context.Context, ids []string) error {
	var errs []error
	for _, id := range ids {
		if err := p.resetServer(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("reset the server of OS volume %s: %w", id, err))
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		p.d.board.set("pair servers", domain.StatusCritical, err.Error(),
			"Both appliances were lost, and what these servers wrote last may be gone: switch them off, or mend the frame manager; they are served then.")
	} else if len(ids) > 0 {
		p.d.board.set("pair servers", domain.StatusOK, "servers were reset after both appliances had been lost", "")
	}
	return err
}

func (p *pairing) resetServer(ctx context.Context, id string) error {
	v, err := p.d.state.OSVolumes.Get(ctx, id)
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	if err != nil || v.ServerHardwareURI == "" {
		return err
	}
	hid, err := domain.IDFromURI(domain.ServerHardwares, v.ServerHardwareURI)
	if err != nil {
		return err
	}
	h, err := p.d.state.ServerHardware.Get(ctx, hid)
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return p.d.hw.resetRunning(ctx, h)
}
