package group

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"baystream/daemon/group/fence"
	"baystream/daemon/pair"
)

// Volumes are the volumes of all groups on this appliance.
type Volumes interface {
	// Look returns every volume that should be there, by group, as it is.
	Look(context.Context) (map[int][]pair.Volume, error)
	// Do carries out an action on one volume, or Flush on a group's legs.
	Do(context.Context, pair.Action) error
	// Resource is the name that DRBD has for a volume.
	Resource(volume string) string
}

// Portals are the portal addresses of the groups.
type Portals interface {
	Held(group int) bool
	Add(ctx context.Context, group int) error
	Remove(ctx context.Context, group int) error
	Announce(ctx context.Context, group int) error
	// Tickle makes initiators at the other end of these flows notice at once
	// that their connection is gone.
	Tickle(ctx context.Context, group int, flows []netip.AddrPort) error
	// Flows are the initiators that are connected to the group's address.
	Flows(group int) []netip.AddrPort
}

// Power is the power of the partner and of the servers. Each may be nil.
type Power struct {
	Partner      func() (off, fenceable bool)                      // as last known: does not wait
	Fence        func(context.Context) error                       // cuts the partner's power
	ResetServers func(ctx context.Context, volumes []string) error // and waits until they are
}

// Config is what a Runner stands on.
type Config struct {
	Self    pair.Side
	Groups  []int
	Grants  Grants
	Volumes Volumes
	Portals Portals
	Line    Line
	Desk    *fence.Desk
	Power   Power
	Voters  func() int
	Targets func() []string      // volumes that have a target here, for the partner; may be nil
	Wake    <-chan struct{}      // something may have changed
	Now     func() time.Duration // monotonic, since the kernel booted
	Memory  string               // file; empty: none
	Log     *slog.Logger
}

// How often is looked when no event says so, and how long a look may take.
const (
	lookFor   = 2 * time.Second
	retryMin  = 500 * time.Millisecond
	retryMax  = 2 * time.Second
	again     = pair.HelloEvery
	readEvery = time.Second // what changed wakes the reader before
)

// Runner runs the groups of one appliance.
type Runner struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{} // buffered by one

	mem   memory
	word  Word // that the partner was told last, and when; of the loop only
	spoke time.Duration
	lane  sync.WaitGroup

	mu      sync.Mutex
	records map[int]pair.Record
	read    time.Duration // when the last read of them was begun
	quorum  bool
	unsure  map[int]uint64 // count of the read that has to follow
	reads   uint64         // reads that were begun
	busy    map[int]bool
	flushed map[int]bool
	tried   map[int]attempt
	said    map[int]string // what a lane was last sent to do
	seen    map[int]Status
	flows   map[int][]netip.AddrPort // of each group at the partner, when it last had the address
	live    map[int][]string         // volumes with a session there, at the same time
}

// attempt keeps a group from being tried again and again.
type attempt struct {
	until time.Duration
	pause time.Duration // after a failure
	same  string        // it went well: only the same again has to wait
}

// Status is how a group was at the last look.
type Status struct {
	Record   pair.Record
	Volumes  []pair.Volume
	Portal   bool
	Report   pair.Report   // of the partner
	Heard    time.Duration // since the partner said something; negative: never
	Obstacle string        // why this side could not take over, or go on
	Quorum   bool
}

// New makes a Runner. A Memory that cannot be read is as after a boot: safe.
func New(cfg Config) *Runner {
	r := &Runner{
		cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), mem: memory{path: cfg.Memory},
		records: map[int]pair.Record{}, unsure: map[int]uint64{}, busy: map[int]bool{}, flushed: map[int]bool{},
		tried: map[int]attempt{}, said: map[int]string{}, seen: map[int]Status{}, flows: map[int][]netip.AddrPort{}, live: map[int][]string{},
	}
	if err := r.mem.load(); err != nil {
		r.log.Warn("memory of the pair", "err", err)
	}
	return r
}

// Wake lets the loop look soon.
func (r *Runner) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run runs until ctx ends, and waits for the action that each lane is at.
func (r *Runner) Run(ctx context.Context) error {
	var reader sync.WaitGroup
	defer reader.Wait()
	defer r.lane.Wait()
	fresh := make(chan struct{}, 1)
	reader.Go(func() { r.reader(ctx, fresh) })
	tick := time.NewTicker(pair.HelloEvery)
	defer tick.Stop()
	for {
		r.round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.wake:
		case <-r.cfg.Wake:
		case <-fresh:
		case <-r.cfg.Line.Heard():
		}
	}
}

// reader reads the records now and then; it alone waits for a majority.
func (r *Runner) reader(ctx context.Context, fresh chan<- struct{}) {
	for ctx.Err() == nil {
		r.mu.Lock()
		r.reads++
		number, began := r.reads, r.cfg.Now()
		r.mu.Unlock()
		once, cancel := context.WithTimeout(ctx, lookFor)
		records, err := r.cfg.Grants.Read(once)
		cancel()
		r.mu.Lock()
		was := r.quorum
		if r.quorum = err == nil; r.quorum {
			r.read = began
			for g, rec := range records {
				if rec.Revision >= r.records[g].Revision {
					r.records[g] = rec
				}
			}
			maps.DeleteFunc(r.unsure, func(_ int, after uint64) bool { return number > after })
		}
		r.mu.Unlock()
		if was != (err == nil) && ctx.Err() == nil {
			if err != nil {
				r.log.Warn("no majority answers: groups stay as they are", "err", err)
			} else {
				r.log.Info("a majority answers")
			}
		}
		select {
		case fresh <- struct{}{}:
		default:
		}
		wait := time.NewTimer(readEvery)
		select {
		case <-ctx.Done():
		case <-r.cfg.Grants.Changed():
		case <-wait.C:
		}
		wait.Stop()
	}
}

