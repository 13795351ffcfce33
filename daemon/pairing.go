package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/group"
	"baystream/daemon/group/fence"
	"baystream/daemon/mirror"
	"baystream/daemon/pair"
	"baystream/daemon/storage"
	"baystream/netcfg"
)

// The storage groups of a pair: the first is at home on side A, the second on B.
var groupHomes = map[int]pair.Side{1: pair.A, 2: pair.B}

// firstGroup has the volumes of an appliance that is alone.
const firstGroup = 1

// groups are the numbers of the storage groups.
func groups() []int { return slices.Sorted(maps.Keys(groupHomes)) }

// fenceHandler is the program that DRBD calls when a volume loses its partner.
const fenceHandler = "/bin/bayfence"

// memoryFile is where the planner's memory outlives the daemon, and not the
// kernel.
const memoryFile = "/run/baystream/pair.json"

// A pairRecord says which appliances are the sides of the pair.
type pairRecord struct {
	A      string `json:"a"` // id of the module; empty: nobody, at the moment
	B      string `json:"b"`
	Secret string `json:"secret"` // between the two: mirrors and words
}

// side is the side of a module; None if it is not in the pair.
func (r pairRecord) side(id string) pair.Side {
	switch id {
	case "":
	case r.A:
		return pair.A
	case r.B:
		return pair.B
	}
	return pair.None
}

// module is the module of a side.
func (r pairRecord) module(s pair.Side) string {
	switch s {
	case pair.A:
		return r.A
	case pair.B:
		return r.B
	}
	return ""
}

// key is what words between the two are sealed with.
func (r pairRecord) key() []byte {
	sum := sha256.Sum256([]byte("words " + r.Secret))
	return sum[:]
}

// A pairVolume is a volume as both appliances should have it. Its thin ID means
// nothing: each appliance has its own.
type pairVolume struct {
	storage.Volume
	Maker  string             `json:"maker"`          // id of the module that made it
	Joined bool               `json:"joined"`         // both have it, or the one that alone has everything: the groups serve it
	Gone   map[pair.Side]bool `json:"gone,omitempty"` // of one that is being deleted: who has no leg any more
}

// group is the volume's group.
func (v pairVolume) group() int {
	if _, ok := groupHomes[v.Group]; ok {
		return v.Group
	}
	return firstGroup
}

// served says that the groups have to do with the volume.
func (v pairVolume) served() bool { return v.Joined && !v.Deleting }

// pairState is what a pair's storage keeps in the domain state.
type pairState struct {
	record  *cluster.Value[pairRecord]
	volumes *cluster.KV[pairVolume]
	grants  *cluster.Register[pair.Record]
}

func newPairState(s *cluster.Store) pairState {
	return pairState{
		record:  cluster.NewValue[pairRecord](s.Client, "pair"),
		volumes: cluster.NewKV[pairVolume](s.Client, "pair/volumes"),
		grants:  cluster.NewRegister[pair.Record](s.Client, "groups"),
	}
}

// pairing is this appliance's part of a pair's storage: it runs the groups, and
// keeps its legs as the domain state wants them. It is safe for concurrent use.
type pairing struct {
	d       *Daemon
	st      *storage.Storage
	state   pairState
	self    pair.Side
	grants  *group.Register
	runner  *group.Runner
	line    *group.UDP
	desk    *fence.Desk
	portals group.Addresses
	power   *partnerPower
	changed chan struct{} // wakes the runner; buffered by one
	chores  chan struct{} // wakes the keeper; buffered by one

	joining sync.Mutex // held while volumes are read, and while one is joined before it is on record

	mu      sync.Mutex
	record  pairRecord
	volumes map[string]pairVolume     // as last read
	shown   map[string]storage.Access // what each target here was made with
	stalls  map[string]stall
	targets []string          // volumes that have a target here
	said    map[string]string // what the keeper could not do, by volume
}

// now is the clock of the pair: it stands still for nothing but a sleep of the
// kernel, and does not jump with the wall clock.
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the kernel has it
	}
	return time.Duration(t.Nano())
}

