package sim

import "baystream/daemon/pair"

// Networks that modules share. Servers reach appliances by another one, which
// is the business of interconnect tests and stays up here.
const (
	mirrorNet  = iota
	management // etcd, hello
	frameLink  // to the frame managers, hello
	networks
)

// network says which direction of which link is cut; several faults may cut
// the same one.
type network struct {
	cuts [networks][3][3]int
	slow int // percent of hellos that get lost or late
}

// open says that a packet from a to b arrives.
func (n *network) open(net int, a, b pair.Side) bool { return n.cuts[net][a][b] == 0 }

// both says that a connection between a and b works.
func (n *network) both(net int, a, b pair.Side) bool { return n.open(net, a, b) && n.open(net, b, a) }

// cut changes one direction and tells those who stand on it.
func (w *World) cut(net int, a, b pair.Side, by int) {
	c := &w.net.cuts[net][a][b]
	was := *c
	*c += by
	if net != mirrorNet || (was == 0) == (*c == 0) {
		return
	}
	if *c > 0 {
		w.mirrorCut()
	} else {
		w.mirrorBack()
	}
}

// reach says that module a talks with b on the network: both run and hear each other.
func (w *World) reach(net int, a, b pair.Side) bool {
	return a == b || w.nodes[a].awake() && w.nodes[b].awake() && w.net.both(net, a, b)
}
