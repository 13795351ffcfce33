package lldp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// A Frame is what a station says of itself on one port (IEEE 802.1AB-2016
// clause 8).
type Frame struct {
	Chassis     ID
	Port        ID
	TTL         time.Duration // whole seconds; 0: the station goes away
	PortDesc    string
	SystemName  string
	SystemDesc  string
	Management  []netip.Addr
	PortVLAN    int  // IEEE 802.1 port VLAN ID; 0: not said
	MaxFrame    int  // IEEE 802.3 maximum frame size in bytes; 0: not said
	Aggregation bool // IEEE 802.1 or 802.3 link aggregation: the port is in an aggregate
}

// An ID names a chassis or a port.
type ID struct {
	Subtype byte
	Value   []byte
}

// Subtypes of chassis and port IDs, tables 8-2 and 8-3.
const (
	ChassisMAC   = 4
	ChassisLocal = 7
	PortMAC      = 3
	PortIfName   = 5
	PortLocal    = 7
)

// TLV types, table 8-1.
const (
	tlvEnd        = 0
	tlvChassis    = 1
	tlvPort       = 2
	tlvTTL        = 3
	tlvPortDesc   = 4
	tlvSystemName = 5
	tlvSystemDesc = 6
	tlvManagement = 8
	tlvOrg        = 127
)

const maxText = 255

// text makes an ID's value readable.
func (id ID) text(mac byte) string {
	if id.Subtype == mac && len(id.Value) == 6 {
		return net.HardwareAddr(id.Value).String()
	}
	return printable(id.Value)
}

// ChassisText is the chassis ID for people.
func (f Frame) ChassisText() string { return f.Chassis.text(ChassisMAC) }

// PortText is the port ID for people.
func (f Frame) PortText() string { return f.Port.text(PortMAC) }

// printable keeps what a stranger says from doing anything to a terminal.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(strings.TrimRight(string(b), "\x00"), "?"))
}

// Marshal returns the payload of the frame.
func (f Frame) Marshal() []byte {
	var b []byte
	b = appendTLV(b, tlvChassis, append([]byte{f.Chassis.Subtype}, f.Chassis.Value...))
	b = appendTLV(b, tlvPort, append([]byte{f.Port.Subtype}, f.Port.Value...))
	b = appendTLV(b, tlvTTL, binary.BigEndian.AppendUint16(nil, uint16(min(f.TTL/time.Second, 0xffff))))
	for _, t := range []struct {
		typ  int
		text string
	}{{tlvPortDesc, f.PortDesc}, {tlvSystemName, f.SystemName}, {tlvSystemDesc, f.SystemDesc}} {
		if t.text != "" {
			b = appendTLV(b, t.typ, []byte(t.text[:min(len(t.text), maxText)]))
		}
	}
	for _, a := range f.Management {
		family := byte(1) // IANA address family numbers
		if a.Is6() {
			family = 2
		}
		v := append([]byte{byte(1 + len(a.AsSlice())), family}, a.AsSlice()...)
		v = append(v, 1, 0, 0, 0, 0, 0) // interface numbering unknown, no object ID
		b = appendTLV(b, tlvManagement, v)
	}
	if f.PortVLAN != 0 {
		b = appendTLV(b, tlvOrg, binary.BigEndian.AppendUint16([]byte{0x00, 0x80, 0xc2, 1}, uint16(f.PortVLAN)))
	}
	if f.MaxFrame != 0 {
		b = appendTLV(b, tlvOrg, binary.BigEndian.AppendUint16([]byte{0x00, 0x12, 0x0f, 4}, uint16(f.MaxFrame)))
	}
	return appendTLV(b, tlvEnd, nil)
}

func appendTLV(b []byte, typ int, v []byte) []byte {
	v = v[:min(len(v), 511)]
	b = binary.BigEndian.AppendUint16(b, uint16(typ<<9|len(v)))
	return append(b, v...)
}

// Parse reads the payload of a frame. What it does not know it skips, as
// clause 9.2.7.7 wants it.
func Parse(b []byte) (Frame, error) {
	var f Frame
	for i := 0; ; i++ {
		typ, v, rest, err := nextTLV(b)
		if err != nil {
			return Frame{}, err
		}
		if i < 3 && typ != []int{tlvChassis, tlvPort, tlvTTL}[i] {
			return Frame{}, fmt.Errorf("lldp: TLV %d is of type %d: chassis, port and TTL must come first", i+1, typ)
		}
		if typ == tlvEnd {
			return f, nil
		}
		if err := f.take(typ, v); err != nil {
			return Frame{}, fmt.Errorf("lldp: TLV of type %d: %w", typ, err)
		}
		b = rest
		if len(b) == 0 && i >= 2 {
			return f, nil // without an end: some senders leave it out
		}
	}
}

func nextTLV(b []byte) (typ int, v, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, nil, errors.New("lldp: ends within a TLV")
	}
	head := binary.BigEndian.Uint16(b)
	n := int(head & 0x1ff)
	if len(b) < 2+n {
		return 0, nil, nil, errors.New("lldp: ends within a TLV")
	}
	return int(head >> 9), b[2 : 2+n], b[2+n:], nil
}

func (f *Frame) take(typ int, v []byte) error {
	switch typ {
	case tlvChassis, tlvPort:
		if len(v) < 2 {
			return errors.New("is empty")
		}
		id := ID{Subtype: v[0], Value: append([]byte(nil), v[1:]...)}
		if typ == tlvChassis {
			f.Chassis = id
		} else {
			f.Port = id
		}
	case tlvTTL:
		if len(v) < 2 {
			return errors.New("is too short")
		}
		f.TTL = time.Duration(binary.BigEndian.Uint16(v)) * time.Second
	case tlvPortDesc:
		f.PortDesc = printable(v)
	case tlvSystemName:
		f.SystemName = printable(v)
	case tlvSystemDesc:
		f.SystemDesc = printable(v)
	case tlvManagement:
		if len(v) < 2 || len(v) < 1+int(v[0]) || v[0] < 1 {
			return errors.New("is too short")
		}
		if a, ok := netip.AddrFromSlice(v[2 : 1+v[0]]); ok && (v[1] == 1) == a.Is4() {
			f.Management = append(f.Management, a)
		}
	case tlvOrg:
		f.takeOrg(v)
	}
	return nil
}

// takeOrg takes what IEEE 802.1 (annex D) and 802.3 (annex F) define.
func (f *Frame) takeOrg(v []byte) {
	if len(v) < 5 {
		return
	}
	switch oui, sub, body := [3]byte(v[:3]), v[3], v[4:]; {
	case oui == [3]byte{0x00, 0x80, 0xc2} && sub == 1 && len(body) >= 2:
		f.PortVLAN = int(binary.BigEndian.Uint16(body))
	case oui == [3]byte{0x00, 0x12, 0x0f} && sub == 4 && len(body) >= 2:
		f.MaxFrame = int(binary.BigEndian.Uint16(body))
	case oui == [3]byte{0x00, 0x80, 0xc2} && sub == 7, oui == [3]byte{0x00, 0x12, 0x0f} && sub == 3:
		f.Aggregation = body[0]&2 != 0
	}
}
