package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/group"
	"baystream/daemon/member"
	"baystream/daemon/mirror"
	"baystream/daemon/pair"
	"baystream/daemon/storage"
)

// How long a volume's way into, or out of, the pair may take, and the pause
// between looks.
const (
	joinLimit  = 5 * time.Minute
	serveLimit = 30 * time.Second
	moveLimit  = 2 * time.Minute // both copies must have been in sync for a while, as both sides say
	pairPause  = 50 * time.Millisecond
)

// join makes a draft a volume of the pair: when it returns, both appliances have
// all of it, or this one is the one that has everything. Until then nobody but
// this appliance counts on it, and no server reaches it.
func (p *pairing) join(ctx context.Context, own storage.Volume) error {
	if v, found, err := p.state.volumes.Get(ctx, own.ID); err != nil {
		return err
	} else if found && v.Joined && v.UUID == own.UUID && !v.Deleting {
		return p.st.Settle(ctx, own.ID)
	}
	v := pairVolume{Volume: own, Maker: p.d.mem.ID()}
	v.Draft = false
	if err := p.state.volumes.Put(ctx, own.ID, v); err != nil {
		return err
	}
	p.know(v)
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	for {
		joined, why, err := p.tryJoin(ctx, v)
		if joined || err != nil {
			return err
		}
		if !pause(ctx, pairPause) {
			return domain.Errorf(domain.Unavailable, "OS volume "+own.Name, "is not on both appliances yet: %s", why).
				Fix("See bayctl status for the pair, then deploy again.")
		}
	}
}

// tryJoin is one look at whether v may be joined now.
func (p *pairing) tryJoin(ctx context.Context, v pairVolume) (joined bool, why string, err error) {
	rec, revision, err := p.state.grants.Read(ctx, group.Name(v.group()))
	if err != nil {
		return false, "", err
	}
	rec.Revision = revision
	switch {
	case rec.Survivor == p.self.Other():
		return false, "the other appliance has the newest data, and this one is catching up", nil
	case rec.Survivor == p.self:
		return p.joinAlone(ctx, v, rec)
	case !p.partnerHeard() && p.alone(v.group()):
		next, err := rec.Win(p.self)
		if err == nil {
			_, err = p.grants.Swap(ctx, v.group(), next)
		}
		if errors.Is(err, cluster.ErrLost) {
			err = nil
		}
		return false, "the other appliance does not answer", err
	}
	if len(p.partnerAddresses()) > 0 {
		if err := p.st.Meet(ctx, v.ID); err != nil {
			return false, "", err
		}
	}
	legs, err := p.st.Legs(ctx)
	if err != nil {
		return false, "", err
	}
	m := legs[v.ID].Mirror
	if m.Connection != mirror.Connected || m.Disk != mirror.UpToDate || m.PeerDisk != mirror.UpToDate {
		return false, fmt.Sprintf("the mirror is %s, the leg there %s", m.Connection, m.PeerDisk), nil
	}
	return true, "", p.joined(ctx, v)
}

// alone says that a group has no volume yet over which the two could find out
// that they lost each other.
func (p *pairing) alone(number int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.volumes {
		if v.served() && v.group() == number {
			return false
		}
	}
	return true
}

// joinAlone joins a volume while this side holds the grant. It is made known to
// the runner first, and the record is written anew as it is: a clearing of the
// grant that was under way did not know of the volume, and is lost by that.
func (p *pairing) joinAlone(ctx context.Context, v pairVolume, rec pair.Record) (bool, string, error) {
	if err := p.st.Settle(ctx, v.ID); err != nil {
		return false, "", err
	}
	p.joining.Lock()
	defer p.joining.Unlock()
	v.Joined = true
	p.know(v)
	if _, err := p.grants.Swap(ctx, v.group(), rec); err != nil {
		v.Joined = false
		p.know(v)
		if errors.Is(err, cluster.ErrLost) {
			return false, "the grant changes hands", nil
		}
		return false, "", err
	}
	return true, "", p.joined(ctx, v)
}

func (p *pairing) joined(ctx context.Context, v pairVolume) error {
	if err := p.st.Settle(ctx, v.ID); err != nil {
		return err
	}
	_, err := p.put(ctx, v.ID, func(now *pairVolume) error {
		if now.UUID != v.UUID || now.Deleting {
			return domain.Errorf(domain.Conflict, "OS volume "+v.Name, "was deleted meanwhile")
		}
		now.Joined = true
		return nil
	})
	return err
}

