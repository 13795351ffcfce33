package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/daemon/domain"
	"baystream/hw"
	"baystream/netcfg"
)

// Slots of a module's ports (docs/hardware: the slot says what the port is
// for): the management port, and the ports to the interconnect bays.
const slotManagement = 1

var slotsInterconnect = []int{3, 6}

// network keeps the module's links as they should be.
type network struct {
	d       *Daemon
	changed chan struct{} // buffered by one

	mu    sync.Mutex
	mgmt  netcfg.Management // the setting, or the lease
	ready chan struct{}     // closed once the management address is up
	once  sync.Once
}

func newNetwork(d *Daemon) *network {
	return &network{d: d, mgmt: d.mgmt, changed: make(chan struct{}, 1), ready: make(chan struct{})}
}

// ports are the NICs by what they are for.
func ports(inv hw.Inventory) (mgmt netcfg.NIC, ics []netcfg.NIC) {
	if n, ok := inv.NICBySlot(slotManagement); ok {
		mgmt = nic(n)
	}
	for _, slot := range slotsInterconnect {
		if n, ok := inv.NICBySlot(slot); ok {
			ics = append(ics, nic(n))
		}
	}
	return mgmt, ics
}

func nic(n hw.NIC) netcfg.NIC {
	mac, _ := net.ParseMAC(n.MAC) // hw has checked it
	return netcfg.NIC{Name: n.Name, MAC: mac}
}

// want is the network as it should be now.
func (n *network) want() netcfg.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	mgmt, ics := ports(n.d.inv)
	return netcfg.Module{ManagementPort: mgmt, InterconnectPorts: ics, Management: n.mgmt, Deployment: n.d.depl}.Config()
}

// run reconciles until ctx ends: events only wake it, each round looks at the
// whole truth.
func (n *network) run(ctx context.Context) error {
	mgmt, ics := ports(n.d.inv)
	if mgmt.Name == "" {
		n.d.board.set("network", domain.StatusCritical, "no management port: no NIC in PCIe slot 1", "Check the module's adapters with bayctl hw.")
	}
	if len(ics) == 0 {
		n.d.log.Warn("no interconnect ports: no NIC in PCIe slots 3 and 6")
	}
	g, ctx := errgroup.WithContext(ctx)
	events := netcfg.Watch(ctx)
	n.syncManagement(ctx, mgmt)
	if err := loadModules(networkModules); err != nil {
		n.d.log.Warn("kernel modules of the network", "err", err)
	}
	if !n.d.mgmt.Address.IsValid() && mgmt.Name != "" {
		g.Go(func() error {
			return netcfg.DHCP(ctx, mgmt.Name, n.d.log.With("part", "dhcp client"), func(l netcfg.Lease) {
				n.mu.Lock()
				n.mgmt = l.Management
				n.mu.Unlock()
				n.wake()
			})
		})
	}
	g.Go(func() error {
		resync := time.NewTicker(time.Minute)
		defer resync.Stop()
		for {
			n.sync(ctx)
			select {
			case <-ctx.Done():
				return nil
			case <-events:
			case <-n.changed:
			case <-resync.C:
			}
		}
	})
	return g.Wait()
}

func (n *network) wake() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// syncManagement brings up the management port alone, so that REST need not
// wait for the drivers of bonds and VLANs. A fault is left to sync.
func (n *network) syncManagement(ctx context.Context, mgmt netcfg.NIC) {
	if mgmt.Name == "" || !n.d.mgmt.Address.IsValid() {
		return
	}
	want := netcfg.Module{ManagementPort: mgmt, Management: n.d.mgmt}.Config()
	if _, err := netcfg.Sync(ctx, want); err == nil {
		n.announce(ctx, want)
		n.once.Do(func() { close(n.ready) })
	}
}

// sync brings the links to what is wanted and notes what could not be done.
func (n *network) sync(ctx context.Context) {
	want := n.want()
	changes, err := netcfg.Sync(ctx, want)
	if ctx.Err() != nil {
		return
	}
	for _, c := range changes {
		n.d.log.Info("network changed", "link", c.Link(), "change", changeText(c))
	}
	if len(changes) > 0 {
		n.announce(ctx, want)
	}
	switch {
	case err != nil:
		n.d.log.Warn("network", "err", err)
		n.d.board.set("network", domain.StatusWarning, err.Error(), "See bayctl net for the links as they are.")
	case n.d.depl.VLAN == 0:
		n.d.board.set("network", domain.StatusWarning, "no deployment network is set: servers cannot boot", "Set it in the frame (deployment setting), then restart the module.")
	default:
		n.d.board.set("network", domain.StatusOK, "deployment VLAN "+netcfg.DeploymentLink(n.d.depl)+", portal "+n.d.portal().String(), "")
	}
	n.mu.Lock()
	up := n.mgmt.Address.IsValid()
	n.mu.Unlock()
	if up {
		n.once.Do(func() { close(n.ready) })
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
	if !n.mgmt.Address.IsValid() {
		return netip.Addr{}, errors.New("management address was lost again")
	}
	return n.mgmt.Address.Addr(), nil
}

// report is the network as it is.
func (n *network) report(ctx context.Context) (domain.NetReport, error) {
	rep := domain.NetReport{Links: []domain.NetLink{}, Drift: []string{}}
	st, err := netcfg.Observe(ctx)
	if err != nil {
		return rep, err
	}
	for _, l := range st.Links {
		if l.Name == "lo" {
			continue
		}
		link := domain.NetLink{Name: l.Name, Kind: l.Type, MAC: l.MAC.String(), MTU: l.MTU, Up: l.Up, Carrier: l.Carrier, Master: l.Master, Addresses: []string{}}
		for _, h := range n.d.inv.NICs {
			if h.Name == l.Name {
				link.Slot = h.Slot
			}
		}
		link.Purpose = purpose(l.Name, link.Slot, n.d.depl)
		if link.Master != "" {
			if m, ok := st.Link(link.Master); ok && m.Active == l.Name {
				link.Master += " (active)"
			}
		}
		for _, a := range l.Addrs {
			link.Addresses = append(link.Addresses, a.Prefix.String())
		}
		rep.Links = append(rep.Links, link)
	}
	for _, c := range netcfg.Plan(n.want(), st) {
		rep.Drift = append(rep.Drift, strings.TrimSpace(c.Link()+": "+changeText(c)))
	}
	return rep, nil
}

// purpose says in a word what a link is for.
func purpose(name string, slot int, depl netcfg.Deployment) string {
	switch {
	case slot == slotManagement:
		return "management"
	case slot != 0:
		for _, s := range slotsInterconnect {
			if s == slot {
				return "interconnect"
			}
		}
	case name == netcfg.InterconnectBond:
		return "interconnect"
	case depl.VLAN != 0 && name == netcfg.DeploymentLink(depl):
		return "deployment"
	}
	return ""
}
