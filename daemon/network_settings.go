package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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
	depl bool   // so are those of the deployment network
}

// kept is the file of the settings that an administrator made. Over and
// DeploymentOver are the frame's settings that they replaced: when the frame says
// something new, that is the later word. What is missing is as the frame says.
type kept struct {
	Management     *string `json:"management,omitempty"`
	Over           string  `json:"over"`
	Deployment     *string `json:"deployment,omitempty"`
	DeploymentOver string  `json:"deploymentOver,omitempty"`
}

const netFile = "network.json"

// readKept reads the settings that an administrator made before and that hold;
// nil where there are none. Notes are for the log.
func readKept(file string, frame netcfg.Settings) (m *netcfg.Management, depl *netcfg.Deployment, notes []string, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil, nil
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	var errs []error
	const void = "the frame has new %s settings (%s): those of the administrator (%s) are void"
	switch {
	case k.Management == nil:
	case k.Over != frame.Management.String():
		notes = append(notes, fmt.Sprintf(void, "management", frame.Management, *k.Management))
	default:
		v, err := netcfg.ParseManagement(*k.Management)
		if errs = append(errs, err); err == nil {
			m = &v
		}
	}
	switch {
	case k.Deployment == nil:
	case k.DeploymentOver != frame.Deployment.String():
		notes = append(notes, fmt.Sprintf(void, "deployment", frame.Deployment, *k.Deployment))
	default:
		v, err := netcfg.ParseDeployment(*k.Deployment)
		if errs = append(errs, err); err == nil {
			depl = &v
		}
	}
	return m, depl, notes, errors.Join(errs...)
}

// load takes the settings that an administrator made before, below dir. The
// management port has come up with the frame's by then.
func (n *network) load(dir string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set.file = filepath.Join(dir, netFile)
	m, depl, notes, err := readKept(n.set.file, netcfg.Settings{Management: n.d.mgmt, Deployment: n.d.depl})
	if err != nil {
		n.d.log.Warn("network settings of the administrator are left out", "err", err)
	}
	for _, note := range notes {
		n.d.log.Info(note)
	}
	s := n.trial.Settled()
	if m != nil {
		s.Management, n.set.ours = *m, true
	}
	if depl != nil {
		s.Deployment, n.set.depl = *depl, true
	}
	if m != nil || depl != nil {
		n.setTrial(func() { n.trial = netcfg.NewTrial(s) })
		n.wake()
	}
}

// deploymentOnTrial says whether the deployment network may take itself back.
func (n *network) deploymentOnTrial() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	next, _, ok := n.trial.Pending()
	return ok && next.Deployment != n.trial.Settled().Deployment
}

// setTrial changes the trial and tells who waits for another deployment network;
// with mu held.
func (n *network) setTrial(change func()) {
	before := n.trial.Wanted().Deployment
	change()
	if n.trial.Wanted().Deployment != before {
		close(n.other)
		n.other = make(chan struct{})
	}
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
	return !n.trial.Wanted().Management.Address.IsValid()
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
	settled := n.trial.Settled()
	s := domain.NetSettings{Management: settled.Management.String(), From: "frame", Deployment: settled.Deployment.String(), DeploymentFrom: "frame", Interconnect: "lacp:auto"}
	if n.set.lacp != netcfg.LACPAuto {
		s.Interconnect = "lacp:" + string(n.set.lacp)
	}
	if n.set.ours {
		s.From = "administrator"
	}
	if n.set.depl {
		s.DeploymentFrom = "administrator"
	}
	if n.frameLink.IsValid() {
		s.FrameLink = n.frameLink.String()
	}
	if next, until, ok := n.trial.Pending(); ok {
		s.Trial = trialView(settled, next, until)
	}
	return s
}

// trialView is a change on trial. Without another management setting there is
// no address that it must be confirmed at.
func trialView(settled, next netcfg.Settings, until time.Time) *domain.NetTrial {
	t := &domain.NetTrial{Management: next.Management.String(), Deployment: next.Deployment.String(), Until: domain.Stamp(until)}
	t.Anywhere = next.Management == settled.Management
	switch m := next.Management; {
	case t.Anywhere:
	case m.Address.IsValid():
		t.Address = m.Address.Addr().String()
	}
	return t
}

// trialText names what is on trial.
func trialText(settled, next netcfg.Settings) string {
	var what []string
	if next.Management != settled.Management {
		what = append(what, fmt.Sprintf("the management settings %q", next.Management))
	}
	if next.Deployment != settled.Deployment {
		what = append(what, fmt.Sprintf("the deployment settings %q", next.Deployment))
	}
	return strings.Join(what, " and ")
}

// applyAfter leaves the answer to a change time to get out over the address
// that it takes away.
const applyAfter = 500 * time.Millisecond

