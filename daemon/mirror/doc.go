// Package mirror runs DRBD 8.4: one resource for each OS volume, on top of the
// volume's leg in the thin pool and below its iSCSI target. In the development
// configuration a resource has no peer yet; adding one later turns it into a
// mirror without touching the volume's data.
//
// A Resource names what should run and State says what does. A leg carries its
// DRBD metadata at its own end (metadata.go): LegSectors computes the size,
// WriteMetadata makes a fresh leg UpToDate at birth, ApplyLog makes a used one
// fit to be attached. Up observes first, so that a restarted daemon adopts a
// running resource without touching its I/O.
//
// A Peer is the link to the partner (peer.go). Attach, Connect, Promote, Demote,
// Disconnect and DetachForce are what a pair is run with; who may do what, and
// when, is decided elsewhere (daemon/pair). With Fencing a primary that loses its
// partner freezes and asks the fence handler. Watch says when to look.
//
// The kernel is driven by generic netlink (family "drbd", netlink.go) without
// a fork; Debian's drbdsetup-84 and drbdmeta speak the same language and can be
// used beside it. All methods are safe for concurrent use, but one resource
// belongs to one caller at a time. The other side: Linux
// include/linux/drbd_genl.h and drivers/block/drbd/drbd_int.h.
package mirror
