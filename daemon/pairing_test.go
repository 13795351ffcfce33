package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/group"
	"baystream/daemon/mirror"
	"baystream/daemon/pair"
	"baystream/daemon/storage"
	"baystream/hw"
	"baystream/netcfg"
)

func TestPairRecordSides(t *testing.T) {
	for name, c := range map[string]struct {
		have          pairRecord
		self, partner string
		want          pairRecord
		old           string
		fails         bool
	}{
		"the first pair":            {pairRecord{}, "one", "two", pairRecord{A: "one", B: "two"}, "", false},
		"a new partner of A":        {pairRecord{A: "one", B: "two", Secret: "s"}, "one", "three", pairRecord{A: "one", B: "three", Secret: "s"}, "two", false},
		"a new partner of B":        {pairRecord{A: "one", B: "two"}, "two", "three", pairRecord{A: "three", B: "two"}, "one", false},
		"one that was never in it":  {pairRecord{A: "one", B: "two"}, "four", "five", pairRecord{}, "", true},
		"a place that became empty": {pairRecord{A: "one"}, "one", "two", pairRecord{A: "one", B: "two"}, "", false},
	} {
		got, old, err := c.have.with(c.self, c.partner)
		if (err != nil) != c.fails || err == nil && (got != c.want || old != c.old) {
			t.Errorf("%s: %+v, %q, %v, want %+v, %q", name, got, old, err, c.want, c.old)
		}
		if err == nil && (got.side(c.self) == pair.None || got.side(c.self) != got.side(c.partner).Other() || got.module(got.side(c.self)) != c.self) {
			t.Errorf("%s: sides of %+v do not fit", name, got)
		}
	}
	if s := (pairRecord{A: "one"}).side(""); s != pair.None {
		t.Errorf("the side of nobody is %v", s)
	}
}

// TestStatesOfAMirror holds that the planner sees DRBD's states as what they are.
func TestStatesOfAMirror(t *testing.T) {
	for in, want := range map[mirror.Connection]pair.Conn{
		mirror.StandAlone: pair.StandAlone, mirror.WFConnection: pair.Connecting, mirror.Connected: pair.Connected,
		mirror.SyncSource: pair.SyncSource, mirror.SyncTarget: pair.SyncTarget, 1: pair.Connecting,
		11: pair.SyncSource, 12: pair.SyncTarget, 13: pair.SyncSource, 14: pair.SyncTarget, 20: pair.SyncSource, 21: pair.SyncTarget, 18: pair.Connected,
	} {
		if got := connState(in); got != want {
			t.Errorf("connection %v is %v, want %v", in, got, want)
		}
	}
	for in, want := range map[mirror.Disk]pair.Disk{
		mirror.Diskless: pair.Diskless, mirror.Attaching: pair.Diskless, mirror.Failed: pair.Failed, mirror.Negotiating: pair.Inconsistent,
		mirror.Inconsistent: pair.Inconsistent, mirror.Outdated: pair.Outdated, mirror.DiskUnknown: pair.Unknown,
		mirror.Consistent: pair.Consistent, mirror.UpToDate: pair.UpToDate,
	} {
		if got := diskState(in); got != want {
			t.Errorf("disk %v is %v, want %v", in, got, want)
		}
	}
}

// TestViewOfAVolume holds what the planner is told of one volume.
func TestViewOfAVolume(t *testing.T) {
	access := storage.Access{InitiatorIQN: "iqn.2026-11.org.baystream.server:x", User: "u", Secret: "s", Portal: netip.MustParseAddrPort("198.51.100.8:3260")}
	other := access
	other.InitiatorIQN += "y"
	want := pairVolume{Volume: storage.Volume{ID: "v", UUID: 7, Group: 2}, Joined: true}
	good := storage.Leg{Volume: storage.Volume{ID: "v", UUID: 7}, Up: true,
		Mirror: mirror.State{Role: mirror.Primary, PeerRole: mirror.Secondary, Disk: mirror.UpToDate, PeerDisk: mirror.UpToDate, Connection: mirror.Connected}}
	p := &pairing{shown: map[string]storage.Access{}, stalls: map[string]stall{}}
	view := func(change func(v *pairVolume, l *storage.Leg)) pair.Volume {
		v, l := want, good
		change(&v, &l)
		return p.view(v, map[string]storage.Leg{"v": l})
	}
	if got := view(func(*pairVolume, *storage.Leg) {}); !got.Primary || got.Disk != pair.UpToDate || got.Conn != pair.Connected || !got.Exported || got.PeerRole != pair.RoleSecondary {
		t.Errorf("a good one that nobody may reach: %+v", got)
	}
	for name, change := range map[string]func(v *pairVolume, l *storage.Leg){
		"not up":              func(_ *pairVolume, l *storage.Leg) { l.Up = false },
		"a draft":             func(_ *pairVolume, l *storage.Leg) { l.Draft = true },
		"another incarnation": func(_ *pairVolume, l *storage.Leg) { l.UUID = 8 },
	} {
		if got := view(change); got.Disk != pair.Missing || got.Primary {
			t.Errorf("%s: %+v, want it missing", name, got)
		}
	}
	exported := func(v *pairVolume, l *storage.Leg) { v.Access, l.Exported = &access, true }
	if got := view(exported); !got.Exported {
		t.Error("a target that was found is made anew")
	}
	p.shown["v"] = other
	if got := view(exported); got.Exported {
		t.Error("a target for another server counts as made")
	}
	if got := view(func(v *pairVolume, _ *storage.Leg) { v.Access = &access }); got.Exported {
		t.Error("a volume without a target counts as exported")
	}
	keeps := func(_ *pairVolume, l *storage.Leg) { l.Waiting, l.Done = 1, 100 }
	view(keeps)
	if got := view(keeps); got.Stuck <= 0 {
		t.Error("a leg that keeps its request is not stuck")
	}
	if got := view(func(_ *pairVolume, l *storage.Leg) { l.Waiting, l.Done = 1, 101 }); got.Stuck != 0 {
		t.Errorf("a leg that works is stuck for %v", got.Stuck)
	}
}

