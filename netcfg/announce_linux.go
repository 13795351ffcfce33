package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"baystream/netcfg/ether"
)

// Announce tells the neighbours on a link that these addresses are here: for
// IPv4 a gratuitous ARP request and reply (RFC 5227 section 3; some neighbours
// believe only one of the two), for IPv6 an unsolicited neighbour advertisement
// (RFC 4861 section 7.2.6). A frame can be lost, so announce again a second
// later. It does not look whether the link has the addresses.
func Announce(ctx context.Context, link string, addrs ...netip.Addr) error {
	fail := func(err error) error {
		return fmt.Errorf("netcfg: link %s: announce: %w", link, err)
	}
	conn, err := ether.Open(link, ether.Silent)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	var errs []error
	for _, a := range addrs {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		for _, f := range announcements(conn.MAC(), a) {
			if err := conn.Send(f); err != nil {
				errs = append(errs, fail(err))
			}
		}
	}
	return errors.Join(errs...)
}

// announcements are the frames that say that a is at mac.
func announcements(mac [6]byte, a netip.Addr) []ether.Frame {
	if a.Is6() {
		return []ether.Frame{{Dst: allNodesMAC, Src: mac, Type: ether.IPv6, Payload: unsolicited(mac, a)}}
	}
	var frames []ether.Frame
	for _, op := range []byte{arpRequest, arpReply} {
		frames = append(frames, ether.Frame{Dst: ether.Broadcast, Src: mac, Type: ether.ARP, Payload: gratuitous(op, mac, a)})
	}
	return frames
}

// ARP operations, RFC 826.
const (
	arpRequest = 1
	arpReply   = 2
)

// gratuitous returns an ARP packet (RFC 826) about our own address.
func gratuitous(op byte, mac [6]byte, ip netip.Addr) []byte {
	a := ip.As4()
	b := []byte{0, 1, 0x08, 0, 6, 4, 0, op} // Ethernet, IPv4, their lengths, operation
	b = append(b, mac[:]...)
	b = append(b, a[:]...)
	if op == arpRequest {
		b = append(b, make([]byte, 6)...)
	} else {
		b = append(b, mac[:]...)
	}
	return append(b, a[:]...)
}

// All nodes of a link, RFC 4291 section 2.7.1 and RFC 2464 section 7.
var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = [6]byte{0x33, 0x33, 0, 0, 0, 1}
)

// unsolicited returns an IPv6 packet with a neighbour advertisement of our own
// address: not solicited, override, with the target's link-layer address.
func unsolicited(mac [6]byte, ip netip.Addr) []byte {
	const icmpv6, advertisement, override = 58, 136, 0x20
	a, to := ip.As16(), allNodes.As16()
	icmp := []byte{advertisement, 0, 0, 0, override, 0, 0, 0}
	icmp = append(icmp, a[:]...)
	icmp = append(icmp, 2, 1) // option: target link-layer address, 8 bytes
	icmp = append(icmp, mac[:]...)

	pseudo := append(a[:], to[:]...) // RFC 8200 section 8.1
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(icmp)))
	pseudo = append(pseudo, 0, 0, 0, icmpv6)
	binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))

	b := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), icmpv6, 255}
	b = append(b, a[:]...)
	b = append(b, to[:]...)
	return append(b, icmp...)
}

// checksum is that of the internet, RFC 1071; of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
