package sim

import (
	"time"

	"baystream/daemon/pair"
)

// node is one module: power, kernel and daemon die apart. The witness has no
// volumes and no planner.
type node struct {
	w    *World
	side pair.Side

	powered   bool
	up        bool // the kernel runs
	paused    bool // the whole module stands still
	diskBad   bool // requests fail
	diskStuck bool // requests stay
	stuckAt   time.Duration
	bootGen   int
	bootAt    time.Duration
	vols      [groups][]*vol
	portal    [groups]bool
	service   bool        // the management address, in the kernel
	run       pair.Memory // in /run

	daemon    bool
	daemonGen int
	etcd      bool // the member is up
	damaged   bool // and its data is not
	records   [groups]pair.Record
	readAt    time.Duration
	quorum    bool
	mustRead  [groups]bool // the outcome of a swap is not known
	leads     time.Duration
	heard     time.Duration
	reports   [groups]pair.Report
	off       bool // the partner's frame manager says that it is off
	busy      [groups + 1]bool
	planning  bool
	stopping  bool
	flushed   [groups]bool
	seen      [groups]pair.Group
	killIn    int // actions until the daemon is killed; 0: never
}

func newNode(w *World, side pair.Side) *node {
	n := &node{w: w, side: side, leads: -1, heard: -1}
	if side == pair.None {
		return n
	}
	for g := range groups {
		for i := range volumes {
			v := &vol{w: w, n: n, g: g, i: i, consistent: true, upToDate: true}
			v.uuid[0] = uint64(0x100 + 0x10*g + 2*i) // the same on both: UpToDate at birth
			n.vols[g] = append(n.vols[g], v)
		}
	}
	return n
}

func (n *node) each(do func(*vol)) {
	for g := range n.vols {
		for _, v := range n.vols[g] {
			do(v)
		}
	}
}

func (n *node) awake() bool  { return n.up && !n.paused }
func (n *node) member() bool { return n.awake() && n.daemon && n.etcd && !n.damaged }

// powerOn starts a boot.
func (n *node) powerOn() {
	if n.powered {
		return
	}
	n.powered = true
	n.bootGen++
	gen := n.bootGen
	n.w.after(n.w.between(3500*ms, 6*sec), func() {
		if n.powered && n.bootGen == gen {
			n.up, n.bootAt = true, n.w.now
			n.w.trace("%v: kernel up", n.side)
			n.w.mirrorBack()
			n.startDaemon()
		}
	})
}

// powerOff cuts the power; what the legs had not flushed may be gone.
func (n *node) powerOff() {
	if n.powered {
		n.w.trace("%v: power off", n.side)
		n.powered = false
		n.bootGen++
		n.die(true)
		if p := n.partner(); p != nil && p.awake() && p.daemon {
			n.w.after(n.w.between(5*ms, 100*ms), p.wakeUp) // the frame manager's event
		}
	}
}

// crash is a kernel that stopped: the power stays on, and the module reboots.
func (n *node) crash() {
	if n.powered && n.up {
		n.w.trace("%v: kernel died", n.side)
		n.die(n.w.chance(50))
		n.powered = false
		n.w.after(n.w.between(1*sec, 8*sec), n.powerOn)
	}
}

func (n *node) die(volatile bool) {
	if !n.up {
		return
	}
	n.killDaemon(false)
	n.up, n.paused, n.service, n.stopping = false, false, false, false
	n.run = pair.Memory{}
	n.each(func(v *vol) {
		p, linked := v.peer(), v.linked()
		v.powerCut(volatile)
		if linked {
			p.pingOut()
		}
	})
	n.portal, n.flushed = [groups]bool{}, [groups]bool{}
	n.busy = [groups + 1]bool{}
}

func (n *node) partner() *node {
	if n.side == pair.None {
		return nil
	}
	return n.w.nodes[n.side.Other()]
}

func (n *node) startDaemon() {
	n.daemonGen++
	gen := n.daemonGen
	n.w.after(n.w.between(300*ms, 1500*ms), func() {
		if !n.up || n.daemonGen != gen {
			return
		}
		n.w.trace("%v: daemon up", n.side)
		n.daemon, n.quorum, n.leads, n.heard, n.killIn = true, false, -1, -1, 0
		n.reports = [groups]pair.Report{}
		n.busy = [groups + 1]bool{}
		n.mustRead = [groups]bool{}
		n.w.after(n.w.between(300*ms, 1000*ms), func() {
			if n.daemonGen == gen {
				n.etcd = true
			}
		})
		if n.side != pair.None {
			n.breakBoot()
			n.tick(gen)
		}
	})
}

// killDaemon kills it, with its etcd member; it is started again at once
// unless the kernel died.
func (n *node) killDaemon(again bool) {
	if n.daemon {
		n.w.trace("%v: daemon died", n.side)
	}
	n.daemon, n.etcd, n.planning = false, false, false
	n.daemonGen++
	if again && n.up {
		n.startDaemon()
	}
}

