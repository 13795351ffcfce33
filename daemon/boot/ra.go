package boot

import (
	"net"

	"golang.org/x/net/ipv6"
)

var (
	allNodes   = net.ParseIP("ff02::1")
	allRouters = net.ParseIP("ff02::2")
)

// emptyRA is a router advertisement (RFC 4861 section 4.2) that says nothing:
// no router, no prefix, no other source of addresses. iPXE waits 16 s for one.
// The kernel fills in the checksum.
var emptyRA = []byte{
	byte(ipv6.ICMPTypeRouterAdvertisement), 0, 0, 0,
	0, 0, 0, 0, // hop limit, flags, lifetime: unspecified, none, not a router
	0, 0, 0, 0, // reachable time
	0, 0, 0, 0, // retransmission timer
}

// joinRouters makes p receive router solicitations and nothing else.
func joinRouters(p *ipv6.PacketConn, ifi *net.Interface) error {
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	for _, set := range []func() error{
		func() error { return p.SetICMPFilter(&only) },
		func() error { return p.SetControlMessage(ipv6.FlagHopLimit, true) },
		func() error { return p.SetMulticastHopLimit(255) },
		func() error { return p.SetMulticastInterface(ifi) },
		func() error { return p.JoinGroup(ifi, &net.IPAddr{IP: allRouters}) },
	} {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

// serveRA answers each solicitation to all, until p is closed: unlike
// routers' it changes nothing for whoever hears it unasked.
func (s *Service) serveRA(p *ipv6.PacketConn) error {
	buf := make([]byte, 1500)
	for {
		n, cm, _, err := p.ReadFrom(buf)
		if err != nil {
			return err
		}
		// RFC 4861 section 6.1.1; a lower hop limit came through a router.
		if n < 8 || buf[0] != byte(ipv6.ICMPTypeRouterSolicitation) || cm == nil || cm.HopLimit != 255 {
			continue
		}
		to := &net.IPAddr{IP: allNodes, Zone: s.cfg.Interface}
		if _, err := p.WriteTo(emptyRA, nil, to); err != nil {
			s.log.Debug("router advertisement", "err", err)
		}
	}
}
