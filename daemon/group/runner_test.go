package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/group/fence"
	"baystream/daemon/pair"
)

// rig is a domain state, one appliance (B) and a partner that the test plays.
type rig struct {
	t     *testing.T
	start time.Time
	wake  chan struct{}
	desk  *fence.Desk

	mu       sync.Mutex
	done     []string // what was done, in order
	fail     map[pair.Op]error
	volumes  map[string]*pair.Volume
	portal   bool
	records  map[int]pair.Record
	revision int64
	unknown  bool // a swap takes effect and says that nobody knows
	deaf     bool // no majority
	word     Word
	heard    time.Duration
	said     Word
	tickled  []netip.AddrPort
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, start: time.Now(), wake: make(chan struct{}, 1), fail: map[pair.Op]error{}, heard: -1, revision: 1,
		volumes: map[string]*pair.Volume{}, records: map[int]pair.Record{1: {Owner: pair.A, Home: pair.A, Revision: 1}}}
	for _, id := range []string{"v1", "v2"} {
		r.volumes[id] = &pair.Volume{ID: id, Disk: pair.UpToDate, PeerDisk: pair.UpToDate, PeerRole: pair.RolePrimary, Conn: pair.Connected}
	}
	return r
}

func (r *rig) run(path string) (runner *Runner, stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.desk = fence.NewDesk(func() { wakeUp(r.wake) })
	runner = New(Config{Self: pair.B, Groups: []int{1, 2}, Grants: r, Volumes: r, Portals: r, Line: r, Desk: r.desk,
		Voters: func() int { return 3 }, Wake: r.wake, Now: r.now, Memory: path, Log: slog.New(slog.DiscardHandler)})
	ended := make(chan struct{})
	go func() {
		_ = runner.Run(ctx)
		close(ended)
	}()
	return runner, func() { cancel(); <-ended }
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (r *rig) now() time.Duration { return time.Since(r.start) + time.Second }

// with changes what is, and lets the runner see it.
func (r *rig) with(f func()) {
	r.mu.Lock()
	f()
	r.mu.Unlock()
	wakeUp(r.wake)
}

func (r *rig) note(format string, args ...any) { r.done = append(r.done, fmt.Sprintf(format, args...)) }

// happened returns what was done since it was asked last.
func (r *rig) happened() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.done
	r.done = nil
	return d
}

// partner lets the partner speak four times a second until stop.
func (r *rig) partner(report pair.Report) (stop func()) {
	end := make(chan struct{})
	go func() {
		for {
			r.with(func() {
				r.word, r.heard = Word{Side: pair.A, Reports: map[int]pair.Report{1: report}, Live: []string{"v2"}}, r.now()
			})
			select {
			case <-end:
				return
			case <-time.After(pair.HelloEvery):
			}
		}
	}()
	return func() { close(end) }
}

// Volumes.
func (r *rig) Look(context.Context) (map[int][]pair.Volume, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []pair.Volume
	for _, id := range slices.Sorted(maps.Keys(r.volumes)) {
		out = append(out, *r.volumes[id])
	}
	return map[int][]pair.Volume{1: out}, nil
}

func (r *rig) Resource(id string) string { return "r-" + id }

