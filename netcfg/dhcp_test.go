package netcfg

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// script is a DHCP server that does what its list says, in turn: lend an
// address for a time, refuse, or stay silent.
type script struct {
	steps  []step
	asked  []time.Duration // since the start
	start  time.Time
	cancel func()
}

type step struct {
	ip    byte // last byte of the address; 0 is silence
	lease time.Duration
	nak   bool
}

func (s *script) next() (*nclient4.Lease, error) {
	s.asked = append(s.asked, time.Since(s.start))
	if len(s.steps) == 0 {
		s.cancel()
		return nil, context.Canceled
	}
	n := s.steps[0]
	s.steps = s.steps[1:]
	switch {
	case n.nak:
		return nil, &nclient4.ErrNak{Offer: &dhcpv4.DHCPv4{}, Nak: &dhcpv4.DHCPv4{}}
	case n.ip == 0:
		return nil, errors.New("no answer")
	}
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(192, 0, 2, n.ip)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(uint32(n.lease/time.Second)))
	return &nclient4.Lease{ACK: ack, Offer: ack}, err
}

func (s *script) Request(context.Context, ...dhcpv4.Modifier) (*nclient4.Lease, error) {
	return s.next()
}

func (s *script) Renew(context.Context, *nclient4.Lease, ...dhcpv4.Modifier) (*nclient4.Lease, error) {
	return s.next()
}

func (s *script) Close() error { return nil }

func TestDHCPKeepsLease(t *testing.T) {
	const h, m, sec = time.Hour, time.Minute, time.Second
	silent := step{}
	for _, tt := range []struct {
		name   string
		steps  []step
		asked  []time.Duration
		leases string // last bytes of the addresses, "-" for lost
	}{
		{"renews at half time", []step{{ip: 5, lease: h}, {ip: 5, lease: h}}, []time.Duration{0, 30 * m, 60 * m}, "5"},
		{"asks at growing distance", []step{silent, silent, silent, silent, silent, silent, silent, {ip: 5, lease: h}},
			[]time.Duration{0, 1 * sec, 3 * sec, 7 * sec, 15 * sec, 31 * sec, 61 * sec, 91 * sec, 91*sec + 30*m}, "5"},
		{"asks until the end", []step{{ip: 5, lease: h}, silent, silent, {ip: 5, lease: h}},
			[]time.Duration{0, 30 * m, 45 * m, 52*m + 30*sec, 82*m + 30*sec}, "5"},
		{"runs out", []step{{ip: 5, lease: 20 * sec}, silent, {ip: 6, lease: h}}, []time.Duration{0, 10 * sec, 21 * sec, 21*sec + 30*m}, "5-6"},
		{"is refused", []step{{ip: 5, lease: h}, {nak: true}, {ip: 6, lease: h}}, []time.Duration{0, 30 * m, 30*m + sec, 60*m + sec}, "5-6"},
		{"another address", []step{{ip: 5, lease: h}, {ip: 7, lease: h}}, []time.Duration{0, 30 * m, 60 * m}, "57"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := &script{steps: tt.steps, start: time.Now(), cancel: cancel}
				var leases string
				d := dhcpLoop{
					log:  slog.New(slog.DiscardHandler),
					open: func() (dhcpClient, error) { return s, nil },
					onLease: func(l Lease) {
						if !l.Address.IsValid() {
							leases += "-"
							return
						}
						b := l.Address.Addr().As4()
						leases += string('0' + rune(b[3]))
					},
				}
				if err := d.run(ctx); err != nil {
					t.Errorf("run = %v", err)
				}
				if diff := cmp.Diff(tt.asked, s.asked); diff != "" {
					t.Errorf("asked at (-want +got):\n%s", diff)
				}
				if leases != tt.leases {
					t.Errorf("leases %q, want %q", leases, tt.leases)
				}
			})
		})
	}
}

func TestParseLease(t *testing.T) {
	ack, _ := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 5)))
	got, err := parseLease(ack) // class C, no time, no router
	want := Lease{Management: Management{Address: netip.MustParsePrefix("192.0.2.5/24")}, Duration: time.Hour}
	if diff := cmp.Diff(want, got, cmpAddrs); diff != "" || err != nil {
		t.Errorf("parseLease: %v (-want +got):\n%s", err, diff)
	}
	ack, _ = dhcpv4.New()
	if l, err := parseLease(ack); err == nil {
		t.Errorf("parseLease without address = %+v", l)
	}
}
