package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/daemon/domain"
	"baystream/hw"
	"baystream/netcfg"
)

// Slots of a module's ports (docs/hardware: the slot says what the port is
// for): the management port, the frame link, and the ports to the interconnect
// bays.
const (
	slotManagement = 1
	slotFrame      = 2
)

var slotsInterconnect = []int{3, 6}

// network keeps the module's links as they should be. What it watches on them
// is in network_watch.go, how the settings change in network_settings.go.
type network struct {
	d        *Daemon
	changed  chan struct{} // buffered by one
	ready    chan struct{} // closed once the management address is up
	settled  chan struct{} // closed once the whole network was brought to what is wanted, or was tried to
	once     sync.Once
	watch    watchers
	carriers carriers // of run only
	said     string   // what could not be done, as it was logged last; of run only

	mu        sync.Mutex
	nics      []hw.NIC // of the module's slots; one that is pulled stays until another is there
	set       netSettings
	trial     netcfg.Trial
	other     chan struct{} // closed when the deployment network is another
	lease     netcfg.Management
	frameLink netip.Prefix
	service   netip.Prefix // of the management of a pair, while it is here
	lacp      bool         // the bond speaks it
	tooLong   []string     // findings about the MTU
	resend    bool         // announce all addresses in the next round
}

func newNetwork(d *Daemon) *network {
	n := &network{d: d, changed: make(chan struct{}, 1), ready: make(chan struct{}), settled: make(chan struct{}), other: make(chan struct{}), nics: d.inv.NICs}
	n.trial = netcfg.NewTrial(netcfg.Settings{Management: d.mgmt, Deployment: d.depl})
	ic, err := netcfg.ParseInterconnect(d.inv.Settings["interconnect"])
	if err != nil {
		d.log.Error("frame settings", "err", err)
		d.board.set("frame settings", domain.StatusCritical, err.Error(), "Correct the setting in the frame; until then LACP is used when the interconnect modules speak it.")
	}
	n.set = netSettings{lacp: ic.LACP}
	n.lacp = ic.LACP == netcfg.LACPOn
	return n
}

// ports are the NICs by what they are for.
func (n *network) ports() (mgmt, frame netcfg.NIC, ics []netcfg.NIC) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return ports(hw.Inventory{NICs: n.nics})
}

func ports(inv hw.Inventory) (mgmt, frame netcfg.NIC, ics []netcfg.NIC) {
	if n, ok := inv.NICBySlot(slotManagement); ok {
		mgmt = nic(n)
	}
	if n, ok := inv.NICBySlot(slotFrame); ok {
		frame = nic(n)
	}
	for _, slot := range slotsInterconnect {
		if n, ok := inv.NICBySlot(slot); ok {
			ics = append(ics, nic(n))
		}
	}
	return mgmt, frame, ics
}

// Plugged takes the NICs as they are now. One that is gone keeps its place in the
// bond until another is in its slot: what stands on the bond goes on.
func (n *network) Plugged(inv hw.Inventory) {
	n.mu.Lock()
	nics, changed := replaced(n.nics, inv.NICs)
	n.nics = nics
	n.mu.Unlock()
	for _, c := range changed {
		n.d.log.Info("port replaced", "slot", c.Slot, "link", c.Name, "mac", c.MAC)
	}
	n.wake()
}

// replaced returns the NICs that have or last had a slot, and those of them that
// are new there.
func replaced(old, now []hw.NIC) (nics, changed []hw.NIC) {
	for _, o := range old {
		in := func(p hw.NIC) bool { return p.Slot == o.Slot }
		if o.Slot != 0 && !slices.ContainsFunc(now, in) {
			nics = append(nics, o)
		}
	}
	for _, p := range now {
		nics = append(nics, p)
		same := func(o hw.NIC) bool { return o.Name == p.Name && o.MAC == p.MAC && o.Slot == p.Slot }
		if p.Slot != 0 && !slices.ContainsFunc(old, same) {
			changed = append(changed, p)
		}
	}
	// A name is one link's: who had it before is gone.
	nics = slices.DeleteFunc(nics, func(o hw.NIC) bool {
		taken := func(p hw.NIC) bool { return p.Name == o.Name && (p.Slot != o.Slot || p.MAC != o.MAC) }
		return !slices.Contains(now, o) && slices.ContainsFunc(now, taken)
	})
	return nics, changed
}

