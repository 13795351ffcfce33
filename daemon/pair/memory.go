package pair

import "time"

// Memory is what Plan remembers between rounds. The zero value is right after
// a boot of the kernel; after a restart of the daemon alone the last one must
// be given back (it encodes as JSON). All of it is by the clock of View.Now.
type Memory struct {
	Groups map[int]*GroupMemory `json:"groups"`
	Fenced since                `json:"fenced"` // when the partner's power was last cut by this side
	Heard  since                `json:"heard"`  // when the partner was heard last; 0: never since the boot
}

// GroupMemory is a Memory's part for one group.
type GroupMemory struct {
	Intact bool `json:"intact"` // this copy has every acknowledged write, in memory or on disk
	Joined bool `json:"joined"` // all volumes have been connected since their legs came up
	Level  bool `json:"level"`  // both sides' legs were UpToDate, and no connection was lost since
	Owner  Side `json:"owner"`  // of the record, when it last changed

	Epoch uint64 `json:"epoch"` // of the record, when it last changed

	Moved    since `json:"moved"`    // the owner changed, as seen from here
	Apart    since `json:"apart"`    // no volume is connected
	Together since `json:"together"` // all volumes are in sync, both sides say so
	Frozen   since `json:"frozen"`   // a primary of ours is frozen
	PeerIce  since `json:"peerIce"`  // the partner says that it is frozen
	Idle     since `json:"idle"`     // nobody serves as far as known, and this copy could
	Tried    since `json:"tried"`    // the last planned move from here was begun
}

// since is the moment a condition became true; zero when it is not.
type since time.Duration

// note updates s: cond holds, or not, at now.
func (s *since) note(cond bool, now time.Duration) {
	switch {
	case !cond:
		*s = 0
	case *s == 0:
		*s = since(max(now, 1))
	}
}

// lasted says that the condition has held for d.
func (s since) lasted(d, now time.Duration) bool { return s != 0 && now-time.Duration(s) >= d }

// facts are what a round derives from one group.
type facts struct {
	primary   bool // any volume is primary
	frozen    bool // any primary volume is frozen
	missing   bool // any leg is not up
	linked    bool // any volume is connected
	allLinked bool // every volume is
	inSync    bool // every volume is connected, both legs UpToDate
	usable    bool // every leg is Consistent or better
	own       bool // every leg is UpToDate
	bad       bool // a leg that should be there is Diskless or Failed
	peerBad   bool // the partner's leg of a connected volume is worse than UpToDate
	peerGood  bool // all connected, the partner's legs are all UpToDate
	peerMain  bool // all connected, the partner is primary of every volume
	peerHas   bool // the partner is primary of a connected volume
	hopeless  bool // a primary volume reaches no leg with data
	adrift    bool // a primary volume is not connected
	stuck     bool // a local disk keeps a request
	behind    bool // every leg that is not UpToDate is Inconsistent: DRBD has compared it
	syncing   int  // volumes that resync
}

func digest(g *Group) facts {
	f := facts{allLinked: true, inSync: true, usable: true, own: true, peerGood: true, peerMain: true, behind: true}
	for i := range g.Volumes {
		v := &g.Volumes[i]
		up := v.Conn.Up()
		f.primary = f.primary || v.Primary
		f.frozen = f.frozen || v.Primary && v.Frozen
		f.missing = f.missing || v.Disk == Missing
		f.linked = f.linked || up
		f.allLinked = f.allLinked && up
		f.inSync = f.inSync && v.Conn == Connected && v.Disk == UpToDate && v.PeerDisk == UpToDate
		f.usable = f.usable && v.Disk >= Consistent
		f.own = f.own && v.Disk == UpToDate
		f.behind = f.behind && (v.Disk == UpToDate || v.Disk == Inconsistent)
		f.bad = f.bad || v.Disk == Diskless || v.Disk == Failed
		f.peerBad = f.peerBad || up && v.PeerDisk != UpToDate
		f.peerGood = f.peerGood && up && v.PeerDisk == UpToDate
		f.peerMain = f.peerMain && up && v.PeerRole == RolePrimary
		f.peerHas = f.peerHas || up && v.PeerRole == RolePrimary
		f.hopeless = f.hopeless || v.Primary && v.Disk != UpToDate && !(up && v.PeerDisk == UpToDate)
		f.adrift = f.adrift || v.Primary && !up
		f.stuck = f.stuck || v.Stuck >= stuckFor
		if v.Conn > Connected {
			f.syncing++
		}
	}
	return f
}

// observe brings the memory of one group up to date with what the View shows.
func (m *GroupMemory) observe(v *View, g *Group, f *facts, heard bool) {
	now := v.Now
	if fresh(v) && !g.Unsure && g.Record.Owner != m.Owner {
		m.Moved = since(max(now, 1)) // the first look counts: what was before it is not known
		m.Owner = g.Record.Owner
	}
	if g.Record.Epoch != m.Epoch { // whoever yielded may be about to drop its legs
		m.Epoch, m.Together = g.Record.Epoch, 0
	}
	if f.missing {
		m.Joined = false
	} else if f.allLinked {
		m.Joined = true
	}
	m.Level = f.allLinked && (m.Level || f.inSync)
	m.Apart.note(!f.linked, now)
	m.Together.note(f.inSync && heard && g.Report.InSync, now)
	m.Frozen.note(f.frozen, now)
	m.PeerIce.note(heard && g.Report.Primary && g.Report.Frozen, now)
	m.Idle.note(!f.primary && f.usable && !f.peerHas && !(heard && g.Report.Primary && !g.Report.Frozen), now)

	switch { // by induction: a primary got there with an intact copy, or with servers that were reset
	case f.primary && !f.bad:
		m.Intact = true
	case f.inSync && (f.peerMain || fresh(v) && !g.Unsure && g.Record.Clean || heard && g.Report.Intact && m.Together.lasted(settleFor, now)):
		m.Intact = true
	case !f.usable, g.Record.Survivor == v.Self.Other():
		m.Intact = false
	}
}

// fresh says that the records were read recently enough to decide by them.
func fresh(v *View) bool { return v.Votes.Quorum && v.Now-v.Votes.Read <= readFor }

// Report is what this side should tell its partner about g, a group of v.
func (m *Memory) Report(v *View, g *Group) Report {
	f := digest(g)
	gm := m.Groups[g.Number]
	return Report{
		Intact:  gm != nil && gm.Intact,
		Settled: f.primary || f.linked || g.Flushed,
		Primary: f.primary, Frozen: f.frozen, Usable: f.usable && !f.stuck,
		InSync: f.inSync && !f.stuck && g.Healthy, Leaving: v.Stopping,
	}
}
