package pair

import "time"

// How the mirror notices that its partner is gone: DRBD's ping-int, ping-timeout
// and timeout. With them both sides know of a cut after LossBound at most.
const (
	MirrorPing        = time.Second
	MirrorPingTimeout = 500 * time.Millisecond
	LossBound         = MirrorPing + MirrorPingTimeout
)

const (
	// HelloEvery is how often an appliance tells its partner about itself, on
	// every network they share; also at once when something changed.
	HelloEvery = 250 * time.Millisecond
	// HeardFor is how long a partner counts as heard after its last word.
	HeardFor = time.Second
	// SilentAfter without a word, and no link, a partner counts as gone.
	SilentAfter = 2 * time.Second
	// apartFor is LossBound with room for a loaded machine: after that long
	// without a link the partner knows it too and has frozen.
	apartFor = LossBound + 200*time.Millisecond

	// readFor is how old a read of the records may be when decisions of this
	// round rest on it. The compare-and-swap catches what changed since.
	readFor = 2 * time.Second
	// withdrawAfter: a primary that is frozen and has no quorum for that long
	// takes its portal address away.
	withdrawAfter = time.Second
	// frozenFor: a partner that reports itself frozen that long cannot win, so
	// this side tries.
	frozenFor = 3 * time.Second
	// idleFor: an owner that could serve and does not is given that long.
	idleFor = 10 * time.Second
	// settleFor is how long things have to look well before something that
	// is not urgent rests on it.
	settleFor = time.Second

	// holdOff is the least time between two failovers of one group that rest
	// on silence alone, and before a group goes home.
	holdOff = time.Minute
	// moveAgain is the least time between two attempts at a planned move.
	moveAgain = 20 * time.Second
	// homeAfter in sync a group may go home.
	homeAfter = 10 * time.Second

	// How long an appliance whose copy is not intact waits for a better one:
	// with its partner's power off, rebooted as well, silent.
	aloneOff  = 10 * time.Second
	aloneBoth = 20 * time.Second
	aloneLong = 30 * time.Second

	// stuckFor: a disk that keeps a request that long is dropped.
	stuckFor = 3 * time.Second

	// resyncs is how many volumes an appliance lets resync at once: thirty at
	// once ran an appliance of 256 MB out of memory.
	resyncs = 2
)
