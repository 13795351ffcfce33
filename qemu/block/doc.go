// Package block is a disk drive for a virtual frame: it serves a file by NBD
// (the protocol of network block devices, fixed newstyle, doc/proto.md of the
// NBD project) on a unix socket, and fails as drives do.
//
// A Drive has a volatile write cache. What was written since the last flush is
// on record, and when the power goes (PowerCut) each of those writes is kept,
// lost, or torn at a 512-byte sector, whatever its order: any state that a real
// drive may have. What a flush or a forced write (FUA) confirmed is there.
// Until the power is cut the file has everything, so that a drive whose process
// dies loses nothing.
//
// Other faults last until they are healed: errors, a full medium, stalls,
// delay, a limit of operations per second; bit rot is damage that stays. All
// that is random comes from one seed.
package block
