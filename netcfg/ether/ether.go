// Package ether sends and receives Ethernet frames of one protocol on one
// link: what the small protocols of a port (LLDP, LACP, ARP, probes) have in
// common.
//
// A Conn takes one EtherType only, so that ordinary traffic never comes up
// into user space (packet(7)). On a slave of a bond it also hears what the bond
// itself ignores: frames for the slave that is not in use.
package ether

import (
	"encoding/binary"
	"fmt"
	"net"
)

// EtherTypes (IEEE 802 numbers) that modules speak.
const (
	ARP    = 0x0806
	VLAN   = 0x8100
	IPv6   = 0x86dd
	Slow   = 0x8809 // IEEE 802.3 slow protocols: LACP
	LLDP   = 0x88cc
	Silent = 0      // none: a socket that only sends
	Probe  = 0x88b5 // local experimental 1, IEEE 802: our probes between ports
)

const headerLen = 14

// Broadcast is the address of everybody.
var Broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// A Frame is one Ethernet frame, without the tag and the check sum.
type Frame struct {
	Dst, Src [6]byte
	VLAN     int // 0: untagged; not known of frames received
	Type     uint16
	Payload  []byte
}

// Marshal returns the frame as it is sent.
func (f Frame) Marshal() []byte {
	b := make([]byte, 0, headerLen+4+len(f.Payload))
	b = append(b, f.Dst[:]...)
	b = append(b, f.Src[:]...)
	if f.VLAN != 0 {
		b = binary.BigEndian.AppendUint16(b, VLAN)
		b = binary.BigEndian.AppendUint16(b, uint16(f.VLAN))
	}
	b = binary.BigEndian.AppendUint16(b, f.Type)
	return append(b, f.Payload...)
}

// Parse takes a frame apart; the payload is part of b.
func Parse(b []byte) (Frame, error) {
	var f Frame
	if len(b) < headerLen {
		return f, fmt.Errorf("frame of %d bytes is shorter than its header", len(b))
	}
	copy(f.Dst[:], b[0:6])
	copy(f.Src[:], b[6:12])
	f.Type = binary.BigEndian.Uint16(b[12:14])
	f.Payload = b[headerLen:]
	if f.Type == VLAN && len(b) >= headerLen+4 {
		f.VLAN = int(binary.BigEndian.Uint16(b[14:16]) & 0xfff)
		f.Type = binary.BigEndian.Uint16(b[16:18])
		f.Payload = b[headerLen+4:]
	}
	return f, nil
}

// MAC returns a as an array; zero if it is not an Ethernet address.
func MAC(a net.HardwareAddr) (m [6]byte) {
	if len(a) == 6 {
		copy(m[:], a)
	}
	return m
}

// OwnMAC derives a second, locally administered address from a port's
// burnt-in one: probes that leave under it do not move the address of a bond
// in the tables of switches.
func OwnMAC(burntIn net.HardwareAddr) [6]byte {
	m := MAC(burntIn)
	m[0] = (m[0]&^1 | 2) ^ 0x40
	return m
}
