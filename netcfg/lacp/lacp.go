// Package lacp hears whether the partner of a bond's ports wants to aggregate
// them (IEEE 802.1AX). The protocol itself is spoken by the kernel's bonding
// driver, in mode 802.3ad; a Listener only hears the partner's frames while
// the bond is of another mode, so that somebody can decide to change it.
//
// The two interconnect modules of a frame are two switches. They can be the one
// partner of a bond only if they act as one (multi-chassis aggregation), and
// say so: the same system and key on both ports. Anything else would leave the
// bond with one working port and no probes, so it stays active-backup.
package lacp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"baystream/netcfg/ether"
)

// slowMulticast is where the protocol is spoken; bridges do not forward it.
var slowMulticast = [6]byte{0x01, 0x80, 0xc2, 0, 0, 2}

// A Partner is how the sender of a frame presents itself, its actor fields.
type Partner struct {
	System   [6]byte
	Priority uint16 // of the system
	Key      uint16 // ports with the same key can be aggregated
	Port     uint16
}

func (p Partner) String() string {
	return fmt.Sprintf("system %v key %d port %d", net.HardwareAddr(p.System[:]), p.Key, p.Port)
}

// Parse reads the payload of a frame of slow protocols.
func Parse(b []byte) (Partner, error) {
	const subtype, version, actorTLV, actorLen = 1, 1, 1, 20
	if len(b) < 2+actorLen || b[0] != subtype || b[1] < version || b[2] != actorTLV || b[3] != actorLen {
		return Partner{}, errors.New("lacp: not a LACPDU")
	}
	a := b[4:]
	return Partner{
		Priority: binary.BigEndian.Uint16(a), System: [6]byte(a[2:8]),
		Key: binary.BigEndian.Uint16(a[8:]), Port: binary.BigEndian.Uint16(a[12:]),
	}, nil
}

// hold is how long a frame counts: three of the slow interval of 30 s.
const hold = 90 * time.Second

// A Listener hears the partner of one port.
type Listener struct {
	conn interface {
		MAC() [6]byte
		Receive(context.Context, func(ether.Frame)) error
	}
	mu      sync.Mutex
	partner Partner
	heard   int // frames in a row with this partner
	until   time.Time
}

// Open opens a Listener on a link of the calling thread's namespace.
func Open(link string) (*Listener, error) {
	c, err := ether.Open(link, ether.Slow, slowMulticast)
	if err != nil {
		return nil, fmt.Errorf("lacp: %w", err)
	}
	return &Listener{conn: c}, nil
}

// Run listens until ctx ends. An error means that the link is gone.
func (l *Listener) Run(ctx context.Context) error {
	if err := l.conn.Receive(ctx, l.receive); err != nil {
		return fmt.Errorf("lacp: %w", err)
	}
	return nil
}

func (l *Listener) receive(f ether.Frame) {
	p, err := Parse(f.Payload)
	if err != nil || f.Src == l.conn.MAC() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if p != l.partner || !now.Before(l.until) {
		l.partner, l.heard = p, 0
	}
	l.heard++
	l.until = now.Add(hold)
}

// Partner returns who speaks LACP at the other end, false if nobody has said so
// at least twice.
func (l *Listener) Partner() (Partner, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.partner, l.heard >= 2 && time.Now().Before(l.until)
}

// Aggregable says whether two ports have one partner that would aggregate
// them.
func Aggregable(a, b Partner) bool {
	return a.System == b.System && a.Priority == b.Priority && a.Key == b.Key && a.System != [6]byte{} && a.Port != b.Port
}