// groupPortals are the addresses of the storage groups, as the frame sets them; nil
// without the setting.
func (d *Daemon) groupPortals() (map[int]netip.Addr, error) {
	text := d.inv.Settings["portals"]
	if text == "" {
		return nil, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) != len(groupHomes) {
		return nil, fmt.Errorf("portals %q: want two addresses with a comma between", text)
	}
	portals := map[int]netip.Addr{}
	for i, p := range parts {
		a, err := netip.ParseAddr(strings.TrimSpace(p))
		if err != nil || !a.Is4() {
			return nil, fmt.Errorf("portals %q: want two addresses of IPv4", text)
		}
		if depl := d.deployment(); depl.Address.IsValid() && !depl.Address.Contains(a) {
			return nil, fmt.Errorf("portals %q: %v is outside %v, the deployment network", text, a, depl.Address.Masked())
		}
		portals[i+1] = a
	}
	return portals, nil
}

// portalAddresses are those of the groups with their link.
func (d *Daemon) portalAddresses() group.Addresses {
	portals, err := d.groupPortals()
	if err != nil {
		d.log.Error("frame settings", "err", err)
		d.board.set("frame settings", domain.StatusCritical, err.Error(), "Correct the portals setting in the frame.")
	}
	return group.Addresses{Link: netcfg.DeploymentLink(d.deployment()), Groups: portals}
}

