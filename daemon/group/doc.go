// Package group runs the storage groups of a pair on one appliance: it looks at
// what is, asks the planner (daemon/pair) what to do, and does it.
//
// A Runner has one loop that looks and plans, and one lane for each group, in
// which the actions of a round are carried out one after the other; while a lane
// is at work nothing new is planned for its group. Nothing in the loop waits for
// a device, a disk or the network: what may hang hangs in a lane, or in the
// reader of the records. Events only wake the loop.
//
// What the Runner stands on is given to it: Volumes (DRBD, LIO, legs), Portals
// (addresses, announcements), Grants (the records in the domain state), a Line
// to the partner, a Desk for fence handlers, and a clock. The partners tell each
// other how they are in small signed datagrams over every network that they
// share (line.go).
//
// The memory of the planner lies in a file that outlives the daemon and not the
// kernel.
package group
