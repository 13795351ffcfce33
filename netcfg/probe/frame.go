package probe

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"baystream/netcfg/ether"
)

// kind says what a probe frame is for.
type kind byte

const (
	cross  kind = 1 // from a port to the other one of the same module
	full   kind = 2 // the same, as long as the MTU allows
	ask    kind = 3 // to all modules: who hears this port?
	answer kind = 4 // to the port that asked, with its id and number
)

// group is where modules ask; a locally administered group address, which
// switches forward as any.
var group = [6]byte{0x03, 'b', 'a', 'y', 0, 1}

var magic = [4]byte{'B', 'A', 'Y', 1}

// A message is the payload of a probe frame: 4 bytes magic, kind, port, two of
// zero, the sender's id, the number of the round.
type message struct {
	kind kind
	port int    // of the sender, or of the asker in an answer
	id   uint64 // of the run of a module
	seq  uint32
}

const messageLen = 20

// marshal pads the message to size bytes, if that is more.
func (m message) marshal(size int) []byte {
	b := make([]byte, max(messageLen, size))
	copy(b, magic[:])
	b[4], b[5] = byte(m.kind), byte(m.port)
	binary.BigEndian.PutUint64(b[8:], m.id)
	binary.BigEndian.PutUint32(b[16:], m.seq)
	return b
}

func parseMessage(b []byte) (message, error) {
	if len(b) < messageLen || [4]byte(b[:4]) != magic {
		return message{}, errors.New("not a probe")
	}
	m := message{kind: kind(b[4]), port: int(b[5]), id: binary.BigEndian.Uint64(b[8:]), seq: binary.BigEndian.Uint32(b[16:])}
	if m.port > 1 || m.kind < cross || m.kind > answer {
		return message{}, errors.New("not a probe of this version")
	}
	return m, nil
}

// arpProbe asks for an address without saying who asks (RFC 5227 section 1.1,
// a sender address of zero), so that nobody learns the port's address.
func arpProbe(mac [6]byte, ip netip.Addr) []byte {
	b := []byte{0, 1, 0x08, 0, 6, 4, 0, 1}
	b = append(b, mac[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	a := ip.As4()
	return append(b, a[:]...)
}

// arpAnswer returns whose answer to a probe of mac an ARP packet is.
func arpAnswer(b []byte, mac [6]byte) (ip netip.Addr, ok bool) {
	if len(b) < 28 || b[6] != 0 || b[7] != 2 || [6]byte(b[18:24]) != mac {
		return ip, false
	}
	return netip.AddrFrom4([4]byte(b[14:18])), true
}

func (m *Monitor) probeFrame(port int, dst [6]byte, k kind, size int) ether.Frame {
	msg := message{kind: k, port: port, id: m.id, seq: m.seq}
	return ether.Frame{Dst: dst, Src: m.macs[port], VLAN: m.vlan(), Type: ether.Probe, Payload: msg.marshal(size)}
}
