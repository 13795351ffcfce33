package pair

import "time"

// View is what one round of one appliance looks at. Times are durations on
// this module's monotonic clock; there is no wall clock, so that a jump of it
// changes nothing.
type View struct {
	Self     Side
	Standing Standing
	Now      time.Duration // monotonic, since the kernel booted
	Votes    Votes
	Partner  Partner
	Groups   []Group

	Stopping bool // this module shuts down in order: it gives up what it serves

	Leader  Side // of management, as the election last said; None: nobody or not known
	Service bool // this side has the management service address
}

// Votes is what the domain state can do for this appliance.
type Votes struct {
	Voters int           // configured: 3 with a witness, 2 without, 1 alone
	Quorum bool          // the last linearizable read or lease renewal succeeded
	Read   time.Duration // when the records below were read last, linearizably; meaningless without Quorum
}

// Partner is the evidence about the other appliance.
type Partner struct {
	Heard     time.Duration // when it last said anything on any network; negative: never since boot
	Off       bool          // its frame manager says that its power is off, or a power fence just succeeded
	Fenceable bool          // its frame manager answers and may switch its power
}

// Group is one storage group as this side sees it.
type Group struct {
	Number  int
	Record  Record
	Volumes []Volume
	Portal  bool   // this side has the portal address
	Unsure  bool   // the outcome of the last compare-and-swap is not known, and Record was not read since
	Busy    bool   // actions of the last round are still under way: nothing new is planned
	Report  Report // what the partner last said; as old as Partner.Heard
	Consent bool   // the administrator gave the partner's copy up, for the epoch that the record still has
	Flushed bool   // a Flush went well since a volume was connected last
	Healthy bool   // the disk below the legs works as far as known: a leg may be attached
}

// Report is what an appliance tells its partner about one group.
type Report struct {
	Intact  bool // see the package comment
	Settled bool // and what it held in memory when its partner left is on its disk
	Primary bool // of any volume
	Frozen  bool // of any primary volume
	Usable  bool // every leg is attached, Consistent or better
	InSync  bool // every volume is connected, both legs UpToDate
	Leaving bool // shuts down: nothing should be handed to it
}

// Volume is one DRBD resource.
type Volume struct {
	ID       string
	Primary  bool
	Disk     Disk
	PeerDisk Disk
	PeerRole PeerRole
	Conn     Conn
	Frozen   bool          // I/O is suspended
	Asking   bool          // the fence handler waits for an answer
	Stuck    time.Duration // how long the oldest request has been in the local disk; 0: none waits
	Exported bool          // the target is there
	Live     bool          // a server has a session, or had one with the last owner
}

// Disk is the state of a leg, worst first.
type Disk uint8

// States of a leg. Missing means that the resource is not up at all.
const (
	Missing Disk = iota
	Diskless
	Failed
	Inconsistent
	Outdated
	Unknown
	Consistent
	UpToDate
)

// PeerRole is DRBD's view of the partner's role.
type PeerRole uint8

// Roles of the partner.
const (
	RoleUnknown PeerRole = iota
	RoleSecondary
	RolePrimary
)

// Conn is the state of the link of one volume.
type Conn uint8

// States of the link.
const (
	StandAlone Conn = iota // nothing is tried; also when the resource is not up
	Connecting
	Connected
	SyncSource
	SyncTarget
)

// Up says that the partner answers on this link.
func (c Conn) Up() bool { return c >= Connected }
