package group

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
)

// Port is the UDP port that partners talk on (netcfg/firewall.Ports).
const Port = 7974

// UDP carries the talk over every network that the partners share.
type UDP struct {
	*Talk
	conn  *net.UDPConn
	log   *slog.Logger
	peers func() []netip.Addr
	mu    sync.Mutex // one word at a time, so that numbers leave in order
}

// ListenUDP opens the port. peers are the partner's addresses as they are now.
func ListenUDP(talk *Talk, peers func() []netip.Addr, log *slog.Logger) (*UDP, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: Port})
	if err != nil {
		return nil, err
	}
	return &UDP{Talk: talk, conn: conn, log: log, peers: peers}, nil
}

// Say implements Line: the same word to every address.
func (u *UDP) Say(w Word) {
	u.mu.Lock()
	defer u.mu.Unlock()
	b, err := u.Seal(w)
	if err != nil {
		u.log.Error("word to the partner", "err", err)
		return
	}
	for _, p := range u.peers() {
		// A network that is away is why there are several.
		_, _ = u.conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(p, Port))
	}
}

// Run takes words in until ctx ends.
func (u *UDP) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { u.conn.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			continue
		}
		if err := u.Open(buf[:n]); err != nil {
			u.log.Debug("word", "from", from.String(), "err", err)
		}
	}
}
