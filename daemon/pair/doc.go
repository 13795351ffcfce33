// Package pair decides what an appliance of a pair does: who serves which
// storage group, when one takes over, when one gives back, and how one that
// lost gets back to a clean secondary. It does no I/O and has no clock.
//
// A View is everything that one round may look at: the group's Record in the
// domain state, this side's DRBD volumes, what the partner last said about
// itself, power, votes. Plan compares and returns Actions; the daemon carries
// them out, looks again, and calls Plan again. Events only wake that loop. A
// Memory holds what has to be remembered between rounds; the daemon keeps it
// in /run, so that it outlives the daemon and not the kernel.
//
// # Why there are never two writers
//
// An appliance completes writes of a volume only while it is DRBD primary and
// (a) its partner is connected, so that DRBD itself allows one primary and each
// write is on both legs, or (b) it went on alone. It goes on alone only by
// Promote without a connection, or by answering DRBD's fence handler with
// "won" (or ResumeIO on an attached leg), and each of these comes after a
// successful WinGrant, in the same batch, that was begun after the connection
// was lost. What makes that enough:
//
//  1. Win needs a survivor that is nobody or oneself, and is a compare-and-swap
//     on the record's revision. So of two that lost each other one wins.
//  2. Only the survivor itself clears its grant (Clear, when both sides say
//     that all volumes are in sync), and only an appliance that does not write
//     alone hands the survivor's place to its partner (Yield). Nobody takes it.
//  3. Whoever cleared or yielded has to win anew, with a new epoch, before it
//     goes on alone: what one believed before the connection was lost is never
//     enough. A cleared grant whose answer was lost is thus harmless, and so is
//     a Win that arrives late: the revision has moved on, or the epoch is ours.
//  4. Actions of one group run one after the other. No Clear can overtake a
//     Promote.
//
// The partner, when it is alive behind a cut, still believes to be connected
// for at most LossBound and would answer reads. So nobody takes over sooner
// after its own connection was lost, unless the partner's power is off.
//
// # Why no acknowledged write is lost
//
// With no survivor in the record both legs hold every acknowledged write;
// with one, that one does. A takeover flushes its legs before it wins, because
// what was confirmed as flushed elsewhere may be in memory only here. A leg
// may lose what was not flushed when its module dies. Therefore the planner tells apart a copy that is Intact (this kernel
// has been primary, or in sync with an intact partner, and nothing happened to
// it since) from one that was there before the last boot. Intact copies serve.
// One that is not yields to an intact partner, disowns its leg (the metadata
// says Inconsistent, so that DRBD can make it nothing but the target of a
// resync, whatever its activity log claims) and connects. When no intact copy
// is left (both appliances died), the servers whose unflushed writes may be
// gone are reset before the volumes are served again (ResetServers), and only
// the owner goes on alone: DRBD confirms a flush when the owner's leg has it,
// so that within LossBound of the partner's death that may be the only one.
// The other copy serves alone only with the administrator's Consent.
//
// A frozen loser may not simply thaw: DetachForce, then ResumeIO, so that what
// hangs ends in errors and nothing reaches the leg; then everything above the
// volume goes, then Demote and Down. The address goes first of all, so that a
// server sees silence and tries again, never an error.
//
// Package sim drives two of these planners, with a modelled kernel, network
// and domain state, through seeded faults and holds the above at each step.
package pair
