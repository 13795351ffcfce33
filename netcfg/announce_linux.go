package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// Announce tells the neighbours on a link that these IPv4 addresses are here:
// for each a gratuitous ARP request and reply (RFC 5227 section 3; some
// neighbours believe only one of the two). A frame can be lost, so announce
// again a second later. It does not look whether the link has the addresses.
func Announce(ctx context.Context, link string, addrs ...netip.Addr) error {
	fail := func(err error) error {
		return fmt.Errorf("netcfg: link %s: announce: %w", link, err)
	}
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return fail(err)
	}
	conn, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	var errs []error
	for _, a := range addrs {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if !a.Is4() {
			errs = append(errs, fail(fmt.Errorf("%v is not an IPv4 address", a)))
			continue
		}
		for _, op := range []byte{arpRequest, arpReply} {
			_, err := conn.WriteTo(gratuitous(op, ifi.HardwareAddr, a), &packet.Addr{HardwareAddr: broadcast})
			if err != nil {
				errs = append(errs, fail(err))
			}
		}
	}
	return errors.Join(errs...)
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ARP operations, RFC 826.
const (
	arpRequest = 1
	arpReply   = 2
)

// gratuitous returns an ARP packet (RFC 826) about our own address.
func gratuitous(op byte, mac net.HardwareAddr, ip netip.Addr) []byte {
	a := ip.As4()
	b := []byte{0, 1, 0x08, 0, 6, 4, 0, op} // Ethernet, IPv4, their lengths, operation
	b = append(b, mac...)
	b = append(b, a[:]...)
	if op == arpRequest {
		b = append(b, make([]byte, 6)...)
	} else {
		b = append(b, mac...)
	}
	return append(b, a[:]...)
}
