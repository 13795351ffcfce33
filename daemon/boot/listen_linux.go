package boot

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	tftpPort = 69
	httpPort = 80
)

// listeners are the sockets of a running Service.
type listeners struct {
	dhcp net.PacketConn
	tftp net.PacketConn
	http net.Listener
	icmp *ipv6.PacketConn // nil without IPv6
	once sync.Once
}

// close closes all. It may be called by several goroutines.
func (l *listeners) close() {
	l.once.Do(func() {
		if l.dhcp != nil {
			l.dhcp.Close()
		}
		if l.tftp != nil {
			l.tftp.Close()
		}
		if l.http != nil {
			l.http.Close()
		}
		if l.icmp != nil {
			l.icmp.Close()
		}
	})
}

// listen opens all sockets, each bound to the interface. Servers boot without
// router advertisements too, only slower, so these may be missing.
func (s *Service) listen(ctx context.Context, ifi *net.Interface) (*listeners, error) {
	l := &listeners{}
	fail := func(what string, err error) (*listeners, error) {
		l.close()
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	dhcp, err := server4.NewIPv4UDPConn(ifi.Name, &net.UDPAddr{Port: dhcpv4.ServerPort})
	if err != nil {
		return fail("dhcp", err)
	}
	l.dhcp = dhcp
	if l.tftp, err = s.listenUDP(ctx, tftpPort); err != nil {
		return fail("tftp", err)
	}
	lc := net.ListenConfig{Control: s.bindToDevice}
	if l.http, err = lc.Listen(ctx, "tcp4", s.hostPort(httpPort)); err != nil {
		return fail("http", err)
	}
	if l.icmp, err = s.listenRA(ctx, ifi); err != nil {
		s.log.Warn("no router advertisements: iPXE will wait for them", "err", err)
	}
	return l, nil
}

func (s *Service) listenUDP(ctx context.Context, port int) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: s.bindToDevice}
	return lc.ListenPacket(ctx, "udp4", s.hostPort(port))
}

func (s *Service) hostPort(port int) string {
	return net.JoinHostPort(s.cfg.Address.Addr().String(), strconv.Itoa(port))
}

// bindToDevice keeps a socket to our interface: socket(7), SO_BINDTODEVICE. The
// address alone would be reachable over every network of the module.
func (s *Service) bindToDevice(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, s.cfg.Interface)
	}); e != nil {
		return e
	}
	return err
}

func (s *Service) listenRA(ctx context.Context, ifi *net.Interface) (*ipv6.PacketConn, error) {
	lc := net.ListenConfig{Control: s.bindToDevice}
	conn, err := lc.ListenPacket(ctx, "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, err
	}
	p := ipv6.NewPacketConn(conn)
	if err := joinRouters(p, ifi); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}
