package sim

import (
	"baystream/daemon/pair"
)

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
		x.n.flushed[x.g] = false
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
