package pair

import "fmt"

// Op is what an Action does.
type Op uint8

// The operations. Those on the record are one compare-and-swap each: the
// executor applies the transition of Record of the same name to the record of
// the View and writes it under the condition that Revision is unchanged; a
// refusal, a lost race and an unknown outcome are all failures. After an
// unknown outcome (no answer in time) Group.Unsure is set until the next
// linearizable read.
const (
	// WinGrant writes Record.Win(self).
	WinGrant Op = iota
	// ClearGrant writes Record.Clear(self).
	ClearGrant
	// YieldGrant writes Record.Yield(self).
	YieldGrant
	// HandOver writes Record.HandOver(To).
	HandOver
	// Finish writes Record.Finish().
	Finish

	// PowerFence cuts the partner's power through its frame manager and waits
	// until that says so, or two seconds. It restores the power afterwards. A
	// failure does not stop the batch.
	PowerFence
	// AnswerWon lets the fence handler calls of Volume that the View showed
	// exit with 7: DRBD thaws and marks the partner's leg outdated. Calls that
	// came later stay unanswered until a later round.
	AnswerWon
	// AnswerLost lets them exit with 1.
	AnswerLost
	// ForceDisconnect leaves the partner at once, without waiting for its pings.
	ForceDisconnect
	// Promote makes Volume primary. The fence handler, which DRBD calls when
	// there is no connection, is answered "won" if Alone is set (a WinGrant went
	// before in the same batch) and "lost" if it is not, so that a connection
	// that was lost on the way makes it fail.
	Promote
	// Flush writes the caches of the group's legs to the disk (the legs, as a
	// secondary DRBD device cannot be opened). It goes before the grant of a
	// takeover: a server's flush that the dead owner had confirmed may be here
	// in memory only, and from the grant on this is the copy that counts. An
	// intact standby also does it when the connection is lost.
	Flush
	// Demote flushes Volume (fsync of the device, so that both legs have on
	// disk what was acknowledged) and makes it secondary.
	Demote
	// Connect lets Volume look for its partner.
	Connect
	// BringUp applies the activity log and attaches the leg of Volume; Disown
	// asks for the Inconsistent mark to be set before.
	BringUp
	// TakeDown ends the resource of Volume.
	TakeDown
	// Outdate marks the attached leg of Volume Outdated.
	Outdate
	// DetachForce drops the leg of Volume without waiting for its I/O. It must
	// fail unless DRBD shows Diskless or Failed afterwards.
	DetachForce
	// ResumeIO thaws Volume: on a leg that was dropped what hangs ends in
	// errors; on an attached one the appliance goes on alone, as the winner.
	ResumeIO

	// Export makes the target of Volume, Unexport removes it.
	Export
	Unexport
	// AddPortal adds the group's portal address; RemovePortal removes it.
	AddPortal
	RemovePortal
	// Announce sends gratuitous ARP for the portal address.
	Announce
	// Tickle sends a bare ACK to each known initiator port.
	Tickle

	// ResetServers resets every running server of the group's volumes through
	// its power control, by policy or after consent, and waits for it.
	ResetServers

	// HoldService and DropService add and remove the management address.
	HoldService
	DropService
	// Quarantine takes this module out of everything, and says why.
	Quarantine
)

var opNames = [...]string{
	"WinGrant", "ClearGrant", "YieldGrant", "HandOver", "Finish", "PowerFence", "AnswerWon", "AnswerLost", "ForceDisconnect",
	"Promote", "Flush", "Demote", "Connect", "BringUp", "TakeDown", "Outdate", "DetachForce", "ResumeIO", "Export", "Unexport",
	"AddPortal", "RemovePortal", "Announce", "Tickle", "ResetServers", "HoldService", "DropService", "Quarantine",
}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// Action is one step. The actions that a round returns for one group run in
// their order and stop at the first failure, except that neighbours with the
// same Op may run at once, and that DetachForce to TakeDown of a volume that
// hangs must not hold up the others. Each has a deadline and runs outside the
// loop that plans. Different groups run side by side. Group 0 is the appliance.
type Action struct {
	Op     Op
	Group  int
	Volume string // of the operations on one volume
	To     Side   // of HandOver
	Disown bool   // of BringUp
	Alone  bool   // of Promote
}

func (a Action) String() string {
	s := a.Op.String()
	if a.Group > 0 {
		s += fmt.Sprintf(" group %d", a.Group)
	}
	if a.Volume != "" {
		s += " " + a.Volume
	}
	if a.To != None {
		s += " to " + a.To.String()
	}
	if a.Disown {
		s += " disowned"
	}
	if a.Alone {
		s += " alone"
	}
	return s
}