func nic(n hw.NIC) netcfg.NIC {
	mac, _ := net.ParseMAC(n.MAC) // hw has checked it
	return netcfg.NIC{Name: n.Name, MAC: mac}
}

// management is what the management port should have now: what is set, or what
// DHCP lends. It is called with mu held.
func (n *network) management() netcfg.Management {
	m := n.trial.Wanted().Management
	if !m.Address.IsValid() {
		m.Address, m.Gateway = n.lease.Address, n.lease.Gateway
	}
	return m
}

// want is the network as it should be now.
func (n *network) want() netcfg.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	mgmt, frame, ics := ports(hw.Inventory{NICs: n.nics})
	c := netcfg.Module{
		ManagementPort: mgmt, FramePort: frame, InterconnectPorts: ics,
		Management: n.management(), FrameLink: n.frameLink, Deployment: n.trial.Wanted().Deployment, LACP: n.lacp,
	}.Config()
	if n.service.IsValid() && mgmt.Name != "" {
		c.Links[0].Addrs = append(c.Links[0].Addrs, n.service)
	}
	return c
}

// setService takes the service address, or with the zero Prefix gives it up.
func (n *network) setService(p netip.Prefix) {
	n.mu.Lock()
	n.service = p
	n.mu.Unlock()
	n.wake()
}

// deployment is the deployment network as it is wanted now, and a channel that is
// closed when it is another.
func (n *network) deployment() (netcfg.Deployment, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trial.Wanted().Deployment, n.other
}

// deployment is the network that servers boot over, zero without one.
func (d *Daemon) deployment() netcfg.Deployment {
	if d.net == nil {
		return d.depl
	}
	depl, _ := d.net.deployment()
	return depl
}

// SetFrameLink gives the module's place on the frame's own network, as the
// frame document says it.
func (n *network) SetFrameLink(p netip.Prefix) {
	n.mu.Lock()
	n.frameLink = p
	n.mu.Unlock()
	n.wake()
}

// run reconciles until ctx ends: events only wake it, each round looks at the
// whole truth.
func (n *network) run(ctx context.Context) error {
	mgmt, _, ics := n.ports()
	if mgmt.Name == "" {
		n.d.board.set("network", domain.StatusCritical, "no management port: no NIC in PCIe slot 1", "Check the module's adapters with bayctl hw.")
	}
	if len(ics) == 0 {
		n.d.log.Warn("no interconnect ports: no NIC in PCIe slots 3 and 6")
	}
	g, ctx := errgroup.WithContext(ctx)
	events := netcfg.Watch(ctx)
	if n.syncManagement(ctx, mgmt) { // what is left is for servers, whose volumes come up behind REST too
		behind(ctx, n.d.answering, restFirst)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := loadModules(networkModules); err != nil {
		n.d.log.Warn("kernel modules of the network", "err", err)
	}
	g.Go(func() error {
		resync, look := time.NewTicker(time.Minute), time.NewTicker(lookEvery)
		defer resync.Stop()
		defer look.Stop()
		err := n.sync(ctx)
		close(n.settled)
		n.keepWatchers(ctx, g)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-look.C:
				if n.watch.filters {
					n.judge(ctx, err)
					continue
				}
			case <-events:
			case <-n.changed:
			case <-resync.C:
			}
			err = n.sync(ctx)
			n.keepWatchers(ctx, g)
		}
	})
	return g.Wait()
}

// lookEvery is how often the watchers are asked for what the board should say.
const lookEvery = 5 * time.Second

