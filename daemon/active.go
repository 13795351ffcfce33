package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/member"
	"baystream/daemon/pki"
	"baystream/daemon/rest"
	"baystream/hw/redfish"
)

// duty is what only the active appliance does, in the epoch of its term; 0
// while it stands alone.
type duty func(ctx context.Context, epoch uint64) error

// stand decides whether this module stands alone: it is the active appliance
// then, and needs no votes for it. From the day on which others join its domain
// there are terms.
func (m *membership) stand(ctx context.Context) error {
	epoch, err := cluster.LastEpoch(ctx, m.d.node.Client())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.electing = epoch > 0 || m.claimed() || m.d.node.Others() > 0
	return err
}

// manage runs the duty while this is the active appliance.
func (m *membership) manage(ctx context.Context, e *cluster.Elector, do duty) error {
	if m.alone() {
		if err := m.manageAlone(ctx, do); err != nil || ctx.Err() != nil {
			return err
		}
	}
	m.endOld(ctx, e)
	return e.Run(ctx, func(ctx context.Context, t cluster.Term) error {
		m.take(&t)
		defer m.take(nil)
		if err := do(ctx, t.Epoch); err != nil && ctx.Err() == nil {
			m.d.log.Error("the work of the active appliance has ended", "err", err)
			pause(ctx, time.Second) // another may do better
		}
		return nil
	})
}

// endOld ends the term that this module's last daemon left behind, which nobody
// renews any more.
func (m *membership) endOld(ctx context.Context, e *cluster.Elector) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	old, err := e.Current(ctx)
	if err == nil && old.Holder == m.ID() {
		err = e.Depose(ctx, old)
	}
	if err != nil { // its lease runs out
		m.d.log.Debug("end the term of the last daemon", "err", err)
	}
}

func (m *membership) alone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.electing
}

// othersEvery is how often a module that stands alone looks whether it does.
const othersEvery = 500 * time.Millisecond

func (m *membership) manageAlone(ctx context.Context, do duty) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	g, inner := errgroup.WithContext(inner)
	g.Go(func() error { return do(inner, 0) })
	g.Go(func() error {
		for m.d.node.Others() == 0 && pause(inner, othersEvery) {
		}
		m.mu.Lock()
		m.electing = true
		m.mu.Unlock()
		cancel()
		return nil
	})
	return g.Wait()
}

// take notes under which term this appliance is the active one.
func (m *membership) take(t *cluster.Term) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = t
	m.tell()
}

// leadership is what REST may do here.
func (m *membership) leadership() rest.Leadership {
	m.mu.Lock()
	term, electing, active := m.term, m.electing, m.active.Holder
	address := m.modules[active].Address
	m.mu.Unlock()
	switch {
	case !electing:
		return rest.Leadership{Active: true}
	case term != nil:
		return rest.Leadership{Active: true, Bind: term.Context}
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil || active == m.ID() {
		return rest.Leadership{}
	}
	return rest.Leadership{URL: "https://" + (&net.TCPAddr{IP: net.ParseIP(host), Port: restPort}).String()}
}

// advance goes on with claims, and renews certificates, until ctx ends.
func (m *membership) advance(ctx context.Context, claims *member.Claims) error {
	changed := m.Changed(ctx)
	renewed := time.Time{}
	for ctx.Err() == nil {
		joining := false
		for _, o := range m.Modules() {
			joining = joining || o.State == domain.ModuleJoining
		}
		if joining || time.Since(renewed) > renewEvery {
			if err := claims.Advance(ctx); err != nil && ctx.Err() == nil {
				m.d.log.Warn("modules of the domain", "err", err)
			} else {
				renewed = time.Now()
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(advanceEvery):
		}
	}
	return nil
}

const (
	advanceEvery = 2 * time.Second
	renewEvery   = 10 * time.Minute
)

// favour gives the lead of the domain state to the witness, so that it need not
// be elected again when the active appliance dies.
func (m *membership) favour(ctx context.Context) error {
	for pause(ctx, favourEvery) {
		if !m.d.node.Leads() {
			continue
		}
		for _, o := range m.Modules() {
			if o.Role != domain.RoleOfWitness || o.State != domain.ModuleMember {
				continue
			}
			once, cancel := context.WithTimeout(ctx, lookTime)
			if up := m.d.node.Ping(once, m.key.ClientTLS(nil)); up[o.ID] {
				if moved, err := m.d.node.Lead(once, o.ID); err != nil && ctx.Err() == nil {
					m.d.log.Debug("lead of the domain state", "err", err)
				} else if moved {
					m.d.log.Info("the witness leads the domain state", "module", o.ID)
				}
			}
			cancel()
		}
	}
	return nil
}

const favourEvery = 5 * time.Second

// bury ends the term of an active appliance whose power has gone, as the frame
// managers tell, without waiting for its lease: whoever it was, it renews it no
// more. That the power is off is not enough, as it may be old news: it must have
// been on before.
func (m *membership) bury(ctx context.Context, e *cluster.Elector) error {
	last := map[string]redfish.Power{}
	for pause(ctx, buryEvery) {
		id, self, _ := m.Active()
		if self || id == "" || m.alone() {
			clear(last)
			continue
		}
		power, err := m.d.hw.Power("", id)
		if err != nil {
			continue
		}
		before := last[id]
		last[id] = power
		if power != redfish.Off || before != redfish.On {
			continue
		}
		m.d.log.Info("the active appliance has lost its power", "module", id)
		once, cancel := context.WithTimeout(ctx, lookTime)
		now, err := e.Current(once)
		if err == nil && now.Holder == id {
			err = e.Depose(once, now)
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			m.d.log.Warn("end the term of a dead appliance", "module", id, "err", err)
		}
	}
	return nil
}

const buryEvery = 100 * time.Millisecond

// serviceAddress is that of the management of a pair, as the frame sets it.
func (d *Daemon) serviceAddress() netip.Prefix {
	p, err := netip.ParsePrefix(d.inv.Settings["service"])
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// holdService serves REST at the service address until ctx ends: the link gets
// the address, the neighbours are told, and whoever else has it is found by the
// guard of the link. It is not probed for first, as the term says whose it is.
func (d *Daemon) holdService(ctx context.Context, server *rest.Server, authority *pki.Authority) error {
	service := d.serviceAddress()
	if !service.IsValid() || d.net == nil {
		return nil
	}
	d.net.setService(service)
	defer d.net.setService(netip.Prefix{})
	at := netip.AddrPortFrom(service.Addr(), restPort).String()
	ln, err := listenKept(ctx, net.ListenConfig{Control: freebind}, "tcp", at)
	if err != nil {
		d.board.set("service address", domain.StatusWarning, fmt.Sprintf("%s: %v", at, err), "Correct the service setting of the frame; the appliance's own address serves.")
		<-ctx.Done()
		return nil
	}
	again := time.AfterFunc(announceAgain, func() { // a frame can be lost
		d.net.mu.Lock()
		d.net.resend = true
		d.net.mu.Unlock()
		d.net.wake()
	})
	defer again.Stop()
	d.board.set("service address", domain.StatusOK, service.String()+" is here", "")
	defer d.board.set("service address", domain.StatusOK, service.String()+" is at the active appliance", "")
	d.cfg.Console("active: REST at https://%s", strings.TrimSuffix(at, ":443"))
	if err := server.Serve(ctx, ln, authority.TLS()); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

const announceAgain = time.Second

// freebind lets a socket listen at an address that the link gets a moment later
// (ip(7), IP_FREEBIND).
func freebind(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }); cerr != nil {
		return cerr
	}
	return err
}
