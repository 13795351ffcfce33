package qemu

import "encoding/binary"

const tpid8021Q = 0x8100

// A Frame8023 is an Ethernet frame inside a Switch, without its VLAN tag.
type Frame8023 struct {
	From string // the port it came from

	vlan uint16
	prio uint16 // the upper 4 bits of the tag
	body []byte
}

// VLAN returns the frame's VLAN, 1 on a network without VLANs.
func (f Frame8023) VLAN() uint16 { return f.vlan }

// Bytes returns the untagged frame. It must not be changed.
func (f Frame8023) Bytes() []byte { return f.body }

func (f Frame8023) destination() [6]byte { return [6]byte(f.body[0:6]) }
func (f Frame8023) source() [6]byte      { return [6]byte(f.body[6:12]) }

// parse8023 takes the tag off a frame. The VLAN is 0 if there is none, or a
// priority tag only. False means that the frame is too short.
func parse8023(b []byte) (Frame8023, bool) {
	if len(b) < 14 {
		return Frame8023{}, false
	}
	if binary.BigEndian.Uint16(b[12:]) != tpid8021Q {
		return Frame8023{body: b}, true
	}
	if len(b) < 18 {
		return Frame8023{}, false
	}
	tci := binary.BigEndian.Uint16(b[14:])
	body := make([]byte, 0, len(b)-4)
	body = append(body, b[:12]...)
	body = append(body, b[16:]...)
	return Frame8023{vlan: tci & 0xfff, prio: tci & 0xf000, body: body}, true
}

func (f Frame8023) untagged() []byte { return f.body }

func (f Frame8023) tagged() []byte {
	b := make([]byte, 0, len(f.body)+4)
	b = append(b, f.body[:12]...)
	b = binary.BigEndian.AppendUint16(b, tpid8021Q)
	b = binary.BigEndian.AppendUint16(b, f.prio|f.vlan)
	return append(b, f.body[12:]...)
}
