package qemu

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"slices"
	"time"
)

const (
	lldpInterval  = 5 * time.Second
	lldpHold      = 4      // intervals that a neighbour believes what it heard
	lldpEtherType = 0x88cc // IEEE 802.1AB-2016
	lldpMaxFrame  = 9216   // bytes, what our interconnect modules carry
	lldpDescribes = "Baystream virtual interconnect module"
)

// lldpAddress is the nearest bridge's: no bridge forwards frames to it.
var lldpAddress = [6]byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}

// LLDP is what an interconnect module says of itself at a port, to whoever is
// at the other end.
type LLDP struct {
	System      string // "VF0001 interconnect bay 3"
	Port        string // the interface's name: "appliance-1:a"
	Description string
}

// mac is the module's own address, the same at all its ports.
func (l LLDP) mac() net.HardwareAddr {
	sum := sha256.Sum256([]byte(l.System))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

// frame is what the module sends: the mandatory TLVs, descriptions, that it is a
// bridge, the port's own VLAN (802.1) and the longest frame (802.3).
func (l LLDP) frame(pvid uint16) []byte {
	b := slices.Concat(lldpAddress[:], l.mac(), binary.BigEndian.AppendUint16(nil, lldpEtherType))
	tlv := func(kind int, parts ...[]byte) {
		value := slices.Concat(parts...)
		b = binary.BigEndian.AppendUint16(b, uint16(kind<<9|len(value)))
		b = append(b, value...)
	}
	tlv(1, []byte{4}, l.mac())
	tlv(2, []byte{5}, []byte(l.Port))
	tlv(3, binary.BigEndian.AppendUint16(nil, uint16(lldpHold*lldpInterval/time.Second)))
	tlv(4, []byte(l.Description))
	tlv(5, []byte(l.System))
	tlv(6, []byte(lldpDescribes))
	tlv(7, []byte{0, 4, 0, 4})
	tlv(127, []byte{0x00, 0x80, 0xc2, 1}, binary.BigEndian.AppendUint16(nil, pvid))
	tlv(127, []byte{0x00, 0x12, 0x0f, 4}, binary.BigEndian.AppendUint16(nil, lldpMaxFrame))
	tlv(0)
	return b
}

// advertise sends LLDP until the port is closed: each 5 s, and at once when the
// port comes up.
func (p *Port) advertise() {
	pvid := p.cfg.Access
	if pvid == 0 {
		pvid = nativeVLAN
	}
	f, _ := parse8023(p.cfg.LLDP.frame(pvid))
	f.vlan = pvid
	tick := time.NewTicker(lldpInterval)
	defer tick.Stop()
	for {
		p.sw.originate(p, f)
		select {
		case <-p.done:
			return
		case <-tick.C:
		case <-p.cameUp:
		}
	}
}

// announce makes the module speak at once.
func (p *Port) announce() {
	select {
	case p.cameUp <- struct{}{}:
	default: // it will
	}
}

// originate sends a frame of the module's own.
func (s *Switch) originate(p *Port, f Frame8023) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.closed || s.silent {
		return
	}
	s.tapped(f)
	s.queue(p, f.untagged())
}

// Neighbour returns the last LLDP frame that the station sent, nil if none.
// Only ports that speak LLDP themselves listen.
func (p *Port) Neighbour() []byte {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return slices.Clone(p.neighbour)
}