// formPair makes a pair of this appliance and the second one that was claimed,
// or takes a new partner in the place of one that was removed. The active
// appliance does it, again and again until it is done.
func (d *Daemon) formPair(ctx context.Context) error {
	changed := d.mem.Changed(ctx)
	for ctx.Err() == nil {
		if partner, ok := d.mem.Partner(); ok && partner.State == domain.ModuleMember {
			if err := d.role.formPair(ctx, partner.ID); err != nil && ctx.Err() == nil {
				d.log.Warn("form the pair", "err", err)
				d.board.set("pair", domain.StatusWarning, err.Error(), "Volumes are served by one appliance until that is mended.")
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(advanceEvery):
		}
	}
	return nil
}

func (r *storageRole) formPair(ctx context.Context, partner string) error {
	self := r.d.mem.ID()
	rec, found, err := r.pair.record.Get(ctx)
	if err != nil {
		return err
	}
	if found && rec.side(self) != pair.None && rec.side(partner) != pair.None {
		return nil
	}
	if portals, err := r.d.groupPortals(); err != nil || portals == nil {
		return errors.Join(err, errors.New("the frame has no portals setting: the storage groups need an address each"))
	}
	next, old, err := rec.with(self, partner)
	if err != nil {
		return err
	}
	if !found {
		next.Secret = rand.Text()
	}
	if err := r.foundGroups(ctx, next.side(self), old); err != nil {
		return err
	}
	_, err = r.pair.record.Update(ctx, func(now *pairRecord) error {
		if *now != rec {
			return errors.New("somebody else changed the pair meanwhile")
		}
		*now = next
		return nil
	})
	if err == nil {
		r.d.log.Info("audit: pair formed", "a", next.A, "b", next.B)
	}
	return err
}

// with is the record with this module and its partner as the sides; old is the
// one whose place the partner takes.
func (r pairRecord) with(self, partner string) (next pairRecord, old string, err error) {
	next = r
	switch {
	case r.A == "" && r.B == "":
		next.A, next.B = self, partner
	case r.side(self) == pair.A:
		old, next.B = r.B, partner
	case r.side(self) == pair.B:
		old, next.A = r.A, partner
	default:
		return r, "", fmt.Errorf("the pair is %s and %s: this module, %s, has none of its volumes", r.A, r.B, self)
	}
	return next, old, nil
}

// foundGroups writes the first records of the groups: what an appliance alone
// has, it alone has. When a new partner takes the place of an old one, this
// side must be the one that has everything.
func (r *storageRole) foundGroups(ctx context.Context, self pair.Side, old string) error {
	volumes, err := r.pair.volumes.List(ctx)
	if err != nil {
		return err
	}
	have := map[int]bool{}
	for _, v := range volumes {
		have[v.group()] = have[v.group()] || v.served()
	}
	for _, n := range groups() {
		rec, revision, err := r.pair.grants.Read(ctx, group.Name(n))
		if err != nil {
			return err
		}
		switch {
		case revision == 0:
			rec = pair.Record{Epoch: 1, Owner: groupHomes[n], Home: groupHomes[n], Clean: true}
			if have[n] {
				rec.Owner, rec.Survivor, rec.Clean = self, self, false
			}
		case old == "":
			continue
		case rec.Survivor == self: // written anew as it is: a clearing under way knows nothing of the new partner
		case !have[n]:
			rec.Survivor = pair.None
		default:
			if rec, err = rec.Win(self); err != nil {
				return fmt.Errorf("group %d: %s, which was removed, has the newest data: claim that module again, or restore its volumes", n, old)
			}
		}
		if _, err := r.pair.grants.Swap(ctx, group.Name(n), revision, rec); err != nil && (old != "" || !errors.Is(err, cluster.ErrLost)) {
			return fmt.Errorf("group %d: %w", n, err)
		}
	}
	return nil
}

// pairUp runs this appliance's part of the pair from the moment that there is
// one, until ctx ends.
func (r *storageRole) pairUp(ctx context.Context, st *storage.Storage) error {
	watch := r.pair.record.Watch(ctx)
	for {
		once, cancel := context.WithTimeout(ctx, lookTime)
		rec, found, err := r.pair.record.Get(once)
		cancel()
		if self := rec.side(r.d.mem.ID()); found && err == nil && self != pair.None {
			r.alone.Store(false)
			return r.runPair(ctx, st, rec, self)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watch:
		case <-time.After(advanceEvery):
		}
	}
}

func (r *storageRole) runPair(ctx context.Context, st *storage.Storage, rec pairRecord, self pair.Side) error {
	d := r.d
	p := &pairing{
		d: d, st: st, state: r.pair, self: self, record: rec, portals: d.portalAddresses(),
		grants:  group.NewRegister(ctx, r.pair.grants, groups()),
		changed: make(chan struct{}, 1), chores: make(chan struct{}, 1),
		shown: map[string]storage.Access{}, stalls: map[string]stall{}, said: map[string]string{},
	}
	p.power = newPartnerPower(p)
	p.desk = fence.NewDesk(func() { wake(p.changed) })
	p.follow(ctx)
	for p.read(ctx) != nil { // nothing is decided before it is known what there is
		if !pause(ctx, time.Second) {
			return nil
		}
	}
	if err := mirror.SetHelper(fenceHandler); err != nil {
		return err
	}
	var err error
	if p.line, err = group.ListenUDP(group.NewTalk(self, rec.key(), now), p.partnerAddresses, d.log.With("part", "pair")); err != nil {
		return err
	}
	p.runner = group.New(group.Config{
		Self: self, Groups: groups(), Grants: p.grants, Volumes: p, Portals: p.portals, Line: p.line, Desk: p.desk,
		Power: group.Power{Partner: p.power.state, Fence: p.power.fence, ResetServers: p.resetServers}, Voters: func() int { return d.node.Others() + 1 },
		Targets: p.targetsHere, Wake: p.changed, Now: now, Memory: memoryFile, Log: d.log.With("part", "pair"),
	})
	r.mu.Lock()
	r.p = p
	r.mu.Unlock()
	d.board.set("pair", domain.StatusOK, "this is side "+self.String()+" of the pair", "")
	events, err := st.Watch(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.desk.Serve(ctx, fence.Socket) })
	g.Go(func() error { return p.line.Run(ctx) })
	g.Go(func() error { return p.runner.Run(ctx) })
	g.Go(func() error { return p.keep(ctx) })
	g.Go(func() error { return p.watch(ctx, events) })
	return g.Wait()
}