// export makes a volume reachable, at the address of its group, and returns when
// whoever has the group serves it.
func (p *pairing) export(ctx context.Context, id string, a storage.Access) (netip.AddrPort, error) {
	v, found, err := p.state.volumes.Get(ctx, id)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if !found || !v.served() {
		return netip.AddrPort{}, fmt.Errorf("OS volume %s: %w", id, storage.ErrNotFound)
	}
	a.Portal = netip.AddrPortFrom(p.portals.Groups[v.group()], portalPort)
	if _, err := p.put(ctx, id, func(now *pairVolume) error { now.Access = &a; return nil }); err != nil {
		return netip.AddrPort{}, err
	}
	err = p.wait(ctx, serveLimit, "OS volume "+v.Name, "is not served yet", func() (bool, error) {
		word, _ := p.line.Last()
		if p.partnerHeard() && slices.Contains(word.Served, id) && slices.Contains(word.Targets, id) {
			return true, nil
		}
		st := p.runner.Groups()[v.group()]
		return st.Portal && slices.Contains(p.targetsHere(), id), nil
	})
	return a.Portal, err
}

// wait waits until ready, for limit at the most.
func (p *pairing) wait(ctx context.Context, limit time.Duration, object, what string, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if !pause(ctx, pairPause) {
			return domain.Errorf(domain.Unavailable, object, "%s", what).Fix("See bayctl status for the storage groups, then try again.")
		}
	}
}

// unexport takes a volume from its server, and returns when it is reachable
// nowhere.
func (p *pairing) unexport(ctx context.Context, id string) error {
	v, found, err := p.state.volumes.Get(ctx, id)
	if err != nil || !found || v.Access == nil {
		return err
	}
	if err := p.quiet(ctx, id); err != nil {
		return err
	}
	if _, err := p.put(ctx, id, func(now *pairVolume) error { now.Access = nil; return nil }); err != nil {
		return err
	}
	return p.wait(ctx, serveLimit, "OS volume "+v.Name, "is still served", func() (bool, error) { return !p.reachable(ctx, id), nil })
}

// reachable says that a volume may have a target here or at the partner.
func (p *pairing) reachable(ctx context.Context, id string) bool {
	legs, err := p.st.Legs(ctx)
	if err != nil || legs[id].Exported {
		return true
	}
	if p.partnerHeard() {
		word, _ := p.line.Last()
		return slices.Contains(word.Targets, id)
	}
	return false // it is gone, or it is frozen and withdraws
}

// sessionsThere are the initiators that are logged in at the partner. While it
// does not answer and may be serving the volume, nobody can tell.
func (p *pairing) sessionsThere(id string) ([]string, error) {
	v, ok := p.want(id)
	if !ok || v.Access == nil {
		return nil, nil
	}
	if !p.partnerHeard() {
		if rec := p.runner.Records()[v.group()]; rec.Owner == p.self.Other() {
			return nil, domain.Errorf(domain.Unavailable, "OS volume "+v.Name, "is served by the other appliance, which does not answer").Fix("Wait until it is back, or until this one has taken its group over.")
		}
		return nil, nil
	}
	if word, _ := p.line.Last(); slices.Contains(word.Live, id) {
		return []string{v.Access.InitiatorIQN}, nil
	}
	return nil, nil
}

// quiet says that no server is logged in, here or at the partner.
func (p *pairing) quiet(ctx context.Context, id string) error {
	live, err := p.sessionsThere(id)
	if err != nil {
		return err
	}
	here, err := p.st.Sessions(ctx, id)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	for _, s := range here {
		live = append(live, s.Initiator)
	}
	if len(live) > 0 {
		return fmt.Errorf("%w: %s is logged in", storage.ErrInUse, live[0])
	}
	return nil
}

// delete destroys a volume: the leg here before it returns, that of the partner
// as soon as it is there.
func (p *pairing) delete(ctx context.Context, id string) error {
	if err := p.quiet(ctx, id); err != nil {
		return err
	}
	v, err := p.put(ctx, id, func(now *pairVolume) error {
		if now.ID == "" {
			return errGone
		}
		now.Deleting, now.Access, now.Gone = true, nil, nil
		return nil
	})
	if errors.Is(err, errGone) { // a draft of which the partner never knew
		return p.st.DeleteVolume(ctx, id)
	}
	if err != nil {
		return err
	}
	if own, err := p.st.Volume(id); err == nil && own.Draft && own.UUID != v.UUID { // made anew while the old one waits for the partner
		return p.st.DeleteVolume(ctx, id)
	}
	return p.wait(ctx, serveLimit, "OS volume "+v.Name, "is still being deleted", func() (bool, error) {
		_, err := p.st.Volume(id)
		return errors.Is(err, storage.ErrNotFound), nil
	})
}

// title names a side for people.
func (p *pairing) title(s pair.Side) string {
	p.mu.Lock()
	id := p.record.module(s)
	p.mu.Unlock()
	for _, m := range p.d.mem.Modules() {
		if m.ID == id && id != "" {
			return member.Title(m)
		}
	}
	return id
}

