// Package sim runs the two planners of a pair (package pair) against a model
// of everything that they stand on, in virtual time, on one goroutine, out of
// one seed: the same seed gives the same run to the last step.
//
// The world has two appliances and a witness; each is power, a kernel and a
// daemon that die apart. The kernel has DRBD 8.4 as far as it decides who may
// write and who gets resynced (drbd.go): protocol C, resource-and-stonith with
// its frozen I/O, its fence handler and its thaw when the partner comes back;
// current, bitmap and history UUIDs with their rules 34 to 90; crashed-primary
// and activity log; legs with a volatile cache that a power cut loses. The
// domain state is etcd inside the daemons (store.go): leader, quorum, leases,
// compare-and-swap that may happen although its answer is lost. The network
// has three parts, mirror, management and frame link, each direction by itself
// (net.go). Servers write, read back and flush through whoever has the portal
// address (server.go). Faults come from the seed (fault.go), then everything
// heals. Costs and delays are those measured on the real stack.
//
// At each step (check.go): at most one appliance can complete writes of a
// volume; a read gives what was acknowledged last; epochs do not go back. At
// the end: both legs are equal and in sync, every group is at home and served,
// nobody holds a grant, and no group failed over twice within a minute from an
// owner that was alive.
//
// A Break bends a rule on purpose, to show that the checks see it.
package sim
