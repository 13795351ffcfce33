package sim

import (
	"baystream/daemon/pair"
)

// vol is one DRBD resource on one appliance, with its leg.
type vol struct {
	w    *World
	n    *node
	g, i int

	// On the disk. cur is what reads give, stable what survives a power cut.
	cur, stable [blocks]uint32
	uuid        [4]uint64 // current, bitmap, history
	consistent  bool
	upToDate    bool // was UpToDate
	primaryInd  bool // is primary, or was when it crashed
	peerOut     bool // the partner's leg is outdated
	bitmap      uint32
	hot         uint32 // activity log

	// In the kernel.
	up         bool
	primary    bool
	disk       pair.Disk
	conn       pair.Conn
	session    int // of the connection, the same on both sides
	peerDisk   pair.Disk
	peerRole   pair.PeerRole
	exposed    uint64 // current UUID of the data that a primary without a leg shows
	frozen     bool
	asking     bool
	ask        int    // number of the fence handler's call
	crashed    bool   // primaryInd at attach
	virgin     bool   // not connected since the leg was attached
	newUUIDDue bool   // frozen: a new current UUID when it thaws alone
	unflushed  uint32 // acknowledged by the partner, which has not flushed it
	resynced   uint32 // as SyncTarget, not flushed
	pending    []*request
	exported   bool
	syncGen    int
}

// request is one write on its way.
type request struct {
	block         int
	version       uint32
	local, remote bool
	done          func(ok bool)
}

func bit(b int) uint32 { return 1 << b }

const allBits = 1<<blocks - 1

func (v *vol) peer() *vol { return v.w.nodes[v.n.side.Other()].vols[v.g][v.i] }

// linked says that both ends still hold the same connection; it may be cut
// without either having noticed.
func (v *vol) linked() bool {
	p := v.peer()
	return v.conn.Up() && p.conn.Up() && p.session == v.session
}

func (v *vol) trace(format string, args ...any) {
	if v.w.cfg.Trace != nil {
		v.w.trace("%v v%d.%d "+format, append([]any{v.n.side, v.g + 1, v.i + 1}, args...)...)
	}
}

// setDisk changes the state of the leg and its flags on the disk.
func (v *vol) setDisk(d pair.Disk) {
	v.disk = d
	if d >= pair.Inconsistent {
		v.consistent = d > pair.Inconsistent
		v.upToDate = d == pair.UpToDate || d == pair.Consistent && v.upToDate
	}
	v.tell()
}

// tell lets the partner's kernel know this side's state.
func (v *vol) tell() {
	if !v.linked() || !v.w.net.open(mirrorNet, v.n.side, v.n.side.Other()) {
		return
	}
	p := v.peer()
	was := p.peerDisk
	p.peerDisk = v.disk
	p.peerRole = pair.RoleSecondary
	if v.primary {
		p.peerRole = pair.RolePrimary
	}
	if was >= pair.Inconsistent && v.disk < pair.Inconsistent {
		p.lostPeerLeg()
	}
}

// lostPeerLeg: the partner's leg is gone while the connection is there.
func (v *vol) lostPeerLeg() {
	if v.disk == pair.UpToDate && (v.primary || v.peerRole == pair.RolePrimary) && v.uuid[1] == 0 {
		v.bumpUUID()
	}
	v.stopSync()
	v.bitmap |= v.unflushed
	for _, r := range v.pending {
		v.bitmap |= bit(r.block)
		r.remote = true
	}
	v.noData()
	v.finish()
}

func (v *vol) bumpUUID() {
	if v.uuid[1] == 0 {
		v.uuid[1] = v.uuid[0]
	} else {
		v.uuid[3], v.uuid[2] = v.uuid[2], v.uuid[0]
	}
	v.uuid[0] = v.w.newUUID()
	v.stable = v.cur // it goes to stable storage at once, with what was written before
	if v.linked() {
		v.peer().exposed = v.uuid[0]
	}
	v.trace("new current UUID %#x, bitmap %#x", v.uuid[0], v.uuid[1])
}

// noData freezes a primary that reaches no leg with data (on-no-data-accessible
// suspend-io).
func (v *vol) noData() {
	if v.primary && v.disk != pair.UpToDate && !(v.conn.Up() && v.peerDisk == pair.UpToDate) {
		v.frozen = true
	}
}

// bringUp applies the activity log and attaches.
func (v *vol) bringUp(disown bool) bool {
	if v.disk > pair.Failed || v.n.diskBad {
		return false
	}
	if disown {
		v.consistent = false
	}
	v.up, v.virgin = true, true
	v.bitmap |= v.hot
	v.hot, v.stable = 0, v.cur // applying the log flushes
	v.crashed = v.primaryInd
	v.primaryInd = false
	switch {
	case !v.consistent:
		v.disk = pair.Inconsistent
	case !v.upToDate:
		v.disk = pair.Outdated
	case v.peerOut:
		v.disk = pair.UpToDate
	default:
		v.disk = pair.Consistent
	}
	v.trace("attached %d, crashed %v", v.disk, v.crashed)
	return true
}

// takeDown ends the resource; refused while primary.
func (v *vol) takeDown() bool {
	if v.primary {
		return false
	}
	v.leave(pair.StandAlone)
	if v.disk > pair.Failed {
		v.stable = v.cur
		v.hot = 0
	}
	if v.crashed {
		v.primaryInd = true // still nobody's: the flag outlives an attach without a partner
	}
	v.up, v.disk, v.frozen, v.asking, v.exported = false, pair.Missing, false, false, false
	return true
}

