package ether

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// A Conn is a socket for one EtherType on one link. Send and Receive may run
// at once.
type Conn struct {
	link string
	conn *packet.Conn
	mac  [6]byte
	mtu  int
}

// Open opens a socket on a link of the calling thread's namespace. The link
// shall take frames to these further addresses too, groups or single stations.
// Needs CAP_NET_RAW.
func Open(link string, etherType uint16, addrs ...[6]byte) (*Conn, error) {
	fail := func(err error) (*Conn, error) {
		return nil, fmt.Errorf("link %s: socket for frames of type %#04x: %w", link, etherType, err)
	}
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return fail(err)
	}
	c, err := packet.Listen(ifi, packet.Raw, int(etherType), nil)
	if err != nil {
		return fail(err)
	}
	for _, a := range addrs {
		if err := join(c, ifi.Index, a); err != nil {
			c.Close()
			return fail(err)
		}
	}
	return &Conn{link: link, conn: c, mac: MAC(ifi.HardwareAddr), mtu: ifi.MTU}, nil
}

func join(c *packet.Conn, index int, a [6]byte) error {
	if a[0]&1 != 0 {
		return c.JoinGroup(a[:])
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	m := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_UNICAST, Alen: 6}
	copy(m.Address[:], a[:])
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m)
	})
	return errors.Join(err, serr)
}

// MAC is the address that the link had when it was opened.
func (c *Conn) MAC() [6]byte { return c.mac }

// MTU is the link's, in bytes, when it was opened.
func (c *Conn) MTU() int { return c.mtu }

// Send sends one frame. A source of zeros is replaced by the link's address.
func (c *Conn) Send(f Frame) error {
	if f.Src == ([6]byte{}) {
		f.Src = c.mac
	}
	_, err := c.conn.WriteTo(f.Marshal(), &packet.Addr{HardwareAddr: f.Dst[:]})
	return err
}

// Receive hands frames to each until ctx ends or the socket fails; then it is
// closed, too. The frame's payload is only lent. A link that goes down for a
// while is no failure.
func (c *Conn) Receive(ctx context.Context, each func(Frame)) error {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer func() {
		if stop() {
			c.conn.Close()
		}
	}()
	buf := make([]byte, 65536)
	for {
		n, _, err := c.conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENETDOWN):
			select { // the error comes once for each time that the link went down
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		case err != nil:
			return fmt.Errorf("link %s: receive: %w", c.link, err)
		}
		if f, err := Parse(buf[:n]); err == nil {
			each(f)
		}
	}
}

// Close ends the socket.
func (c *Conn) Close() error { return c.conn.Close() }
