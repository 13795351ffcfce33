package netcfg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// A Lease is what a DHCP server lends to the management port. The zero Lease
// says that there is none any more.
type Lease struct {
	Management
	DNS      []netip.Addr
	Duration time.Duration
}

// DHCP keeps a lease for a link, which must be up, until ctx ends; then it
// returns nil. It calls onLease for each lease that differs from the one
// before, and with the zero Lease when one has run out. It does not touch the
// link: onLease puts the address into the Config. Without an answer it tries
// again after 1 s, 2 s, ... 30 s, for ever.
//
// It is for one call per link at a time. RFC 2131 sections 4.4.1 and 4.4.5.
func DHCP(ctx context.Context, link string, log *slog.Logger, onLease func(Lease)) error {
	d := dhcpLoop{log: log.With("link", link), onLease: onLease}
	d.open = func() (dhcpClient, error) {
		c, err := nclient4.New(link, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
		if err != nil {
			return nil, fmt.Errorf("netcfg: link %s: dhcp: %w", link, err)
		}
		return c, nil
	}
	return d.run(ctx)
}

// dhcpClient is what the loop needs of nclient4.Client.
type dhcpClient interface {
	Request(context.Context, ...dhcpv4.Modifier) (*nclient4.Lease, error)
	Renew(context.Context, *nclient4.Lease, ...dhcpv4.Modifier) (*nclient4.Lease, error)
	Close() error
}

const (
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
	minRenewal   = 10 * time.Second
	infinite     = 0xffffffff * time.Second // RFC 2131 section 3.3
)

type dhcpLoop struct {
	log     *slog.Logger
	open    func() (dhcpClient, error)
	onLease func(Lease)
	last    Lease
}

func (d *dhcpLoop) run(ctx context.Context) error {
	backoff := firstBackoff
	for {
		got, err := d.hold(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if got {
			backoff = firstBackoff
		}
		level := slog.LevelDebug // once is enough for the operator
		if backoff == firstBackoff {
			level = slog.LevelWarn
		}
		d.log.Log(ctx, level, "no dhcp lease", "err", err, "retry", backoff)
		if !sleep(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// hold gets one lease and keeps it as long as the server renews it. It says
// whether it had one.
func (d *dhcpLoop) hold(ctx context.Context) (bool, error) {
	c, err := d.open()
	if err != nil {
		return false, err
	}
	defer c.Close()
	// The client's address is not broadcast to the server before it is set:
	// answers come by broadcast.
	l, err := c.Request(ctx, dhcpv4.WithBroadcast(true))
	if err != nil {
		return false, err
	}
	for {
		lease, err := parseLease(l.ACK)
		if err != nil {
			return false, err
		}
		d.tell(lease)
		if l, err = d.renew(ctx, c, l, lease.Duration); err != nil {
			if ctx.Err() == nil {
				d.tell(Lease{})
			}
			return true, err
		}
	}
}

// renew waits for half of the lease and then asks until its end.
func (d *dhcpLoop) renew(ctx context.Context, c dhcpClient, l *nclient4.Lease, left time.Duration) (*nclient4.Lease, error) {
	if left >= infinite {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	err := errors.New("lease too short to renew")
	end := time.Now().Add(left)
	wait := max(left/2, min(minRenewal, left))
	for sleep(ctx, wait) {
		left = time.Until(end)
		if left <= 0 {
			return nil, fmt.Errorf("lease ran out: %w", err)
		}
		var n *nclient4.Lease
		attempt, cancel := context.WithTimeout(ctx, left)
		n, err = c.Renew(attempt, l, dhcpv4.WithBroadcast(true))
		cancel()
		var nak *nclient4.ErrNak
		switch {
		case err == nil:
			return n, nil
		case errors.As(err, &nak):
			return nil, err
		}
		d.log.Debug("dhcp renewal", "err", err)
		left = time.Until(end)
		wait = min(max(left/2, minRenewal), max(left, 0))
	}
	return nil, ctx.Err()
}

func (d *dhcpLoop) tell(l Lease) {
	if l.Management == d.last.Management {
		return
	}
	d.last = l
	if l.Address.IsValid() {
		d.log.Info("dhcp lease", "address", l.Address, "gateway", l.Gateway, "duration", l.Duration)
	} else {
		d.log.Warn("dhcp lease lost")
	}
	d.onLease(l)
}

// parseLease takes what we use out of a server's acknowledgement.
func parseLease(ack *dhcpv4.DHCPv4) (Lease, error) {
	var l Lease
	ip, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	bits, size := net.IPMask(mask).Size()
	if !ip.Is4() || ip.IsUnspecified() || size != 32 || bits < 1 {
		return l, fmt.Errorf("dhcp server %v lends no usable address: %v mask %v", ack.ServerIdentifier(), ack.YourIPAddr, mask)
	}
	l.Address = netip.PrefixFrom(ip, bits)
	for _, r := range ack.Router() {
		if gw, ok := netip.AddrFromSlice(r.To4()); ok && l.Address.Contains(gw) && gw != ip {
			l.Gateway = gw
			break
		}
	}
	for _, s := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(s.To4()); ok {
			l.DNS = append(l.DNS, a)
		}
	}
	l.Duration = cmp.Or(ack.IPAddressLeaseTime(0), time.Hour)
	return l, nil
}

// sleep says whether ctx lived as long as d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
