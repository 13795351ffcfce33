// Package acd detects that two stations use one IPv4 address (RFC 5227). The
// kernel does it for IPv6 only (RFC 4862).
//
// Check asks before an address is used; it takes some seconds, as the RFC wants
// it. A Guard watches addresses that are in use and defends them. An address
// whose owner is known by other means, such as a service address that was
// taken over under a grant, goes to the Guard without a Check: announced at
// once, guarded from then on.
//
// A Guard never gives an address up by itself (RFC 5227 section 2.4, case c):
// a portal or a management address without an owner helps nobody. It says who
// the other one is.
package acd

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"baystream/netcfg/ether"
)

// RFC 5227 section 1.1.
const (
	probeWait      = time.Second
	probeNum       = 3
	probeMin       = time.Second
	probeMax       = 2 * time.Second
	announceWait   = 2 * time.Second
	defendInterval = 10 * time.Second
)

// conn is what is needed of ether.Conn.
type conn interface {
	MAC() [6]byte
	Send(ether.Frame) error
	Receive(context.Context, func(ether.Frame)) error
	Close() error
}

// A Conflict is another station with one of our addresses.
type Conflict struct {
	Link string
	Addr netip.Addr
	MAC  net.HardwareAddr
	At   time.Time
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("link %s: address %v is used by %v already: give one of the two another address", c.Link, c.Addr, c.MAC)
}

// Check asks whether anybody on the link uses addr. The error is a *Conflict if
// so. It takes 4 to 9 s.
func Check(ctx context.Context, link string, addr netip.Addr) error {
	c, err := ether.Open(link, ether.ARP)
	if err != nil {
		return fmt.Errorf("acd: %w", err)
	}
	return check(ctx, c, link, addr)
}

func check(ctx context.Context, c conn, link string, addr netip.Addr) error {
	ctx, cancel := context.WithCancel(ctx)
	found := make(chan *Conflict, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Receive(ctx, func(f ether.Frame) {
			a, ok := parse(f.Payload)
			if !ok || a.sender == c.MAC() {
				return
			}
			if a.senderIP == addr || a.senderIP.IsUnspecified() && a.op == request && a.targetIP == addr {
				select {
				case found <- &Conflict{Link: link, Addr: addr, MAC: a.sender[:], At: time.Now()}:
				default:
				}
			}
		}); err != nil {
			cancel()
		}
	})
	defer wg.Wait()
	defer cancel()
	pause := rand.N(probeWait)
	for i := range probeNum + 1 {
		select {
		case conflict := <-found:
			return conflict
		case <-ctx.Done():
			return fmt.Errorf("acd: link %s: address %v was not checked: %w", link, addr, ctx.Err())
		case <-time.After(pause):
		}
		if i == probeNum {
			break
		}
		question := packet(request, c.MAC(), netip.IPv4Unspecified(), addr)
		if err := c.Send(ether.Frame{Dst: ether.Broadcast, Src: c.MAC(), Type: ether.ARP, Payload: question}); err != nil {
			return fmt.Errorf("acd: link %s: address %v was not checked: %w", link, addr, err)
		}
		pause = probeMin + rand.N(probeMax-probeMin)
		if i == probeNum-1 {
			pause = announceWait
		}
	}
	return nil
}

// A Guard watches the addresses of one link.
type Guard struct {
	link string
	conn conn
	log  *slog.Logger
	own  func(mac [6]byte) bool

	mu        sync.Mutex
	addrs     []netip.Addr
	conflicts map[netip.Addr]*Conflict
	defended  map[netip.Addr]time.Time
}

// OpenGuard opens a Guard on a link. Frames from stations for which own is true
// are no conflict: further ports of ours.
func OpenGuard(link string, own func(mac [6]byte) bool, log *slog.Logger) (*Guard, error) {
	c, err := ether.Open(link, ether.ARP)
	if err != nil {
		return nil, fmt.Errorf("acd: %w", err)
	}
	return newGuard(link, c, own, log), nil
}

func newGuard(link string, c conn, own func([6]byte) bool, log *slog.Logger) *Guard {
	return &Guard{link: link, conn: c, own: own, log: log.With("link", link),
		conflicts: map[netip.Addr]*Conflict{}, defended: map[netip.Addr]time.Time{}}
}

// Watch replaces the addresses that are guarded. IPv6 addresses are left out.
func (g *Guard) Watch(addrs ...netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !a.Is4() })
	for a := range g.conflicts {
		if !slices.Contains(g.addrs, a) {
			delete(g.conflicts, a)
		}
	}
}

// forget is how long after its last sign a conflict counts as over.
const forget = 5 * time.Minute

// Conflicts returns those seen in the last five minutes.
func (g *Guard) Conflicts() []Conflict {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Conflict
	for _, a := range g.addrs {
		if c := g.conflicts[a]; c != nil && time.Since(c.At) < forget {
			all = append(all, *c)
		}
	}
	return all
}

// Run guards until ctx ends, then it returns nil; an error means that the link
// is gone. It closes the Guard.
func (g *Guard) Run(ctx context.Context) error {
	err := g.conn.Receive(ctx, g.heard)
	if err != nil {
		return fmt.Errorf("acd: %w", err)
	}
	return nil
}

func (g *Guard) heard(f ether.Frame) {
	a, ok := parse(f.Payload)
	if !ok || a.sender == g.conn.MAC() || g.own != nil && g.own(a.sender) {
		return
	}
	if !g.conflict(a) {
		return
	}
	claim := packet(request, g.conn.MAC(), a.senderIP, a.senderIP)
	if err := g.conn.Send(ether.Frame{Dst: ether.Broadcast, Src: g.conn.MAC(), Type: ether.ARP, Payload: claim}); err != nil {
		g.log.Warn("address not defended", "address", a.senderIP, "err", err)
	}
}

// conflict notes a conflict and says whether to defend the address now: once
// in ten seconds, so that two defenders do not fight without end.
func (g *Guard) conflict(a arp) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.addrs, a.senderIP) {
		return false
	}
	now := time.Now()
	if last := g.conflicts[a.senderIP]; last == nil || now.Sub(last.At) >= forget {
		g.log.Error("another station has our address", "address", a.senderIP, "mac", net.HardwareAddr(a.sender[:]))
	}
	g.conflicts[a.senderIP] = &Conflict{Link: g.link, Addr: a.senderIP, MAC: slices.Clone(a.sender[:]), At: now}
	if last, ok := g.defended[a.senderIP]; ok && now.Sub(last) < defendInterval {
		return false
	}
	g.defended[a.senderIP] = now
	return true
}

const request = 1

// arp is an ARP packet for IPv4 over Ethernet, RFC 826.
type arp struct {
	op       uint16
	sender   [6]byte
	senderIP netip.Addr
	targetIP netip.Addr
}

func parse(b []byte) (arp, bool) {
	if len(b) < 28 || binary.BigEndian.Uint64(b)>>16 != 0x0001_0800_0604 {
		return arp{}, false
	}
	return arp{
		op: binary.BigEndian.Uint16(b[6:]), sender: [6]byte(b[8:]),
		senderIP: netip.AddrFrom4([4]byte(b[14:])), targetIP: netip.AddrFrom4([4]byte(b[24:])),
	}, true
}

func packet(op byte, sender [6]byte, senderIP, targetIP netip.Addr) []byte {
	from, to := senderIP.As4(), targetIP.As4()
	b := []byte{0, 1, 0x08, 0, 6, 4, 0, op}
	b = append(b, sender[:]...)
	b = append(b, from[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, to[:]...)
}