// watch hands on what happens in the kernel and in the domain state.
func (p *pairing) watch(ctx context.Context, events <-chan struct{}) error {
	volumes, record, modules := p.state.volumes.Watch(ctx), p.state.record.Watch(ctx), p.d.mem.Changed(ctx)
	again := time.NewTicker(10 * time.Second)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			wake(p.changed)
			wake(p.chores)
			continue
		case <-volumes:
		case <-record:
		case <-modules:
		case <-again.C:
		}
		if err := p.read(ctx); err != nil && ctx.Err() == nil {
			p.d.log.Debug("volumes of the pair", "err", err)
		}
		p.follow(ctx)
	}
}

// read brings what is known of the pair up to date.
func (p *pairing) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	p.joining.Lock() // what joinAlone has made known must not be forgotten again
	defer p.joining.Unlock()
	volumes, err := p.state.volumes.List(ctx)
	if err != nil {
		return err
	}
	rec, _, err := p.state.record.Get(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.volumes = volumes
	if rec.side(p.d.mem.ID()) == p.self {
		p.record = rec
	}
	p.mu.Unlock()
	wake(p.changed)
	wake(p.chores)
	return nil
}

// partner is the id of the other appliance; empty while there is none.
func (p *pairing) partner() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record.module(p.self.Other())
}

// partnerModule is what the domain says of the partner.
func (p *pairing) partnerModule() (domain.Module, bool) {
	id := p.partner()
	for _, m := range p.d.mem.Modules() {
		if m.ID == id && id != "" {
			return m, true
		}
	}
	return domain.Module{}, false
}

// partnerAddresses are the partner's, on every network that both are on.
func (p *pairing) partnerAddresses() []netip.Addr {
	m, _ := p.partnerModule()
	var out []netip.Addr
	for _, n := range []string{networkDeployment, networkManagement} {
		if a, err := netip.ParsePrefix(m.Addresses[n]); err == nil {
			out = append(out, a.Addr())
		}
	}
	return out
}

// follow tells the mirrors where the partner is. Mirrors with an older address
// leave it.
func (p *pairing) follow(ctx context.Context) {
	m, _ := p.partnerModule()
	remote, err := netip.ParsePrefix(m.Addresses[networkDeployment])
	local := p.d.deployment().Address
	if err != nil || !local.IsValid() {
		return
	}
	p.mu.Lock()
	secret := p.record.Secret
	p.mu.Unlock()
	next := storage.Pairing{Local: local.Addr(), Remote: remote.Addr(), Secret: secret}
	if err := p.st.SetPair(ctx, next); err != nil && ctx.Err() == nil {
		p.d.log.Warn("the partner's new address", "err", err)
	}
	wake(p.changed)
}

// firstPairing is what storage is opened with: enough to know that a pair
// decides, also when the partner is not known yet.
func (r *storageRole) firstPairing(ctx context.Context) (*storage.Pairing, error) {
	rec, found, err := r.pair.record.Get(ctx)
	if err != nil {
		return nil, err
	}
	if !found || rec.side(r.d.mem.ID()) == pair.None {
		if r.d.mem.claimed() { // it becomes a side before it serves anything
			return &storage.Pairing{}, nil
		}
		return nil, nil
	}
	return &storage.Pairing{Local: r.d.deployment().Address.Addr(), Secret: rec.Secret}, nil
}

// diskID is the identity of the data disk: it begins and ends with its file
// systems, so that what is on record for a disk is never taken for another's.
func diskID(state string) (string, error) {
	file := filepath.Join(state, "disk-id")
	b, err := os.ReadFile(file)
	if id := strings.TrimSpace(string(b)); err == nil && domain.ValidUUID(id) {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("identity of the data disk: %w", err)
	}
	if err == nil {
		return "", fmt.Errorf("identity of the data disk: %s has %q, which is none: restore the file, or reset the module to its factory state", file, b)
	}
	id := domain.NewID()
	return id, renameio.WriteFile(file, []byte(id+"\n"), 0o600)
}