// round looks, plans, tells the partner, and sends the lanes to work.
func (r *Runner) round(ctx context.Context) {
	asks := r.cfg.Desk.Last() // before the look: what comes later is of a later round
	once, cancel := context.WithTimeout(ctx, lookFor)
	volumes, err := r.cfg.Volumes.Look(once)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.log.Warn("look at the volumes", "err", err)
		return // and says nothing to the partner that is not known
	}
	v := r.view(volumes)
	actions := pair.Plan(v, &r.mem.Memory)
	if err := r.mem.save(); err != nil {
		r.log.Error("memory of the pair", "err", err)
		return // what is not remembered must not be done
	}
	r.tell(v)
	r.late(v, asks)
	for len(actions) > 0 {
		g, n := actions[0].Group, 1
		for n < len(actions) && actions[n].Group == g {
			n++
		}
		r.send(ctx, v, g, asks, slices.Clone(actions[:n]))
		actions = actions[n:]
	}
	r.clear(ctx, volumes)
}

// view is what the planner may look at.
func (r *Runner) view(volumes map[int][]pair.Volume) *pair.View {
	word, heard := r.cfg.Line.Last()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	v := &pair.View{
		Self: r.cfg.Self, Standing: pair.Member, Now: now,
		Votes:   pair.Votes{Voters: r.cfg.Voters(), Quorum: r.quorum, Read: r.read},
		Partner: pair.Partner{Heard: heard},
	}
	if r.cfg.Power.Partner != nil {
		v.Partner.Off, v.Partner.Fenceable = r.cfg.Power.Partner()
	}
	for n, f := range word.Flows { // a partner that gives the address up names none any more
		r.flows[n], r.live[n] = f, word.Live
	}
	for _, n := range r.cfg.Groups {
		vols := volumes[n]
		rec, known := r.records[n]
		if len(vols) == 0 || !known || rec.Revision == 0 {
			continue // nothing to serve, or not known by whom
		}
		for i := range vols {
			vols[i].Asking = r.cfg.Desk.Asking(r.cfg.Volumes.Resource(vols[i].ID))
			vols[i].Live = vols[i].Live || slices.Contains(word.Live, vols[i].ID) || slices.Contains(r.live[n], vols[i].ID)
			if vols[i].Conn.Up() {
				r.flushed[n] = false
			}
		}
		_, unsure := r.unsure[n]
		g := pair.Group{
			Number: n, Record: rec, Volumes: vols, Portal: r.cfg.Portals.Held(n), Unsure: unsure, Busy: r.busy[n],
			Report: word.Reports[n], Flushed: r.flushed[n], Healthy: true,
		}
		v.Groups = append(v.Groups, g)
	}
	return v
}

// late answers fence handlers whose volume is not frozen any more: it was thawed
// by hand before they came, so what they say changes nothing but the mark that
// the partner's leg is outdated.
func (r *Runner) late(v *pair.View, asks uint64) {
	for i := range v.Groups {
		g := &v.Groups[i]
		for j := range g.Volumes {
			if vol := &g.Volumes[j]; vol.Asking && !vol.Frozen && !g.Busy {
				r.cfg.Desk.Answer(r.cfg.Volumes.Resource(vol.ID), asks, g.Record.Survivor == v.Self)
			}
		}
	}
}

// tell says how this side is.
func (r *Runner) tell(v *pair.View) {
	w := Word{Side: r.cfg.Self, Reports: map[int]pair.Report{}, Flows: map[int][]netip.AddrPort{}}
	if r.cfg.Targets != nil {
		w.Targets = r.cfg.Targets()
	}
	_, heard := r.cfg.Line.Last()
	r.mu.Lock()
	seen := map[int]Status{}
	for i := range v.Groups {
		g := &v.Groups[i]
		w.Reports[g.Number] = r.mem.Report(v, g)
		for j := range g.Volumes {
			if vol := &g.Volumes[j]; vol.Primary && vol.Live {
				w.Live = append(w.Live, vol.ID)
			}
			if vol := &g.Volumes[j]; vol.Primary && vol.Exported && g.Portal {
				w.Served = append(w.Served, vol.ID)
			}
		}
		st := Status{Record: g.Record, Volumes: g.Volumes, Portal: g.Portal, Report: g.Report, Heard: -1,
			Quorum: v.Votes.Quorum, Obstacle: pair.Obstacle(v, &r.mem.Memory, g)}
		if heard >= 0 {
			st.Heard = v.Now - heard
		}
		seen[g.Number] = st
		if g.Portal {
			w.Flows[g.Number] = r.cfg.Portals.Flows(g.Number)
		}
	}
	r.seen = seen
	r.mu.Unlock()
	// The partner is told now and then, and at once what is new: whoever answered
	// each word with one would never end.
	if now := r.cfg.Now(); w.news(r.word) || now-r.spoke >= pair.HelloEvery*3/4 {
		r.word, r.spoke = w, now
		r.cfg.Line.Say(w)
	}
}

// clear takes the address of a group away that has no volumes any more.
func (r *Runner) clear(ctx context.Context, volumes map[int][]pair.Volume) {
	for _, n := range r.cfg.Groups {
		if len(volumes[n]) == 0 && r.cfg.Portals.Held(n) {
			if err := r.cfg.Portals.Remove(ctx, n); err != nil {
				r.log.Warn("portal address of an empty group", "group", n, "err", err)
			}
		}
	}
}

// Groups returns how each group was at the last look.
func (r *Runner) Groups() map[int]Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.seen)
}

// Records are the records as last read.
func (r *Runner) Records() map[int]pair.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.records)
}