func (n *network) wake() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// behindNetwork waits with run until the links are there: a volume cannot be
// served at an address that no link has.
func (d *Daemon) behindNetwork(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if d.net != nil {
			behind(ctx, d.net.settled, restFirst)
		}
		return run(ctx)
	}
}

// syncManagement brings up the management port alone, so that REST need not
// wait for the drivers of bonds and VLANs, and says whether it is up. A fault is
// left to sync.
func (n *network) syncManagement(ctx context.Context, mgmt netcfg.NIC) (up bool) {
	if mgmt.Name == "" || !n.d.mgmt.Address.IsValid() {
		return false
	}
	want := netcfg.Module{ManagementPort: mgmt, Management: n.d.mgmt}.Config()
	if _, err := netcfg.Sync(ctx, want); err != nil {
		return false
	}
	n.announce(ctx, want)
	n.once.Do(func() { close(n.ready) })
	return true
}

// sync brings the links to what is wanted and notes what could not be done.
func (n *network) sync(ctx context.Context) error {
	want := n.want()
	changes, err := netcfg.Sync(ctx, want)
	if ctx.Err() != nil {
		return nil
	}
	for _, c := range changes {
		n.d.log.Info("network changed", "link", c.Link(), "change", changeText(c))
	}
	n.mu.Lock()
	resend := n.resend || len(changes) > 0
	n.resend = false
	up := n.management().Address.IsValid()
	n.mu.Unlock()
	if resend {
		n.announce(ctx, want)
	}
	n.guard(want)
	err = errors.Join(err, n.filter())
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != n.said && text != "" {
		n.d.log.Warn("network", "err", err)
	}
	n.said = text
	n.judge(ctx, err)
	if up {
		n.once.Do(func() { close(n.ready) })
	}
	return err
}

// judge says on the board how the network is.
func (n *network) judge(ctx context.Context, err error) {
	rep, rerr := n.report(ctx)
	warnings := rep.Warnings
	if rerr != nil {
		warnings = []string{rerr.Error()}
	} else {
		for _, e := range n.carriers.look(rep.Ports, time.Now()) {
			n.d.hw.Note(e)
		}
	}
	depl, _ := n.deployment()
	switch {
	case err != nil:
		n.d.board.set("network", domain.StatusWarning, err.Error(), "See bayctl net for the links as they are.")
	case len(warnings) > 0:
		n.d.board.set("network", domain.StatusWarning, strings.Join(warnings, "; "), "See bayctl net for the ports and what is behind them.")
	case depl.VLAN == 0:
		n.d.board.set("network", domain.StatusWarning, "no deployment network is set: servers cannot boot", "Set it with bayctl net set deployment, or in the frame (deployment setting).")
	default:
		n.d.board.set("network", domain.StatusOK, "deployment VLAN "+netcfg.DeploymentLink(depl)+", portal "+depl.Portal.String(), "")
	}
}

// changeText is a change as text, whatever form it has.
func changeText(c netcfg.Change) string {
	if s, ok := c.(interface{ String() string }); ok {
		return s.String()
	}
	return ""
}

// announce tells the neighbours where our addresses are.
func (n *network) announce(ctx context.Context, want netcfg.Config) {
	for _, l := range want.Links {
		for _, a := range l.Addrs {
			if err := netcfg.Announce(ctx, l.Name, a.Addr()); err != nil && ctx.Err() == nil {
				n.d.log.Debug("announce address", "link", l.Name, "err", err)
			}
		}
	}
}

// waitAddress returns the management address once the link has it.
func (n *network) waitAddress(ctx context.Context) (netip.Addr, error) {
	select {
	case <-n.ready:
	case <-ctx.Done():
		return netip.Addr{}, context.Cause(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.management()
	if !m.Address.IsValid() {
		return netip.Addr{}, errors.New("management address was lost again")
	}
	return m.Address.Addr(), nil
}