func (r *rig) Do(ctx context.Context, a pair.Action) error {
	if a.Op == pair.Promote && a.Alone { // the kernel asks, and waits
		if won, ok := r.desk.Wait(ctx, r.Resource(a.Volume), nil); !won || !ok {
			return errors.New("the fence handler said lost")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fail[a.Op]; err != nil {
		return err
	}
	r.note("%v %s", a.Op, a.Volume)
	v := r.volumes[a.Volume]
	switch a.Op {
	case pair.Promote:
		v.Primary = true
	case pair.Demote:
		v.Primary = false
	case pair.Export:
		v.Exported = true
	case pair.Unexport:
		v.Exported = false
	case pair.ForceDisconnect:
		v.Conn = pair.StandAlone
	case pair.Connect:
		v.Conn = pair.Connecting
	case pair.DetachForce:
		v.Disk = pair.Diskless
	case pair.ResumeIO:
		v.Frozen = false
	case pair.TakeDown:
		v.Disk, v.Conn = pair.Missing, pair.StandAlone
	case pair.BringUp:
		v.Disk = pair.Consistent
		if a.Disown {
			v.Disk = pair.Inconsistent
		}
	}
	return nil
}

// Portals.
func (r *rig) Held(group int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.portal && group == 1
}
func (r *rig) Add(context.Context, int) error {
	r.with(func() { r.portal = true; r.note("AddPortal") })
	return nil
}
func (r *rig) Remove(context.Context, int) error {
	r.with(func() { r.portal = false; r.note("RemovePortal") })
	return nil
}
func (r *rig) Announce(context.Context, int) error { return nil }
func (r *rig) Tickle(_ context.Context, _ int, to []netip.AddrPort) error {
	r.with(func() { r.note("Tickle"); r.tickled = to })
	return nil
}
func (r *rig) Flows(int) []netip.AddrPort { return nil }

// Grants.
func (r *rig) Read(context.Context) (map[int]pair.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf {
		return nil, errors.New("no majority")
	}
	return maps.Clone(r.records), nil
}

func (r *rig) Swap(_ context.Context, group int, rec pair.Record) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf {
		return 0, errors.New("no majority")
	}
	if r.records[group].Revision != rec.Revision {
		return 0, errors.New("another was faster")
	}
	r.revision++
	rec.Revision = r.revision
	r.records[group] = rec
	r.note("record: survivor %v owner %v", rec.Survivor, rec.Owner)
	if r.unknown {
		r.unknown = false
		return 0, errors.New("nobody knows")
	}
	return r.revision, nil
}

func (r *rig) Changed() <-chan struct{} { return nil }

// Line.
func (r *rig) Say(w Word) { r.mu.Lock(); defer r.mu.Unlock(); r.said = w }
func (r *rig) Last() (Word, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.word, r.heard
}
func (r *rig) Heard() <-chan struct{} { return nil }

// serving is the partner that serves, in sync.
var serving = pair.Report{Intact: true, Settled: true, Primary: true, Usable: true, InSync: true}

// dies ends the partner: its words, and a moment later its mirrors.
func (r *rig) dies(stop func()) {
	stop()
	time.Sleep(time.Second)
	r.with(func() {
		for _, v := range r.volumes {
			v.Conn, v.PeerDisk, v.PeerRole = pair.Connecting, pair.Unknown, pair.RoleUnknown
		}
	})
}

func TestTakesOverFromADeadPartner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.partner(serving)
		_, end := r.run("")
		defer end()
		time.Sleep(2 * time.Minute) // nothing moves soon after a move, and the first look counts as one
		if got := r.happened(); got != nil {
			t.Errorf("beside a partner that serves it did %v", got)
		}
		r.dies(stop)
		time.Sleep(pair.SilentAfter + time.Second)
		got := r.happened()
		want := []string{"Flush v1", "Flush v2", "record: survivor B owner B", "Promote v2", "Export v2", "AddPortal", "Tickle", "Promote v1", "Export v1"}
		slices.Sort(got[:min(4, len(got))]) // what runs side by side
		var disconnects []string
		got = slices.DeleteFunc(got, func(s string) bool {
			if s == "ForceDisconnect v1" || s == "ForceDisconnect v2" {
				disconnects = append(disconnects, s)
				return true
			}
			return s == "Connect v1" || s == "Connect v2"
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("takeover (-want +got):\n%s", diff)
		}
	})
}

// TestPlannedMoveKnowsTheOldFlows: whoever gives a group up removes its address
// first, and names no flow and no session from then on.
func TestPlannedMoveKnowsTheOldFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		flow := netip.MustParseAddrPort("198.51.100.100:40000")
		say := func(w Word) {
			w.Side = pair.A
			r.with(func() { r.word, r.heard = w, r.now() })
			time.Sleep(pair.HelloEvery)
		}
		say(Word{Reports: map[int]pair.Report{1: serving}, Live: []string{"v2"}, Flows: map[int][]netip.AddrPort{1: {flow}}})
		_, end := r.run("")
		defer end()
		for range 8 {
			say(Word{Reports: map[int]pair.Report{1: serving}, Live: []string{"v2"}, Flows: map[int][]netip.AddrPort{1: {flow}}})
		}
		gaveUp := pair.Report{Intact: true, Settled: true, Usable: true, InSync: true}
		say(Word{Reports: map[int]pair.Report{1: gaveUp}})
		r.with(func() {
			for _, v := range r.volumes {
				v.PeerRole = pair.RoleSecondary
			}
			r.revision++
			r.records[1] = pair.Record{Owner: pair.B, Home: pair.A, Pin: pair.B, Revision: r.revision}
		})
		r.happened()
		for range 8 {
			say(Word{Reports: map[int]pair.Report{1: gaveUp}})
		}
		got := r.happened()
		want := []string{"Promote v2", "Export v2", "AddPortal", "Tickle", "Promote v1", "Export v1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the live volume comes first (-want +got):\n%s", diff)
		}
		if !slices.Equal(r.tickled, []netip.AddrPort{flow}) {
			t.Errorf("tickled %v, want the flow that the partner had", r.tickled)
		}
	})
}

func TestNothingRestsOnAnUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.partner(serving)
		_, end := r.run("")
		defer end()
		time.Sleep(2 * time.Minute)
		r.with(func() { r.unknown = true })
		r.dies(stop)
		time.Sleep(pair.SilentAfter + 10*time.Second)
		wins, promoted := 0, -1
		for i, s := range r.happened() {
			switch {
			case s == "record: survivor B owner B":
				wins++
			case s == "Promote v1" && promoted < 0:
				promoted = i
				if wins < 2 {
					t.Error("promoted on a grant whose outcome nobody knew")
				}
			}
		}
		if promoted < 0 {
			t.Error("never promoted, though the records could be read again")
		}
	})
}

func TestNoMajorityNoTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.partner(serving)
		_, end := r.run("")
		defer end()
		time.Sleep(2 * time.Minute)
		r.with(func() { r.deaf = true })
		r.dies(stop)
		time.Sleep(2 * time.Minute)
		for _, s := range r.happened() {
			if s[:4] == "Prom" || s == "AddPortal" {
				t.Fatalf("without a majority: %s", s)
			}
		}
	})
}

// TestFrozenOwnerIsAnswered: a primary that loses its partner thaws with the
// grant, and asks that came after the look stay for the next round.
func TestFrozenOwnerIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.with(func() {
			r.records[1] = pair.Record{Owner: pair.B, Home: pair.B, Revision: 1}
			r.portal = true
			for _, v := range r.volumes {
				v.Primary, v.Exported, v.PeerRole = true, true, pair.RoleSecondary
			}
		})
		_, end := r.run("")
		defer end()
		time.Sleep(3 * time.Second)
		won := make(chan bool, 2)
		for _, id := range []string{"v1", "v2"} {
			go func() {
				w, _ := r.desk.Wait(t.Context(), r.Resource(id), nil)
				r.with(func() { r.volumes[id].Frozen = !w })
				won <- w
			}()
		}
		r.with(func() {
			for _, v := range r.volumes {
				v.Conn, v.PeerDisk, v.PeerRole, v.Frozen = pair.Connecting, pair.Unknown, pair.RoleUnknown, true
			}
		})
		a, b := <-won, <-won
		if !a || !b {
			t.Error("lost against nobody")
		}
		if got := r.happened(); len(got) == 0 || got[0] != "record: survivor B owner B" {
			t.Errorf("did %v, want the grant first", got)
		}
	})
}

// TestLoserGetsClean: the partner has the grant; what hangs must not hold the
// other volumes up, and the address goes before anything else.
func TestLoserGetsClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.with(func() {
			r.records[1] = pair.Record{Epoch: 3, Survivor: pair.A, Owner: pair.A, Home: pair.A, Revision: 1}
			r.portal = true
			for _, v := range r.volumes {
				v.Primary, v.Exported, v.Frozen, v.Conn, v.PeerRole = true, true, true, pair.Connecting, pair.RoleUnknown
			}
		})
		_, end := r.run("")
		defer end()
		time.Sleep(5 * time.Second)
		rows := map[string][]string{}
		for _, s := range r.happened() {
			var op, id string
			if n, _ := fmt.Sscan(s, &op, &id); n == 1 {
				id = ""
			}
			rows[id] = append(rows[id], op)
		}
		want := []string{"DetachForce", "ResumeIO", "Unexport", "Demote", "TakeDown"}
		for _, id := range []string{"v1", "v2"} {
			if got := rows[id]; len(got) < 5 || !slices.Equal(got[:5], want) {
				t.Errorf("%s: %v, want %v first", id, got, want)
			}
		}
		if got := rows[""]; len(got) == 0 || got[0] != "RemovePortal" {
			t.Errorf("the address: %v", got)
		}
	})
}

func TestMemoryOutlivesTheDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "pair.json")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.partner(serving)
		defer stop()
		_, end := r.run(path)
		time.Sleep(5 * time.Second)
		end()
		again, end := r.run(path)
		defer end()
		if g := again.mem.Groups[1]; g == nil || !g.Intact {
			t.Errorf("memory %+v, want an intact copy", g)
		}
	})
}
