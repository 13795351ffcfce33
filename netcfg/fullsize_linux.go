package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTooLong says that a peer answers short packets and not those of full size:
// something between has a smaller MTU and does not say so.
var ErrTooLong = errors.New("short packets pass, those of full size do not: raise the MTU of what is between, or lower ours")

// ErrNoAnswer says that a peer does not answer at all, so that nothing is known.
var ErrNoAnswer = errors.New("no answer to an echo request")

const (
	ipHeader, icmpHeader = 20, 8
	pings                = 3
	pingWait             = time.Second
)

// CheckMTU asks an IPv4 peer on a link for an answer to a packet as large as
// mtu allows, which may not be cut into fragments (ICMP echo, RFC 792). The
// error is ErrTooLong or ErrNoAnswer, or says why it could not be asked.
func CheckMTU(ctx context.Context, link string, peer netip.Addr, mtu int) error {
	fail := func(err error) error {
		return fmt.Errorf("netcfg: link %s: MTU %d to %v: %w", link, mtu, peer, err)
	}
	conn, err := openPing(ctx, link)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	short, err := ping(ctx, conn, peer, ipHeader+icmpHeader+8)
	if err != nil {
		return fail(err)
	}
	if !short {
		return fail(ErrNoAnswer)
	}
	long, err := ping(ctx, conn, peer, mtu)
	switch {
	case err != nil && !errors.Is(err, unix.EMSGSIZE):
		return fail(err)
	case !long:
		return fail(ErrTooLong)
	}
	return nil
}

// openPing opens a raw socket for echo requests whose packets are never cut:
// ip(7), IP_MTU_DISCOVER with IP_PMTUDISC_PROBE.
func openPing(ctx context.Context, link string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE),
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link))
		})
		return errors.Join(cerr, err)
	}}
	return lc.ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
}

// ping sends echo requests of size bytes, IP header included, and says whether
// one came back.
func ping(ctx context.Context, conn net.PacketConn, peer netip.Addr, size int) (bool, error) {
	const echo, echoReply, ident = 8, 0, 0x6261
	buf := make([]byte, 65536)
	for seq := range pings {
		req := make([]byte, (size-ipHeader)&^1) // even, for the check sum
		req[0] = echo
		binary.BigEndian.PutUint16(req[4:], ident)
		binary.BigEndian.PutUint16(req[6:], uint16(seq<<14|size&0x3fff))
		binary.BigEndian.PutUint16(req[2:], checksum(req))
		if _, err := conn.WriteTo(req, &net.IPAddr{IP: peer.AsSlice()}); err != nil {
			return false, err
		}
		deadline := time.Now().Add(pingWait)
		if err := conn.SetReadDeadline(deadline); err != nil {
			return false, err
		}
		for {
			n, from, err := conn.ReadFrom(buf)
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				break
			}
			if err != nil {
				return false, err
			}
			a, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
			if ok && a.Unmap() == peer && n == len(req) && buf[0] == echoReply && [4]byte(buf[4:8]) == [4]byte(req[4:8]) {
				return true, nil
			}
		}
	}
	return false, nil
}
