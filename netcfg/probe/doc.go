// Package probe finds out which port of a bond really carries frames.
//
// The bond driver looks at the carrier (miimon). An interconnect module that
// fails silently keeps its carriers up and forwards nothing; the driver's ARP
// monitor cannot run beside miimon, and would look at the port in use only. So
// a Monitor sends frames of its own, in rounds:
//
//   - crosswise, from each port to the other, through both interconnect modules
//     and the link between them, under source addresses of their own;
//   - while these do not arrive, questions out of both ports to neighbours: to
//     other modules (they answer in kind) and ARP probes to known addresses;
//   - and it looks whether a port receives anything at all.
//
// From this a Decider, which is pure, tells what each port can do: whether
// something that it sent arrived, and whether it hears. One crosswise frame
// that is lost says only that one of two ports is dead; the neighbours' answers
// say which. The Monitor makes the better port the bond's active slave. The
// kernel then tells the neighbours (NETDEV_NOTIFY_PEERS: gratuitous ARP).
//
// All counting is in rounds that took place, never in time, so that a process
// that was held up sees no loss where there was none. A port that works is left
// only for the preferred one, and that one has to work longer each time after
// it failed: the bond does not flap.
//
// When no evidence distinguishes the ports, nothing is changed.
package probe