// detach drops the leg without waiting.
func (v *vol) detach() {
	if v.disk <= pair.Failed {
		return
	}
	v.trace("detached")
	v.stopSync()
	v.disk, v.exposed = pair.Diskless, v.uuid[0]
	v.tell()
	v.noData()
	for _, r := range v.pending {
		r.local = true
	}
	if !v.frozen {
		v.finish()
	}
}

// promote makes it primary; alone says that the fence handler would be
// answered with "won".
func (v *vol) promote(alone bool) bool {
	if v.primary {
		return true
	}
	if v.conn.Up() {
		if !v.linked() || !v.w.net.both(mirrorNet, v.n.side, v.n.side.Other()) || v.peer().primary {
			return false
		}
		if v.disk != pair.UpToDate && v.peerDisk != pair.UpToDate {
			return false
		}
		v.primary, v.primaryInd = true, v.disk > pair.Failed
		if v.disk <= pair.Failed {
			v.exposed = v.peer().uuid[0]
		}
		v.trace("primary, connected")
		v.tell()
		return true
	}
	if !alone || v.disk != pair.UpToDate && v.disk != pair.Consistent {
		return false
	}
	v.primary, v.primaryInd, v.frozen, v.asking = true, true, false, false
	v.bitmap |= v.unflushed
	v.unflushed = 0
	v.peerOut = true
	v.setDisk(pair.UpToDate)
	v.bumpUUID()
	v.trace("primary, alone")
	return true
}

// demote flushes both legs and becomes secondary.
func (v *vol) demote() bool {
	if !v.primary {
		return true
	}
	if v.frozen || v.exported || len(v.pending) > 0 {
		return false
	}
	if v.conn.Up() {
		if !v.linked() || !v.w.net.both(mirrorNet, v.n.side, v.n.side.Other()) {
			return false
		}
		v.peer().stable = v.peer().cur
		v.unflushed = 0
	}
	if v.disk > pair.Failed {
		v.stable = v.cur
	}
	v.primary, v.primaryInd = false, v.disk <= pair.Failed && v.primaryInd
	v.trace("secondary")
	v.tell()
	return true
}

// callHandler: the fence handler runs, and waits for the daemon.
func (v *vol) callHandler() {
	v.ask++
	v.asking = true
	v.trace("frozen, asks")
}

// goneAlone notes what the partner will lack.
func (v *vol) goneAlone() {
	v.bitmap |= v.unflushed
	v.unflushed = 0
	for _, r := range v.pending {
		v.bitmap |= bit(r.block)
		r.remote = true
	}
	if v.newUUIDDue {
		v.bumpUUID()
		v.newUUIDDue = false
	}
}

// thaw lets I/O go on: alone, or with the partner back.
func (v *vol) thaw() {
	if !v.frozen {
		return
	}
	v.trace("thawed")
	v.frozen, v.asking = false, false
	if v.conn.Up() {
		v.newUUIDDue = false
	}
	again := v.pending
	v.pending = nil
	for _, r := range again {
		v.submit(r)
	}
}

// answer is what the fence handler returned.
func (v *vol) answer(won bool) {
	if !v.asking {
		return
	}
	v.asking = false
	if won && !v.conn.Up() && v.disk == pair.UpToDate {
		v.peerOut = true
		v.goneAlone()
		v.thaw()
	}
}

// resume is drbdsetup resume-io.
func (v *vol) resume() bool {
	if !v.frozen {
		return true
	}
	if v.disk == pair.UpToDate {
		if !v.conn.Up() {
			v.peerOut = true
			v.goneAlone()
		}
		v.thaw()
		return true
	}
	v.trace("frozen I/O ends in errors")
	v.frozen, v.asking = false, false
	failed := v.pending
	v.pending = nil
	for _, r := range failed {
		r.done(false)
	}
	return true
}

// read gives the content of a block, from whichever leg has it.
func (v *vol) read(block int) (version uint32, ok bool) {
	switch {
	case v.frozen || !v.primary:
	case v.disk == pair.UpToDate && !v.n.diskStuck:
		return v.cur[block], true
	case v.alive() && v.peerDisk == pair.UpToDate && !v.peer().n.diskStuck:
		return v.peer().cur[block], true
	}
	return 0, false
}

// writer says that this appliance can complete a write of the volume.
func (v *vol) writer() bool {
	switch {
	case !v.primary || v.frozen || v.n.paused || !v.n.up:
		return false
	case v.conn.Up() && v.peerDisk >= pair.Inconsistent:
		return v.alive()
	}
	return v.disk == pair.UpToDate
}

// powerCut is what the leg looks like after the module died: of each block
// that was not flushed either the old or the new content is there.
func (v *vol) powerCut(volatile bool) {
	if volatile {
		for b := range blocks {
			if v.cur[b] != v.stable[b] {
				if v.w.chance(50) {
					v.cur[b] = v.stable[b]
				}
			}
		}
		v.bitmap |= v.resynced
	}
	v.stable = v.cur
	if v.crashed {
		v.primaryInd = true
	}
	fresh := vol{
		w: v.w, n: v.n, g: v.g, i: v.i, cur: v.cur, stable: v.stable, uuid: v.uuid, consistent: v.consistent,
		upToDate: v.upToDate, primaryInd: v.primaryInd, peerOut: v.peerOut, bitmap: v.bitmap, hot: v.hot,
		ask: v.ask, syncGen: v.syncGen + 1,
	}
	*v = fresh
}
