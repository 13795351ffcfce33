package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"baystream/netcfg"
)

// portalPort is iSCSI's (RFC 7143 section 13).
const portalPort = 3260

// holder is the link that has the portal addresses: Linux answers for them on
// every link, and what netcfg wants of the deployment link has nothing to do
// with who serves which group.
const holder = "lo"

// Addresses are the portal addresses of this module.
type Addresses struct {
	Link   string             // the deployment link, on which they are announced
	Groups map[int]netip.Addr // by group
}

func (a Addresses) prefix(group int) (*netlink.Addr, error) {
	p, ok := a.Groups[group]
	if !ok {
		return nil, fmt.Errorf("group %d has no portal address: set portals in the frame", group)
	}
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.AsSlice(), Mask: net.CIDRMask(32, 32)}}, nil
}

// Held implements Portals.
func (a Addresses) Held(group int) bool {
	link, err := netlink.LinkByName(holder)
	if err != nil {
		return false
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return false
	}
	for _, x := range addrs {
		if ip, ok := netip.AddrFromSlice(x.IP); ok && ip.Unmap() == a.Groups[group] {
			return true
		}
	}
	return false
}

// Add implements Portals.
func (a Addresses) Add(_ context.Context, group int) error {
	return a.change(group, netlink.AddrAdd, unix.EEXIST)
}

// Remove implements Portals.
func (a Addresses) Remove(_ context.Context, group int) error {
	return a.change(group, netlink.AddrDel, unix.EADDRNOTAVAIL)
}

func (a Addresses) change(group int, f func(netlink.Link, *netlink.Addr) error, fine error) error {
	p, err := a.prefix(group)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(holder)
	if err == nil {
		err = f(link, p)
	}
	if err != nil && !errors.Is(err, fine) {
		return fmt.Errorf("portal address %v: %w", p.IP, err)
	}
	return nil
}

// Announce implements Portals: at once, and twice again, for frames get lost.
func (a Addresses) Announce(ctx context.Context, group int) error {
	addr := a.Groups[group]
	go func() {
		for _, pause := range []time.Duration{100 * time.Millisecond, time.Second} {
			time.Sleep(pause)
			if a.Held(group) {
				_ = netcfg.Announce(context.WithoutCancel(ctx), a.Link, addr)
			}
		}
	}()
	return netcfg.Announce(ctx, a.Link, addr)
}

// Flows implements Portals.
func (a Addresses) Flows(group int) []netip.AddrPort {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil
	}
	return flows(string(b), netip.AddrPortFrom(a.Groups[group], portalPort))
}

// flows reads /proc/net/tcp (proc(5)) for the other ends of what is established
// at local.
func flows(table string, local netip.AddrPort) []netip.AddrPort {
	const established = "01"
	var out []netip.AddrPort
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != established {
			continue
		}
		if at, ok := parseHexAddr(f[1]); !ok || at != local {
			continue
		}
		if from, ok := parseHexAddr(f[2]); ok {
			out = append(out, from)
		}
	}
	return out
}

func parseHexAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	h, err := strconv.ParseUint(host, 16, 32)
	p, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil {
		return netip.AddrPort{}, false
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(h))
	return netip.AddrPortFrom(netip.AddrFrom4(b), uint16(p)), true
}

// tickleAt is when a tickle is sent, since the first: an initiator answers one
// in half a second.
var tickleAt = []time.Duration{0, 100 * time.Millisecond, 700 * time.Millisecond, 1900 * time.Millisecond}

// Tickle implements Portals: a bare ACK to each initiator's port makes it
// answer, which meets a reset of this module, which knows no such connection.
// Without it an initiator notices by its next ping, seconds later.
func (a Addresses) Tickle(_ context.Context, group int, to []netip.AddrPort) error {
	if len(to) == 0 {
		return nil
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return os.NewSyscallError("raw socket", err)
	}
	from := netip.AddrPortFrom(a.Groups[group], portalPort)
	send := func() error {
		var errs []error
		for _, d := range to {
			if !d.Addr().Is4() {
				continue
			}
			errs = append(errs, unix.Sendto(s, tickle(from, d), 0, &unix.SockaddrInet4{Addr: d.Addr().As4()}))
		}
		return errors.Join(errs...)
	}
	err = send()
	go func() {
		defer unix.Close(s)
		for i := 1; i < len(tickleAt); i++ {
			time.Sleep(tickleAt[i] - tickleAt[i-1])
			if a.Held(group) {
				_ = send()
			}
		}
	}()
	return err
}

// tickle is an IPv4 packet with a TCP segment that has ACK set and nothing else
// right about it.
func tickle(from, to netip.AddrPort) []byte {
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP // no options; TTL; the kernel fills length, id and sum in
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	t := b[20:]
	binary.BigEndian.PutUint16(t, from.Port())
	binary.BigEndian.PutUint16(t[2:], to.Port())
	t[12], t[13] = 5<<4, 0x10 // 20 bytes; ACK
	binary.BigEndian.PutUint16(t[14:], 512)
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(t))
	for _, part := range [][]byte{src[:], dst[:], t} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(t[16:], ^uint16(sum))
	return b
}
