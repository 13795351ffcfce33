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

// connect looks for the partner.
func (v *vol) connect() bool {
	if !v.up {
		return false
	}
	if v.conn == pair.StandAlone {
		v.conn = pair.Connecting
		v.tryConnect()
	}
	return true
}

// tryConnect makes both kernels meet soon, when both look for each other.
func (v *vol) tryConnect() {
	if v.conn == pair.Connecting && v.peer().conn == pair.Connecting {
		v.w.after(v.w.between(10*ms, 1000*ms), func() { v.handshake() })
	}
}

// handshake joins the two ends: roles, then UUIDs, then the bitmap.
func (v *vol) handshake() {
	p, w := v.peer(), v.w
	if v.conn != pair.Connecting || p.conn != pair.Connecting || !w.reach(mirrorNet, v.n.side, p.n.side) {
		return
	}
	if v.primary && p.primary {
		v.trace("handshake: both are primary, refused")
		for _, x := range []*vol{v, p} {
			if x.frozen {
				x.conn = pair.StandAlone
				x.n.wake()
			}
		}
		return
	}
	for _, x := range []*vol{v, p} { // can only connect to data with the current UUID
		if x.primary && x.disk <= pair.Failed && x.peer().disk > pair.Failed && x.exposed != x.peer().uuid[0] {
			x.trace("handshake: the partner's data is not what was shown here")
			x.conn = pair.StandAlone
			x.n.wake()
			return
		}
	}
	hg := 0
	if v.disk > pair.Failed && p.disk > pair.Failed {
		hg = compare(v, p)
		if hg == unrelated || hg == splitBrain {
			w.fail("split brain: v%d.%d: UUIDs %#x and %#x", v.g+1, v.i+1, v.uuid, p.uuid)
			return
		}
		if (v.disk == pair.Inconsistent) != (p.disk == pair.Inconsistent) {
			full := hg == 2 || hg == -2
			hg = 1
			if v.disk == pair.Inconsistent {
				hg = -1
			}
			if full {
				hg *= 2
			}
		}
		target := v
		if hg > 0 {
			target = p
		}
		if hg != 0 && target.primary && target.disk >= pair.Consistent {
			target.trace("handshake: shall be target but is primary, refused")
			target.conn = pair.StandAlone
			target.n.wake()
			return
		}
	}
	for _, x := range []*vol{v, p} { // can not thaw with an only Consistent partner: what it acknowledged may be lost there
		if y := x.peer(); x.primary && x.frozen && x.disk == pair.UpToDate && y.disk == pair.Consistent && x.newUUIDDue && hg == 0 {
			x.trace("handshake: the partner was rebooted")
			x.goneAlone()
			if w.cfg.Seed%2 == 0 { // what the kernel does here depends on its version; both have to be survived
				x.thaw()
			}
			w.after(w.between(100*ms, 1000*ms), x.handshake)
			return
		}
	}
	for _, x := range []*vol{v, p} { // frozen writes go out anew, those it had acknowledged count as flushed there
		if x.primary && x.frozen && x.peer().virgin {
			x.unflushed = 0
		}
	}
	w.seq++
	for _, x := range []*vol{v, p} {
		x.session, x.conn, x.virgin = int(w.seq), pair.Connected, false
		x.crashed = x.crashed && (v.disk <= pair.Failed || p.disk <= pair.Failed) // until both are known to be the same
		x.peerDisk, x.peerRole = x.peer().disk, pair.RoleSecondary
		if x.peer().primary {
			x.peerRole = pair.RolePrimary
		}
	}
	v.trace("connected, hg %d", hg)
	switch {
	case v.disk <= pair.Failed || p.disk <= pair.Failed || hg == 0:
		for _, x := range []*vol{v, p} {
			if x.disk == pair.Consistent || x.disk == pair.Outdated {
				x.setDisk(pair.UpToDate)
			} else {
				x.tell()
			}
		}
	case hg > 0:
		v.startSync(p, hg == 2)
	default:
		p.startSync(v, hg == -2)
	}
	for _, x := range []*vol{v, p} {
		if x.disk > pair.Failed {
			x.peerOut = false
		}
		if x.frozen && x.primary && (x.disk == pair.UpToDate || x.peerDisk == pair.UpToDate) {
			x.thaw()
		}
		x.n.wake()
	}
}

const (
	splitBrain = 100
	unrelated  = 1000
)