// ChangeNetwork implements rest.Network: it puts other settings on trial, once
// nobody else answers for a new management address and no server loses its
// volumes.
func (n *network) ChangeNetwork(ctx context.Context, c domain.NetChange) (domain.NetTrial, error) {
	n.mu.Lock()
	now, old := n.trial.Wanted(), n.management().Address
	n.mu.Unlock()
	next, err := n.asked(now, c)
	if err != nil {
		return domain.NetTrial{}, err
	}
	if what := now.Deployment.Uproots(next.Deployment); what != "" {
		if err := n.d.unserved(ctx, now.Deployment, what); err != nil {
			return domain.NetTrial{}, err
		}
	}
	mgmt, _, _ := n.ports()
	if m := next.Management; m.Address.IsValid() && m.Address.Addr() != old.Addr() && !c.Unchecked {
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
	settled := n.trial.Settled()
	n.setTrial(func() { err = n.trial.Begin(next, time.Now(), time.Duration(c.GraceSeconds)*time.Second) })
	if err != nil {
		return domain.NetTrial{}, domain.Errorf(domain.Invalid, "network settings", "%v", err)
	}
	_, until, _ := n.trial.Pending()
	n.d.log.Warn("network settings on trial", "management", next.Management.String(), "deployment", next.Deployment.String(), "until", domain.Stamp(until))
	time.AfterFunc(applyAfter, n.wake)
	time.AfterFunc(time.Until(until), n.expire)
	return *trialView(settled, next, until), nil
}

// asked returns the settings that c asks for, of those that are now.
func (n *network) asked(now netcfg.Settings, c domain.NetChange) (netcfg.Settings, error) {
	var err error
	if c.Management != nil {
		if now.Management, err = netcfg.ParseManagement(*c.Management); err != nil {
			return now, domain.Errorf(domain.Invalid, "management setting", "%v", err)
		}
	}
	switch {
	case c.Deployment == nil:
	case *c.Deployment == domain.NetOfFrame:
		now.Deployment = n.d.depl
	default:
		if now.Deployment, err = netcfg.ParseDeployment(*c.Deployment); err != nil {
			return now, domain.Errorf(domain.Invalid, "deployment setting", "%v", err)
		}
	}
	if d, m := now.Deployment, now.Management; d.VLAN != 0 && m.Address.IsValid() && d.Address.Overlaps(m.Address) {
		return now, domain.Errorf(domain.Invalid, "deployment setting", "%v overlaps the management network %v", d.Address.Masked(), m.Address.Masked()).
			Fix("Give the deployment network addresses of its own.")
	}
	return now, nil
}

// unserved refuses a change of the deployment network that cuts servers off.
func (d *Daemon) unserved(ctx context.Context, depl netcfg.Deployment, what string) error {
	if d.state == nil {
		return domain.Errorf(domain.Unavailable, "deployment setting", "the appliance is starting: which volumes are served is not known yet").Fix("Try again in a minute.")
	}
	volumes, err := d.state.OSVolumes.List(ctx) // those in the trash can be restored: they count
	if err != nil {
		return err
	}
	if len(volumes) == 0 {
		return nil
	}
	names := []string{}
	for _, v := range volumes[:min(len(volumes), 5)] {
		names = append(names, v.Name)
	}
	return domain.Errorf(domain.Conflict, "deployment setting", "changes %s, and %d OS volumes are served at %v: %s", what, len(volumes), depl.Portal, strings.Join(names, ", ")).
		Fix("Their servers would lose their disks. Delete the profiles first, or change only what servers do not notice: the appliance's own address beside a portal, the MTU, a larger pool.")
}

// expire ends a trial that nobody confirmed.
func (n *network) expire() {
	n.mu.Lock()
	over := false
	n.setTrial(func() { over = n.trial.Expire(time.Now()) })
	back := n.trial.Wanted()
	n.mu.Unlock()
	if over {
		n.d.log.Warn("nobody confirmed the network settings: the old ones are back", "management", back.Management.String(), "deployment", back.Deployment.String())
		n.wake()
	}
}

// ConfirmNetwork implements rest.Network: at is our address that the request
// came in on, connected when its connection was made.
func (n *network) ConfirmNetwork(at netip.Addr, connected time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.trial.Settled()
	now, err := n.trial.Confirm(at, connected, time.Now(), n.lease.Address.Addr())
	if err != nil {
		return domain.Errorf(domain.Conflict, "network settings", "%v", err)
	}
	n.set.ours = n.set.ours || now.Management != before.Management
	if now.Deployment != before.Deployment {
		n.set.depl = now.Deployment != n.d.depl
	}
	n.d.log.Warn("network settings confirmed", "management", now.Management.String(), "deployment", now.Deployment.String())
	if n.set.file == "" {
		return nil
	}
	var k kept
	if n.set.ours {
		text := now.Management.String()
		k.Management, k.Over = &text, n.d.mgmt.String()
	}
	if n.set.depl {
		text := now.Deployment.String()
		k.Deployment, k.DeploymentOver = &text, n.d.depl.String()
	}
	b, err := json.Marshal(k)
	if err == nil {
		err = renameio.WriteFile(n.set.file, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("network settings are in use, but not kept for the next start: %w", err)
	}
	return nil
}
