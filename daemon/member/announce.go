package member

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// Port is where modules announce themselves (UDP).
const Port = 7973

// group is an IPv6 multicast address that reaches the link and no further
// (RFC 4291 section 2.7: transient, link-local scope). It needs no address but
// the link-local one, which every port has.
var group = net.ParseIP("ff12::6261:7973")

const (
	announceEvery = 5 * time.Second
	forgetAfter   = 3 * announceEvery
	maxPacket     = 1400 // bytes
	maxFound      = 256  // modules remembered: a flood must not fill the memory
)

// Announcement is what a module says of itself.
type Announcement struct {
	Module domain.Module `json:"module"`
	Domain string        `json:"domain,omitempty"` // id of its domain
}

// packet is an announcement and the proof that the key behind the fingerprint
// made it.
type packet struct {
	Announcement json.RawMessage `json:"announcement"`
	Key          []byte          `json:"key"` // SubjectPublicKeyInfo
	Signature    []byte          `json:"signature"`
}

// seal makes the packet of an announcement.
func seal(m *pki.Module, a Announcement) ([]byte, error) {
	a.Module.Fingerprint = m.Fingerprint()
	body, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("member: announcement: %w", err)
	}
	key, sig, err := m.Sign(body)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(packet{body, key, sig})
	if err != nil || len(b) > maxPacket {
		return nil, fmt.Errorf("member: announcement of %d bytes: %w", len(b), errors.Join(err, errors.New("too long")))
	}
	return b, nil
}

// open checks a packet and returns what it announces.
func open(b []byte) (Announcement, error) {
	var p packet
	var a Announcement
	if err := json.Unmarshal(b, &p); err != nil {
		return a, fmt.Errorf("member: announcement: %w", err)
	}
	fingerprint, err := pki.VerifySignature(p.Announcement, p.Key, p.Signature)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(p.Announcement, &a); err != nil {
		return a, fmt.Errorf("member: announcement: %w", err)
	}
	if a.Module.Fingerprint != fingerprint {
		return a, errors.New("member: announcement: it is signed by another key than it names")
	}
	return a, nil
}

// Announce says what now returns on the named link, every five seconds until
// ctx ends. A link that is not there yet is waited for.
func Announce(ctx context.Context, link string, m *pki.Module, now func() Announcement, log *slog.Logger) {
	var last string
	for {
		if err := announceOnce(link, m, now()); err != nil && err.Error() != last {
			last = err.Error()
			log.Debug("announce this module", "link", link, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(announceEvery):
		}
	}
}

func announceOnce(link string, m *pki.Module, a Announcement) error {
	b, err := seal(m, a)
	if err != nil {
		return err
	}
	conn, err := net.DialUDP("udp6", nil, &net.UDPAddr{IP: group, Port: Port, Zone: link})
	if err != nil {
		return err
	}
	_, err = conn.Write(b)
	return errors.Join(err, conn.Close())
}

// Finder listens for announcements.
type Finder struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	found map[string]sighting // by fingerprint
}

type sighting struct {
	Announcement
	at time.Time
}

// NewFinder makes a Finder.
func NewFinder(log *slog.Logger) *Finder {
	return &Finder{log: log, now: time.Now, found: map[string]sighting{}}
}

// Run listens on the named link until ctx ends; a link that is not there yet or
// goes away is waited for.
func (f *Finder) Run(ctx context.Context, link string) {
	var last string
	for ctx.Err() == nil {
		err := f.listen(ctx, link)
		if err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			f.log.Debug("listen for modules", "link", link, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(announceEvery):
		}
	}
}

func (f *Finder) listen(ctx context.Context, link string) error {
	conn, err := f.join(link)
	if err != nil {
		return err
	}
	return f.hear(ctx, conn)
}

func (f *Finder) join(link string) (*net.UDPConn, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err
	}
	return net.ListenMulticastUDP("udp6", ifi, &net.UDPAddr{IP: group, Port: Port})
}

// hear takes what comes until ctx ends or the link goes away.
func (f *Finder) hear(ctx context.Context, conn *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	buf := make([]byte, maxPacket+1)
	for {
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			return err
		}
		if !from.IP.IsLinkLocalUnicast() || n > maxPacket {
			continue // from beyond the link, or none of ours
		}
		f.take(bytes.Clone(buf[:n]))
	}
}

func (f *Finder) take(b []byte) {
	a, err := open(b)
	if err != nil {
		f.log.Debug("announcement", "err", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	if _, ok := f.found[a.Module.Fingerprint]; ok || len(f.found) < maxFound {
		f.found[a.Module.Fingerprint] = sighting{a, f.now()}
	}
}

func (f *Finder) forget() {
	for k, s := range f.found {
		if f.now().Sub(s.at) > forgetAfter {
			delete(f.found, k)
		}
	}
}

// Found are the modules that announced themselves lately, by serial number.
func (f *Finder) Found() []Announcement {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	var all []Announcement
	for _, s := range f.found {
		all = append(all, s.Announcement)
	}
	slices.SortFunc(all, func(a, b Announcement) int { return strings.Compare(a.Module.ID, b.Module.ID) })
	return all
}