// tick is the daemon's loop: read the records, talk to the partner, plan.
// Events wake it in between.
func (n *node) tick(gen int) {
	if n.daemonGen != gen {
		return
	}
	n.w.after(n.period(), func() { n.tick(gen) })
	if n.paused {
		return
	}
	n.refresh()
	n.hello()
	n.plan()
}

// period is short while something goes on.
func (n *node) period() time.Duration {
	if n.w.faulty || n.w.now < 30*sec {
		return pair.HelloEvery
	}
	return 2 * pair.HelloEvery
}

// wake lets the daemon look soon.
func (n *node) wake() {
	if n.planning || !n.daemon {
		return
	}
	n.planning = true
	gen := n.daemonGen
	n.w.after(n.w.between(1*ms, 10*ms), func() {
		if n.daemonGen == gen {
			n.planning = false
			if n.awake() {
				n.plan()
			}
		}
	})
}

// wakeUp reads before it plans, as an event of the frame manager does.
func (n *node) wakeUp() {
	if n.awake() && n.daemon {
		n.refresh()
		n.plan()
	}
}

func (n *node) refresh() {
	if n.w.lossy && n.w.chance(5) {
		return // the watch lags
	}
	if n.quorum = n.w.store.read(n); n.quorum {
		n.mustRead = [groups]bool{}
	}
	p := n.partner()
	n.off = !p.powered && n.w.net.cuts[frameLink][n.side][p.side] == 0
}

func (n *node) hello() {
	p := n.partner()
	if !p.awake() || !p.daemon || n.w.faulty && n.w.net.slow > 0 && n.w.chance(n.w.net.slow) {
		return
	}
	for net := range networks {
		if n.w.net.open(net, n.side, p.side) {
			p.heard = p.clock()
			v := n.view()
			for g := range groups {
				p.reports[g] = n.run.Report(v, &v.Groups[g])
			}
			return
		}
	}
}

// clock is the module's monotonic time.
func (n *node) clock() time.Duration { return n.w.now - n.bootAt }

// group and view fill the node's own View, which the next call overwrites.
func (n *node) group(g int) *pair.Group {
	r := &n.seen[g]
	vols := r.Volumes
	if vols == nil {
		vols = make([]pair.Volume, len(n.vols[g]))
	}
	*r = pair.Group{
		Number: g + 1, Record: n.records[g], Portal: n.portal[g], Busy: n.busy[g+1], Unsure: n.mustRead[g],
		Report: n.reports[g], Healthy: !n.diskBad && !n.diskStuck, Flushed: n.flushed[g], Volumes: vols,
	}
	for i, v := range n.vols[g] {
		o := &vols[i]
		*o = pair.Volume{
			ID: ids[i], Primary: v.primary, Disk: v.disk, PeerDisk: v.peerDisk, PeerRole: v.peerRole, Conn: v.conn,
			Frozen: v.frozen, Asking: v.asking, Exported: v.exported, Live: n.w.servers[g*volumes+i].on,
		}
		if n.diskStuck && v.disk > pair.Failed {
			o.Stuck = n.w.now - n.stuckAt
		}
	}
	return r
}

var ids = [volumes]string{"v1", "v2"}

func (n *node) view() *pair.View {
	p := n.partner()
	v := &pair.View{
		Self: n.side, Standing: pair.Member, Now: n.clock(), Service: n.service, Stopping: n.stopping,
		Votes: pair.Votes{Voters: len(n.w.store.voters), Quorum: n.quorum, Read: n.readAt - n.bootAt},
		Partner: pair.Partner{
			Heard: n.heard, Off: n.off && !p.powered,
			Fenceable: n.w.net.cuts[frameLink][n.side][p.side] == 0,
		},
		Groups: n.seen[:],
	}
	if n.leads >= 0 && n.w.now-n.leads <= leaseHeld {
		v.Leader = n.side
	}
	for g := range groups {
		n.group(g)
		if r := &n.seen[g].Record; n.w.cfg.Break == IgnoreGrant && r.Survivor == p.side {
			r.Survivor = pair.None
		}
	}
	return v
}

// plan asks the planner and starts what it says.
func (n *node) plan() {
	if n.w.failure != "" {
		return
	}
	v := n.view()
	actions := pair.Plan(v, &n.run)
	for len(actions) > 0 {
		g, k := actions[0].Group, 1
		for k < len(actions) && actions[k].Group == g {
			k++
		}
		batch := n.bend(actions[:k])
		actions = actions[k:]
		if len(batch) > 0 && !n.busy[g] {
			n.start(v, batch)
		}
	}
	n.unasked(v)
}

// start begins to carry out the actions of one group.
func (n *node) start(v *pair.View, batch []pair.Action) {
	g := batch[0].Group
	n.busy[g] = true
	if n.w.cfg.Trace != nil {
		n.w.trace("%v plans %v", n.side, batch)
	}
	b := &batchRun{n: n, gen: n.daemonGen, g: g - 1, actions: batch}
	if g > 0 {
		b.record = v.Groups[g-1].Record
		for i, o := range n.vols[g-1] {
			b.asks[i] = o.ask
		}
	}
	b.next()
}