// compare is DRBD's drbd_uuid_compare as far as a pair needs it: positive when
// v has the newer data, 2 when the bitmap does not tell the difference.
func compare(v, p *vol) int {
	self, peer := &v.uuid, &p.uuid
	switch {
	case self[0] == peer[0]:
		switch { // 34, 35: a resync ended and only one side noted it
		case self[1] == 0 && peer[1] != 0 && p.bitmap == 0, self[1] != 0 && peer[1] == 0 && v.bitmap == 0:
			self[1], peer[1] = 0, 0
			return 0
		}
		switch { // 40, 41
		case !v.crashed && !p.crashed:
			return 0
		case v.primary:
			return 1
		case p.primary:
			return -1
		case v.crashed && !p.crashed:
			return 1
		case p.crashed && !v.crashed:
			return -1
		case v.n.side == pair.A:
			return 1
		}
		return -1
	case self[0] == peer[1]: // 50
		return -1
	case self[0] == peer[2] || self[0] == peer[3]: // 60
		return -2
	case self[1] != 0 && self[1] == peer[0]: // 70
		return 1
	case self[2] == peer[0] || self[3] == peer[0]: // 80
		return 2
	case self[1] != 0 && self[1] == peer[1]: // 90
		return splitBrain
	}
	return unrelated
}

// startSync makes v the source of t.
func (v *vol) startSync(t *vol, full bool) {
	bits := v.bitmap | t.bitmap
	if full {
		bits = allBits
	}
	v.bitmap, t.bitmap = bits, bits
	if v.uuid[1] == 0 || full {
		v.uuid[1] = v.w.newUUID()
	}
	t.uuid = [4]uint64{v.uuid[1], 0, t.uuid[0], t.uuid[2]}
	v.conn, t.conn = pair.SyncSource, pair.SyncTarget
	t.peerOut = false
	if v.disk == pair.Consistent || v.disk == pair.Outdated {
		v.setDisk(pair.UpToDate)
	}
	t.setDisk(pair.Inconsistent)
	v.tell()
	v.w.stats.Resyncs++
	v.trace("resync %06b", bits)
	t.syncGen++
	t.syncNext(t.syncGen)
}

// syncNext copies one block and goes on.
func (v *vol) syncNext(gen int) {
	v.w.after(v.w.between(50*ms, 400*ms), func() {
		s := v.peer()
		if gen != v.syncGen || v.conn != pair.SyncTarget || !v.linked() {
			return
		}
		if !v.w.reach(mirrorNet, v.n.side, s.n.side) || v.n.diskStuck || s.n.diskStuck {
			v.syncNext(gen)
			return
		}
		if len(s.pending) > 0 { // resync and writes keep out of each other's extents
			v.syncNext(gen)
			return
		}
		for b := range blocks {
			if v.bitmap&bit(b) != 0 {
				v.cur[b] = s.cur[b]
				v.resynced |= bit(b)
				v.bitmap &^= bit(b)
				s.bitmap &^= bit(b)
				v.syncNext(gen)
				return
			}
		}
		// Both write their metadata now, which flushes the leg that it lies on.
		v.stable, v.resynced, v.hot = v.cur, 0, 0
		s.stable, s.resynced = s.cur, 0
		s.uuid[3], s.uuid[2], s.uuid[1] = s.uuid[2], s.uuid[1], 0
		v.uuid = s.uuid
		v.conn, s.conn = pair.Connected, pair.Connected
		v.setDisk(pair.UpToDate)
		v.trace("resync done")
		v.n.wake()
		s.n.wake()
	})
}

// stopSync ends a resync on both sides, the target stays Inconsistent.
func (v *vol) stopSync() {
	if v.conn > pair.Connected {
		p := v.peer()
		if v.linked() {
			p.conn, p.syncGen = pair.Connected, p.syncGen+1
		}
		v.conn, v.syncGen = pair.Connected, v.syncGen+1
	}
}

// leave ends this side's connection; the other side hears of it when the
// network lets it, else by its own pings.
func (v *vol) leave(to pair.Conn) {
	if !v.conn.Up() {
		v.conn = to
		return
	}
	p := v.peer()
	if v.linked() {
		if v.w.net.open(mirrorNet, v.n.side, p.n.side) && p.n.awake() && v.n.awake() {
			v.conn = to
			p.lose()
		} else {
			v.conn = to
			p.pingOut()
		}
	}
	v.lost(to)
}

// pingOut: without an answer this side gives the connection up by itself.
func (v *vol) pingOut() {
	session := v.session
	v.w.after(v.w.between(pair.MirrorPingTimeout, pair.LossBound), func() {
		if v.n.up && !v.n.paused && v.conn.Up() && v.session == session && !v.alive() {
			v.lose()
		}
	})
}

// alive says that the connection would answer a ping.
func (v *vol) alive() bool { return v.linked() && v.w.reach(mirrorNet, v.n.side, v.n.side.Other()) }

