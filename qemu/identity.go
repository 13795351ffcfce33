package qemu

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
)

// Addresses are from the blocks kept for documentation (RFC 5737), so that a
// frame never has an address of the world outside.
var (
	managementNet = netip.MustParsePrefix("192.0.2.0/24")
	deploymentNet = netip.MustParsePrefix("198.51.100.0/24")
	managementGW  = hostIn(managementNet, 1) // our Host
	deploymentGW  = hostIn(deploymentNet, 1)
)

// Host parts of addresses. The deployment pool is divided among frames that
// stand alone; a pair has it in common.
const (
	poolFirst   = 100
	poolLast    = 199
	serviceHost = 8 // of the pair's management
	portal1Host = 8 // of its storage groups, on the deployment network
	portal2Host = 9
)

const (
	maxFrames    = 5 // a logical enclosure
	pairFrames   = 3 // from so many on, the frames' appliances can form a pair
	witnessFrame = 3 // and this one has the witness
)

// Link-local addresses (RFC 3927) of a frame's own networks: each frame link
// has those of its frame, the ring that joins the managers has 169.254.0.0/24.
const linkBits = 16

func linkAddress(frame, host int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, byte(frame), byte(host)}), linkBits)
}

func managerAddress(frame int) netip.Prefix { return linkAddress(frame, 1) }
func ringAddress(frame int) netip.Prefix    { return linkAddress(0, frame) }

// linkAddress is an appliance's on its frame link.
func (p place) linkAddress() netip.Prefix { return linkAddress(p.frame, 10+p.bay) }

// linkName is the name of a frame's frame link.
func linkName(frame int) string {
	if frame > 1 {
		return fmt.Sprintf("frame%d-%s", frame, FrameLink)
	}
	return FrameLink
}

func hostIn(p netip.Prefix, n int) netip.Prefix {
	a := p.Addr().As4()
	a[3] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(a), p.Bits())
}

// A Kind is what a bay is for.
type Kind string

// Kinds of bays.
const (
	ApplianceBay Kind = "appliance"
	ComputeBay   Kind = "compute"
)

// place is a bay's position. All of a module's identity derives from it, so
// that it is the same in every run.
type place struct {
	frame int // 1 for the first
	kind  Kind
	bay   int // 1 for the first of its kind
}

// name is what people type: "appliance1", in other frames than the first
// "frame2-appliance1".
func (p place) name() string {
	s := fmt.Sprintf("%s%d", p.kind, p.bay)
	if p.frame > 1 {
		s = fmt.Sprintf("frame%d-%s", p.frame, s)
	}
	return s
}

func (p place) location() string {
	if p.kind == ApplianceBay {
		return fmt.Sprintf("appliance bay %d", p.bay)
	}
	return fmt.Sprintf("device bay %d", p.bay)
}

// portID is what interconnect modules call their port to the module: a, the
// first port of its adapter.
func (p place) portID() string {
	kind := "device"
	if p.kind == ApplianceBay {
		kind = "appliance"
	}
	return fmt.Sprintf("%s-%d:a", kind, p.bay)
}

func frameSerial(frame int) string { return fmt.Sprintf("VF%04d", frame) }

func (p place) serial() string {
	letter := "D"
	if p.kind == ApplianceBay {
		letter = "A"
	}
	return fmt.Sprintf("%s%s%02d", frameSerial(p.frame), letter, p.bay)
}

// uuid is a custom UUID (RFC 9562, version 8) of the serial.
func (p place) uuid() string {
	u := sha256.Sum256([]byte("baystream virtual module " + p.serial()))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// mac is locally administered: 02, the letter of the kind, frame, bay, slot.
func (p place) mac(slot int) net.HardwareAddr {
	return net.HardwareAddr{0x02, p.kind[0], 0, byte(p.frame), byte(p.bay), byte(slot)}
}

// address is an appliance's on the management network.
func (p place) address() netip.Prefix { return hostIn(managementNet, 10*p.frame+p.bay-1) }

// deployment is an appliance's own address on the deployment network.
func (p place) deployment() netip.Prefix { return hostIn(deploymentNet, 1+p.frame) }

// witness tells whether the module is the witness of the pair in the first two
// of so many frames.
func (p place) witness(frames int) bool {
	return p.kind == ApplianceBay && p.frame == witnessFrame && frames >= pairFrames
}

// serviceAddress is where a pair's management answers, whoever is active.
func serviceAddress() netip.Prefix { return hostIn(managementNet, serviceHost) }

// portals are the addresses of a pair's storage groups.
func portals() []netip.Addr {
	return []netip.Addr{hostIn(deploymentNet, portal1Host).Addr(), hostIn(deploymentNet, portal2Host).Addr()}
}

// oem returns the settings that the frame gives to an appliance. Those of a
// pair are the same in both frames, but for the modules' own addresses.
func (p place) oem(frames int, vlan uint16) []string {
	management := fmt.Sprintf("baystream:management=address:%s,gateway:%s", p.address(), managementGW.Addr())
	if p.witness(frames) {
		return []string{"baystream:role=witness", management}
	}
	first, last := poolFirst, poolLast
	if frames < pairFrames {
		share := (poolLast - poolFirst + 1) / frames
		first += (p.frame - 1) * share
		last = first + share - 1
	}
	settings := []string{management, fmt.Sprintf("baystream:deployment=vlan:%d,address:%s,pool:%s-%s,mtu:1500", vlan,
		p.deployment(), hostIn(deploymentNet, first).Addr(), hostIn(deploymentNet, last).Addr())}
	if frames < pairFrames {
		return settings
	}
	return append(settings,
		fmt.Sprintf("baystream:service=%s", serviceAddress()),
		fmt.Sprintf("baystream:portals=%s,%s", portals()[0], portals()[1]))
}
