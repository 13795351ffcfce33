// Package lldp tells the stations at the other ends of a module's cables who is
// here, and listens who they are (IEEE 802.1AB).
//
// An Agent speaks and listens on one port. Interconnect modules never forward
// these frames, so whoever is heard is at the other end of the cable: Place
// says which interconnect bay that is, and Crossed compares it with the bay
// that the port's slot leads to.
package lldp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/netcfg/ether"
)

// nearest is the address that no bridge forwards (nearest bridge, table 7-1).
var nearest = [6]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}

// Times of the transmitter, clause 9.2.5: in general, and fast after a new
// neighbour was heard.
const (
	txInterval = 30 * time.Second
	txFast     = time.Second
	fastCount  = 4
	txHold     = 4
)

// conn is what is needed of ether.Conn.
type conn interface {
	MAC() [6]byte
	Send(ether.Frame) error
	Receive(context.Context, func(ether.Frame)) error
}

// An Agent is the LLDP of one port.
type Agent struct {
	link string
	conn conn
	say  func() Frame
	log  *slog.Logger
	news chan struct{} // a new neighbour

	mu    sync.Mutex
	heard Neighbour
	known map[string]time.Time // all that were heard, until they count no more
}

// maxKnown bounds them: behind a switch that passes such frames there are many,
// and anybody can send them.
const maxKnown = 64

// A Neighbour is who was heard last.
type Neighbour struct {
	Frame
	MAC   [6]byte
	Since time.Time // it is the same since then
	Until time.Time // it counts until then
}

// Open opens an Agent on a link of the calling thread's namespace. say makes
// what is sent; its TTL and, if it is empty, its port are filled in.
func Open(link string, say func() Frame, log *slog.Logger) (*Agent, error) {
	c, err := ether.Open(link, ether.LLDP, nearest)
	if err != nil {
		return nil, fmt.Errorf("lldp: %w", err)
	}
	return newAgent(link, c, say, log), nil
}

func newAgent(link string, c conn, say func() Frame, log *slog.Logger) *Agent {
	return &Agent{link: link, conn: c, say: say, log: log.With("link", link), news: make(chan struct{}, 1), known: map[string]time.Time{}}
}

// Neighbour returns who is at the other end; false if nobody was heard within
// the time they asked for.
func (a *Agent) Neighbour() (Neighbour, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heard, time.Now().Before(a.heard.Until)
}

// Run speaks and listens until ctx ends; then it says goodbye and returns nil.
// An error means that the link is gone.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// The goodbye goes out before the socket closes.
	listen, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return a.conn.Receive(listen, a.receive) })
	g.Go(func() error {
		defer stop()
		fast := fastCount
		for {
			a.send(txInterval * txHold)
			pause := txInterval
			if fast > 0 {
				fast, pause = fast-1, txFast
			}
			t := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				t.Stop()
				a.send(0)
				return nil
			case <-a.news:
				fast = fastCount
			case <-t.C:
			}
			t.Stop()
		}
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("lldp: %w", err)
	}
	return nil
}

func (a *Agent) send(ttl time.Duration) {
	f := a.say()
	f.TTL = ttl
	if len(f.Port.Value) == 0 {
		f.Port = ID{PortIfName, []byte(a.link)}
	}
	if err := a.conn.Send(ether.Frame{Dst: nearest, Src: a.conn.MAC(), Type: ether.LLDP, Payload: f.Marshal()}); err != nil {
		a.log.Debug("lldp not sent", "err", err)
	}
}

func (a *Agent) receive(e ether.Frame) {
	f, err := Parse(e.Payload)
	if err != nil || e.Src == a.conn.MAC() {
		a.log.Debug("lldp frame left out", "from", fmt.Sprintf("%x", e.Src), "err", err)
		return
	}
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	same := now.Before(a.heard.Until) && f.ChassisText() == a.heard.ChassisText() && f.PortText() == a.heard.PortText()
	since := a.heard.Since
	if f.TTL == 0 { // goodbye
		delete(a.known, f.ChassisText()+" "+f.PortText())
	}
	if !same {
		since = now
		if f.TTL > 0 && a.isNew(f, now) {
			a.log.Info("neighbour", "system", f.SystemName, "port", f.PortText(), "chassis", f.ChassisText())
			select {
			case a.news <- struct{}{}:
			default:
			}
		}
	}
	a.heard = Neighbour{Frame: f, MAC: e.Src, Since: since, Until: now.Add(f.TTL)}
}

// isNew notes who was heard, and says whether it is for the first time: several
// on one wire must not take each other for news. It is called with mu held.
func (a *Agent) isNew(f Frame, now time.Time) bool {
	maps.DeleteFunc(a.known, func(_ string, until time.Time) bool { return now.After(until) })
	who := f.ChassisText() + " " + f.PortText()
	_, known := a.known[who]
	if known || len(a.known) < maxKnown {
		a.known[who] = now.Add(f.TTL)
	}
	return !known && len(a.known) < maxKnown
}