func TestGroupPortals(t *testing.T) {
	depl, err := netcfg.ParseDeployment("vlan:1300,address:198.51.100.2/24,pool:198.51.100.100-198.51.100.199")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                            "",
		"198.51.100.8,198.51.100.9":   "198.51.100.8 198.51.100.9",
		"198.51.100.8":                "two addresses",
		"198.51.100.8,x":              "of IPv4",
		"198.51.100.8,203.0.113.1":    "outside",
		"198.51.100.8, 198.51.100.10": "198.51.100.8 198.51.100.10",
	} {
		d := &Daemon{inv: hw.Inventory{Settings: map[string]string{"portals": text}}, depl: depl}
		got, err := d.groupPortals()
		s := ""
		if err != nil {
			s = err.Error()
		} else if got != nil {
			s = got[1].String() + " " + got[2].String()
		}
		if want == "" && s != "" || !strings.Contains(s, want) {
			t.Errorf("portals %q: %q, want %q", text, s, want)
		}
	}
}

// TestFoundGroups holds what the first records say: what an appliance alone has,
// it alone has; and who takes the place of a partner that was removed.
func TestFoundGroups(t *testing.T) {
	node, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	r := &storageRole{d: &Daemon{log: slog.New(slog.DiscardHandler)}, pair: newPairState(cluster.NewStore(node.Client()))}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	record := func(n int) pair.Record {
		t.Helper()
		rec, revision, err := r.pair.grants.Read(ctx, group.Name(n))
		must(err)
		rec.Revision = revision
		return rec
	}
	must(r.pair.volumes.Put(ctx, "v", pairVolume{Volume: storage.Volume{ID: "v", Group: 1}, Joined: true}))
	must(r.foundGroups(ctx, pair.A, ""))
	if rec := record(1); rec.Survivor != pair.A || rec.Owner != pair.A || rec.Home != pair.A || rec.Clean {
		t.Errorf("group 1 of a founder with volumes: %+v", rec)
	}
	if rec := record(2); rec.Survivor != pair.None || rec.Owner != pair.B || rec.Home != pair.B || !rec.Clean {
		t.Errorf("group 2, empty: %+v", rec)
	}
	before := record(1)
	must(r.foundGroups(ctx, pair.A, "")) // again
	if record(1) != before {
		t.Error("a repeat changed a record")
	}

	// The partner is replaced while this side has everything.
	must(r.foundGroups(ctx, pair.A, "old"))
	held := record(1)
	if held.Revision == before.Revision {
		t.Error("a clearing under way would still be believed")
	}
	if held.Revision = before.Revision; held != before {
		t.Errorf("the holder's record: %+v, before %+v", held, before)
	}
	before.Revision = record(1).Revision
	// Both had it: this side goes on, with a new epoch.
	cleared, err := before.Clear(pair.A)
	must(err)
	_, err = r.pair.grants.Swap(ctx, "1", before.Revision, cleared)
	must(err)
	must(r.foundGroups(ctx, pair.A, "old"))
	if rec := record(1); rec.Survivor != pair.A || rec.Epoch != before.Epoch+1 {
		t.Errorf("after a partner in sync was replaced: %+v", rec)
	}
	// The one that was removed has the newest data.
	now := record(1)
	_, err = r.pair.grants.Swap(ctx, "1", now.Revision, pair.Record{Epoch: 9, Survivor: pair.B, Owner: pair.B, Home: pair.A})
	must(err)
	if err := r.foundGroups(ctx, pair.A, "old"); err == nil || !strings.Contains(err.Error(), "newest data") {
		t.Errorf("replacing the holder of the newest data: %v, want that it is refused", err)
	}
}

func TestDiskIDIsTheDisksOwn(t *testing.T) {
	dir := t.TempDir()
	id, err := diskID(dir)
	if err != nil || !domain.ValidUUID(id) {
		t.Fatalf("diskID = %q, %v", id, err)
	}
	if again, err := diskID(dir); err != nil || again != id {
		t.Errorf("diskID again = %q, %v, want %q", again, err, id)
	}
	if err := os.WriteFile(filepath.Join(dir, "disk-id"), []byte("gibberish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if other, err := diskID(dir); err == nil || !strings.Contains(err.Error(), "disk-id") {
		t.Errorf("diskID from gibberish = %q, %v, want that it is refused", other, err)
	}
}