// voteGroups says where the groups are, for votes and status.
func (r *storageRole) voteGroups(context.Context) []domain.VoteGroup {
	p := r.paired()
	if p == nil {
		return []domain.VoteGroup{}
	}
	out := []domain.VoteGroup{}
	seen, records := p.runner.Groups(), p.runner.Records()
	for _, n := range groups() {
		rec := records[n]
		g := domain.VoteGroup{Name: group.Name(n), Owner: p.title(rec.Owner), Home: p.title(rec.Preferred()), Epoch: rec.Epoch}
		st, full := seen[n]
		g.State = groupState(p, rec, st, full)
		out = append(out, g)
	}
	return out
}

// groupState is a group's state in words.
func groupState(p *pairing, rec pair.Record, st group.Status, full bool) string {
	if !full {
		if rec.Owner == pair.None {
			return "not known yet"
		}
		return "empty"
	}
	inSync, syncing, frozen, missing := 0, 0, 0, 0
	for _, v := range st.Volumes {
		switch {
		case v.Frozen:
			frozen++
		case v.Disk == pair.Missing:
			missing++
		case v.Conn > pair.Connected:
			syncing++
		case v.Conn == pair.Connected && v.Disk == pair.UpToDate && v.PeerDisk == pair.UpToDate:
			inSync++
		}
	}
	total := len(st.Volumes)
	switch {
	case frozen > 0:
		return fmt.Sprintf("frozen: %d of %d volumes wait for the grant", frozen, total)
	case inSync == total && rec.Survivor == pair.None:
		return fmt.Sprintf("in sync, %d volumes", total)
	case syncing > 0:
		return fmt.Sprintf("resync: %d of %d volumes in sync", inSync, total)
	case rec.Survivor != pair.None && inSync < total:
		s := fmt.Sprintf("%s alone has everything", p.title(rec.Survivor))
		if st.Obstacle != "" && rec.Survivor != p.self {
			s += "; here: " + st.Obstacle
		}
		return s
	case missing > 0:
		return fmt.Sprintf("%d of %d volumes have no leg here yet", missing, total)
	}
	return fmt.Sprintf("%d of %d volumes in sync", inSync, total)
}

// epochs are those of the groups.
func (r *storageRole) epochs() map[string]uint64 {
	p := r.paired()
	if p == nil {
		return nil
	}
	out := map[string]uint64{}
	for n, rec := range p.runner.Records() {
		out[group.Name(n)] = rec.Epoch
	}
	return out
}

// homeWord moves a group to where it belongs.
const homeWord = "home"

// moveGroup has a group served by a module, or at its home, from now on. It
// returns when it is.
func (r *storageRole) moveGroup(ctx context.Context, name, to string) (domain.VoteGroup, error) {
	object := "storage group " + name
	var none domain.VoteGroup
	p := r.paired()
	if p == nil {
		return none, domain.Errorf(domain.Conflict, object, "cannot move: this appliance is not in a pair").Fix("Claim a second appliance with bayctl appliance claim.")
	}
	n := slices.IndexFunc(groups(), func(n int) bool { return group.Name(n) == name })
	if n < 0 {
		return none, domain.Errorf(domain.NotFound, object, "does not exist").Fix("A pair has the groups 1 and 2.")
	}
	number := groups()[n]
	p.mu.Lock()
	side := p.record.side(to)
	p.mu.Unlock()
	if side == pair.None && to != homeWord {
		return none, domain.Errorf(domain.Invalid, object, "cannot move to %q: that is no appliance of the pair", to).Fix("Give a serial number of bayctl appliance list, or home.")
	}
	if to == homeWord {
		side = groupHomes[number]
	}
	want := side
	err := p.pin(ctx, number, want, func(rec pair.Record) error {
		if rec.Survivor != want.Other() {
			return nil
		}
		return domain.Errorf(domain.Conflict, object, "cannot move to %s now: its copy is older", p.title(want)).Fix("Wait for the resync; bayctl votes shows it.")
	})
	if err != nil {
		return none, err
	}
	err = p.wait(ctx, moveLimit, object, "is not there yet: it moves when both copies are in sync", func() (bool, error) {
		rec, _, err := p.state.grants.Read(ctx, name)
		if err != nil || rec.Owner != want {
			return false, err
		}
		return want != p.self || p.runner.Groups()[number].Portal || p.alone(number), nil
	})
	if err != nil {
		return none, err
	}
	if want == groupHomes[number] { // it is at home, and comes home by itself from now on
		if err := p.pin(ctx, number, pair.None, func(pair.Record) error { return nil }); err != nil {
			return none, err
		}
	}
	return r.voteGroups(ctx)[n], nil
}

// pin writes where a group should be, unless refused says why not.
func (p *pairing) pin(ctx context.Context, number int, side pair.Side, refused func(pair.Record) error) error {
	for {
		rec, revision, err := p.state.grants.Read(ctx, group.Name(number))
		if err == nil {
			err = refused(rec)
		}
		if err != nil {
			return err
		}
		rec.Revision, rec.Pin = revision, side
		if _, err = p.grants.Swap(ctx, number, rec); !errors.Is(err, cluster.ErrLost) {
			p.runner.Wake()
			return err
		}
	}
}