// lose is the loss of the connection as this side's kernel sees it.
func (v *vol) lose() {
	if !v.conn.Up() {
		return
	}
	p, was := v.peer(), v.linked()
	v.lost(pair.Connecting)
	if was && p.n.up { // the reset reaches the partner, or its pings end
		if v.w.net.open(mirrorNet, v.n.side, p.n.side) && p.n.awake() {
			p.lose()
		} else {
			p.pingOut()
		}
	}
	v.tryConnect()
}

func (v *vol) lost(to pair.Conn) {
	v.trace("connection lost")
	v.conn, v.peerDisk, v.peerRole = to, pair.Unknown, pair.RoleUnknown
	v.syncGen++
	switch {
	case !v.primary:
		v.bitmap |= v.unflushed
		v.unflushed = 0
	case v.disk == pair.UpToDate:
		v.frozen, v.newUUIDDue = true, true
		if !v.peerOut {
			v.callHandler()
		} else {
			v.goneAlone()
			v.thaw()
		}
	default:
		v.frozen = true // no data to read or write
	}
	v.n.wake()
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

// write takes a server's write.
func (v *vol) write(block int, version uint32, done func(ok bool)) {
	v.submit(&request{block: block, version: version, done: done})
}

func (v *vol) submit(r *request) {
	v.pending = append(v.pending, r)
	if v.frozen {
		return
	}
	if !r.local && v.disk >= pair.Inconsistent {
		v.hot |= bit(r.block) // the log goes first: without it nothing is written or sent
		v.localWrite(r)
	} else {
		r.local = true
	}
	switch {
	case r.remote:
	case v.conn.Up() && v.peerDisk >= pair.Inconsistent:
		v.send(r, v.session)
	default:
		v.bitmap |= bit(r.block)
		r.remote = true
	}
	v.finish()
}

// send brings a write to the partner, and its acknowledgement back. TCP tries
// again for as long as the connection lives.
func (v *vol) send(r *request, session int) {
	w, p := v.w, v.peer()
	hop := func(do func()) {
		var try func()
		try = func() {
			switch {
			case !v.conn.Up() || v.session != session || r.remote:
			case !v.alive():
				w.after(w.between(200*ms, 400*ms), try)
			default:
				do()
			}
		}
		w.after(w.between(200*us, 3*ms), try)
	}
	var arrive func()
	arrive = func() {
		switch {
		case p.disk < pair.Inconsistent: // lostPeerLeg deals with it
			return
		case p.n.diskStuck:
			w.after(500*ms, func() { hop(arrive) })
			return
		}
		p.cur[r.block] = r.version
		if p.peerDisk < pair.Inconsistent { // the only leg there is
			p.bitmap |= bit(r.block)
			p.hot |= bit(r.block)
		}
		if p.conn > pair.Connected {
			p.bitmap &^= bit(r.block)
			v.bitmap &^= bit(r.block)
			p.resynced |= bit(r.block)
		}
		v.unflushed |= bit(r.block)
		hop(func() {
			r.remote = true
			v.finish()
		})
	}
	hop(arrive)
}

// localWrite writes the leg; a stuck disk keeps it.
func (v *vol) localWrite(r *request) {
	if v.n.diskStuck {
		v.w.after(500*ms, func() {
			if v.n.up && !r.local && v.disk >= pair.Inconsistent {
				v.localWrite(r)
				v.finish()
			}
		})
		return
	}
	v.cur[r.block] = r.version
	r.local = true
}

// finish completes what is written on all legs there are.
func (v *vol) finish() {
	if v.frozen || len(v.pending) == 0 {
		return
	}
	keep := v.pending[:0]
	var done []*request
	for _, r := range v.pending {
		if r.local && r.remote && (v.disk == pair.UpToDate || v.conn.Up() && v.peerDisk == pair.UpToDate) {
			done = append(done, r)
		} else {
			keep = append(keep, r)
		}
	}
	v.pending = keep
	for _, r := range done {
		r.done(true)
	}
}

// flush writes the caches: here now, at the partner by the next barrier.
func (v *vol) flush() {
	if v.disk > pair.Failed {
		v.stable = v.cur
	}
	if !v.conn.Up() {
		return
	}
	session, mask, p := v.session, v.unflushed, v.peer()
	v.w.after(v.w.between(1*ms, 10*ms), func() {
		if v.session == session && v.alive() && p.disk > pair.Failed && !p.n.diskStuck {
			p.stable = p.cur
			p.resynced = 0
			v.unflushed &^= mask
		}
	})
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

// mirrorCut and mirrorBack: a direction of the mirror network went or came.
func (w *World) mirrorCut() {
	for _, side := range []pair.Side{pair.A, pair.B} {
		w.nodes[side].each(func(v *vol) {
			if v.conn.Up() {
				v.pingOut()
			}
		})
	}
}

func (w *World) mirrorBack() { w.nodes[pair.A].each((*vol).tryConnect) }
