package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"baystream/daemon/domain"
	"baystream/daemon/rest"
	"baystream/netcfg"
	"baystream/netcfg/acd"
)

// netSettings are what is set for the network beside the addresses.
type netSettings struct {
	lacp netcfg.LACP
	file string // where an administrator's settings are kept; empty: not yet known
	ours bool   // the management settings are an administrator's, not the frame's
}

// kept is the file of the settings that an administrator made. Over is the
// frame's setting that they replaced: when the frame says something new, that
// is the later word.
type kept struct {
	Management string `json:"management"`
	Over       string `json:"over"`
}

const netFile = "network.json"

// load takes the settings that an administrator made before, below dir. The
// management port has come up with the frame's by then.
func (n *network) load(dir string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set.file = filepath.Join(dir, netFile)
	b, err := os.ReadFile(n.set.file)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	m, perr := netcfg.ParseManagement(k.Management)
	if err := errors.Join(err, perr); err != nil {
		n.d.log.Warn("network settings of the administrator are left out", "err", err)
		return
	}
	if k.Over != n.d.mgmt.String() {
		n.d.log.Info("the frame has new network settings: those of the administrator are void", "frame", n.d.mgmt.String(), "administrator", k.Management)
		return
	}
	n.trial, n.set.ours = netcfg.NewTrial(m), true
	n.wake()
}

// borrow asks DHCP for an address while none is set.
func (n *network) borrow(ctx context.Context, link string) error {
	for ctx.Err() == nil {
		asking, stop := context.WithCancel(ctx)
		go func() { // until an address is set
			defer stop()
			for n.borrowing() && pause(asking, time.Second) {
			}
		}()
		if n.borrowing() {
			if err := netcfg.DHCP(asking, link, n.d.log.With("part", "dhcp client"), func(l netcfg.Lease) {
				n.mu.Lock()
				n.lease = l.Management
				n.mu.Unlock()
				n.wake()
			}); err != nil {
				stop()
				return err
			}
			n.mu.Lock()
			n.lease = netcfg.Management{}
			n.mu.Unlock()
		}
		stop()
		for !n.borrowing() && pause(ctx, time.Second) {
		}
	}
	return nil
}

func (n *network) borrowing() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.trial.Wanted().Address.IsValid()
}

// pause waits, and says whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// networkControl lets REST change the network; nil on an ordinary host, whose
// network is not ours.
func (d *Daemon) networkControl() rest.Network {
	if d.net == nil {
		return nil
	}
	return d.net
}

// NetworkSettings implements rest.Network.
func (n *network) NetworkSettings() domain.NetSettings {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := domain.NetSettings{Management: n.trial.Settled().String(), From: "frame", Deployment: n.d.depl.String(), Interconnect: "lacp:auto"}
	if n.set.lacp != netcfg.LACPAuto {
		s.Interconnect = "lacp:" + string(n.set.lacp)
	}
	if n.set.ours {
		s.From = "administrator"
	}
	if n.frameLink.IsValid() {
		s.FrameLink = n.frameLink.String()
	}
	if m, until, ok := n.trial.Pending(); ok {
		s.Trial = trialView(m, until)
	}
	return s
}

func trialView(m netcfg.Management, until time.Time) *domain.NetTrial {
	t := &domain.NetTrial{Management: m.String(), Until: domain.Stamp(until)}
	if m.Address.IsValid() {
		t.Address = m.Address.Addr().String()
	}
	return t
}

// applyAfter leaves the answer to a change time to get out over the address
// that it takes away.
const applyAfter = 500 * time.Millisecond

// ChangeNetwork implements rest.Network: it puts other management settings on
// trial, once nobody else answers for the address.
func (n *network) ChangeNetwork(ctx context.Context, c domain.NetChange) (domain.NetTrial, error) {
	bad := func(err error) (domain.NetTrial, error) {
		return domain.NetTrial{}, domain.Errorf(domain.Invalid, "management setting", "%v", err)
	}
	m, err := netcfg.ParseManagement(c.Management)
	if err != nil {
		return bad(err)
	}
	mgmt, _, _ := ports(n.d.inv)
	n.mu.Lock()
	old := n.management().Address
	n.mu.Unlock()
	if m.Address.IsValid() && m.Address.Addr() != old.Addr() && !c.Unchecked {
		var conflict *acd.Conflict
		switch err := acd.Check(ctx, mgmt.Name, m.Address.Addr()); {
		case errors.As(err, &conflict):
			return domain.NetTrial{}, domain.Errorf(domain.Conflict, "management setting", "%v is used by the station %v", conflict.Addr, conflict.MAC).
				Fix("Choose another address, or take that station away.")
		case err != nil:
			n.d.log.Warn("the new management address was not checked", "err", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.trial.Begin(m, time.Now(), time.Duration(c.GraceSeconds)*time.Second); err != nil {
		return bad(err)
	}
	_, until, _ := n.trial.Pending()
	n.d.log.Warn("network settings on trial", "management", m.String(), "until", domain.Stamp(until))
	time.AfterFunc(applyAfter, n.wake)
	time.AfterFunc(time.Until(until), n.expire)
	return *trialView(m, until), nil
}

// expire ends a trial that nobody confirmed.
func (n *network) expire() {
	n.mu.Lock()
	over := n.trial.Expire(time.Now())
	back := n.trial.Wanted()
	n.mu.Unlock()
	if over {
		n.d.log.Warn("nobody confirmed the network settings: the old ones are back", "management", back.String())
		n.wake()
	}
}

// ConfirmNetwork implements rest.Network: at is our address that the request
// came in on, connected when its connection was made.
func (n *network) ConfirmNetwork(at netip.Addr, connected time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := n.trial.Confirm(at, connected, time.Now(), n.lease.Address.Addr())
	if err != nil {
		return domain.Errorf(domain.Conflict, "network settings", "%v", err)
	}
	n.set.ours = true
	n.d.log.Warn("network settings confirmed", "management", m.String())
	if n.set.file == "" {
		return nil
	}
	b, err := json.Marshal(kept{Management: m.String(), Over: n.d.mgmt.String()})
	if err == nil {
		err = renameio.WriteFile(n.set.file, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("network settings are in use, but not kept for the next start: %w", err)
	}
	return nil
}
