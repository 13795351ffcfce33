package sim

import (
	"baystream/daemon/pair"
)

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
