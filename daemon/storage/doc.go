// Package storage keeps the appliance's golden images and OS volumes: it
// composes the thin pool (daemon/pool), DRBD (daemon/mirror) and the iSCSI
// target (daemon/target) on one data disk.
//
// PrepareDisk finds or initialises the data disk. Open brings the pool up and
// the volumes with it; a Storage then imports golden images, makes, exports and
// deletes volumes. What should exist is in Records, which the caller keeps;
// what does exist is asked from the kernel each time, so that a daemon that
// was killed at any moment goes on where it was, and volumes in use are adopted
// without a touch.
//
//	golden (thin, inactive, hashed) -> clone = leg -> DRBD -> /dev/drbdN -> LUN
//
// In a pair (Config.Pair, group.go) a volume has a leg on both appliances, made
// from the same record. Storage then carries out who serves it, and does not
// decide.
//
// Calls for different volumes run at once; calls for one volume or image wait
// for each other. No data of a server passes through this program.
package storage
