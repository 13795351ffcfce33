package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/hw"
	"baystream/netcfg"
	"baystream/netcfg/acd"
	"baystream/netcfg/ether"
	"baystream/netcfg/firewall"
	"baystream/netcfg/lacp"
	"baystream/netcfg/lldp"
	"baystream/netcfg/probe"
)

// watchers are what runs on the links beside their configuration. Each is
// opened again when its link was away; nil meanwhile.
type watchers struct {
	lldp    map[string]*held[*lldp.Agent]    // by link
	lacp    map[string]*held[*lacp.Listener] // by interconnect port
	guards  map[string]*held[*acd.Guard]     // by link with addresses
	monitor held[*probe.Monitor]             // of the bond
	started atomic.Bool
	filters bool // the modules of the packet filter are loaded; of sync only
}

// runner is a watcher.
type runner interface{ Run(context.Context) error }

// held is a watcher that may be away.
type held[T any] struct{ atomic.Pointer[T] }

func (h *held[T]) get() (v T, ok bool) {
	if p := h.Load(); p != nil {
		return *p, true
	}
	return v, false
}

const reopenAfter = time.Second

// keep runs a watcher until ctx ends.
func keep[T runner](ctx context.Context, n *network, what string, h *held[T], open func() (T, error)) error {
	told := false
	for {
		w, err := open()
		if err == nil {
			told = false
			h.Store(&w)
			err = w.Run(ctx)
			h.Store(nil)
		}
		if ctx.Err() != nil {
			return nil
		}
		if !told { // once is enough for the operator
			n.d.log.Warn("cannot watch the network", "what", what, "err", err, "retry", reopenAfter)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reopenAfter):
		}
	}
}

// startWatchers starts what watches the links. They exist since the first
// sync, or come later.
func (n *network) startWatchers(ctx context.Context, g *errgroup.Group) {
	mgmt, frame, ics := ports(n.d.inv)
	w := &n.watch
	w.lldp, w.lacp, w.guards = map[string]*held[*lldp.Agent]{}, map[string]*held[*lacp.Listener]{}, map[string]*held[*acd.Guard]{}
	for _, p := range append([]netcfg.NIC{mgmt, frame}, ics...) {
		if p.Name == "" {
			continue
		}
		h := &held[*lldp.Agent]{}
		w.lldp[p.Name] = h
		g.Go(func() error {
			return keep(ctx, n, "lldp", h, func() (*lldp.Agent, error) { return lldp.Open(p.Name, n.introduce(p.Name), n.d.log) })
		})
	}
	for _, p := range ics {
		h := &held[*lacp.Listener]{}
		w.lacp[p.Name] = h
		g.Go(func() error {
			return keep(ctx, n, "lacp", h, func() (*lacp.Listener, error) { return lacp.Open(p.Name) })
		})
	}
	guarded := []string{mgmt.Name, frame.Name}
	if n.d.depl.VLAN != 0 && len(ics) > 0 {
		guarded = append(guarded, netcfg.DeploymentLink(n.d.depl))
		g.Go(func() error { return n.checkMTU(ctx) })
	}
	for _, link := range guarded {
		if link == "" {
			continue
		}
		h := &held[*acd.Guard]{}
		w.guards[link] = h
		g.Go(func() error {
			return keep(ctx, n, "address conflicts", h, func() (*acd.Guard, error) {
				guard, err := acd.OpenGuard(link, n.ownPort, n.d.log)
				n.wake() // to be told the addresses
				return guard, err
			})
		})
	}
	if len(ics) == 2 {
		g.Go(func() error {
			return keep(ctx, n, "bond", &w.monitor, func() (*probe.Monitor, error) { return probe.Open(n.probeConfig(ics)) })
		})
		g.Go(func() error { return n.watchPartner(ctx, ics) })
	}
	w.started.Store(true)
}

// probeConfig is what the bond's Monitor needs to know.
func (n *network) probeConfig(ics []netcfg.NIC) probe.Config {
	link := netcfg.DeploymentLink(n.d.depl)
	cfg := probe.Config{
		Bond: netcfg.InterconnectBond, Preferred: 0, VLAN: n.d.depl.VLAN, Log: n.d.log.With("part", "probes"),
		Changed: func(string) {
			n.mu.Lock()
			n.resend = true
			n.mu.Unlock()
			n.wake()
		},
	}
	for i := range cfg.Ports {
		cfg.Ports[i] = probe.Port{Name: ics[i].Name, MAC: ics[i].MAC}
	}
	if n.d.depl.VLAN != 0 {
		cfg.Neighbours = func() []netip.Addr {
			addrs, err := netcfg.Neighbours(context.Background(), link)
			if err != nil {
				n.d.log.Debug("neighbours", "err", err)
			}
			return addrs
		}
	}
	return cfg
}

// ownPort says whether a station is one of this module's ports, under its own
// address or that of its probes.
func (n *network) ownPort(mac [6]byte) bool {
	return slices.ContainsFunc(n.d.inv.NICs, func(p hw.NIC) bool {
		own := nic(p).MAC
		return mac == ether.MAC(own) || mac == ether.OwnMAC(own)
	})
}

// introduce is what a port says of this module.
func (n *network) introduce(link string) func() lldp.Frame {
	mgmt, _, _ := ports(n.d.inv)
	slot := 0
	for _, p := range n.d.inv.NICs {
		if p.Name == link {
			slot = p.Slot
		}
	}
	return func() lldp.Frame {
		f := lldp.Frame{
			Chassis:    lldp.ID{Subtype: lldp.ChassisMAC, Value: mgmt.MAC},
			PortDesc:   fmt.Sprintf("slot %d", slot),
			SystemName: n.d.inv.Bay.Frame + " " + n.d.inv.Bay.Location,
			SystemDesc: "Baystream " + n.d.cfg.Version,
		}
		if len(mgmt.MAC) == 0 {
			f.Chassis = lldp.ID{Subtype: lldp.ChassisLocal, Value: []byte(n.d.inv.Bay.Serial + " ")}
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if a := n.management().Address; a.IsValid() {
			f.Management = []netip.Addr{a.Addr()}
		}
		return f
	}
}

// guard tells the guards which addresses are ours now.
func (n *network) guard(want netcfg.Config) {
	if !n.watch.started.Load() {
		return
	}
	for _, l := range want.Links {
		h := n.watch.guards[l.Name]
		if h == nil {
			continue
		}
		if g, ok := h.get(); ok {
			var addrs []netip.Addr
			for _, a := range l.Addrs {
				addrs = append(addrs, a.Addr())
			}
			g.Watch(addrs...)
		}
	}
}

// filter puts the packet filter in place. Its modules take seconds to load on a
// slow machine, so they come when REST answers, or when it is late.
func (n *network) filter() error {
	if !n.watch.filters && n.d.address.Load() == nil && time.Since(n.d.started) < restFirst {
		return nil
	}
	mgmt, frame, ics := ports(n.d.inv)
	links := firewall.Links{}
	add := func(name string, network firewall.Network) {
		if name != "" {
			links[name] = network
		}
	}
	add(mgmt.Name, firewall.Management)
	add(frame.Name, firewall.FrameLink)
	if len(ics) > 0 {
		add(netcfg.InterconnectBond, firewall.Closed)
		if n.d.depl.VLAN != 0 {
			add(netcfg.DeploymentLink(n.d.depl), firewall.Deployment)
		}
	}
	if !n.watch.filters {
		if err := loadModules(filterModules); err != nil {
			return err
		}
		n.watch.filters = true
	}
	changed, err := firewall.Apply(firewall.Rules(links, firewall.Ports))
	if changed {
		n.d.log.Info("packet filter in place", "links", len(links))
	}
	return err
}

// partnerEvery is how often the partner of the bond is looked at.
const partnerEvery = 5 * time.Second

// watchPartner lets the bond speak LACP when one partner does on both ports.
// It does not go back before the module restarts: a bond is made anew for
// each change, which costs its traffic a second.
func (n *network) watchPartner(ctx context.Context, ics []netcfg.NIC) error {
	t := time.NewTicker(partnerEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		n.mu.Lock()
		auto := n.set.lacp == netcfg.LACPAuto && !n.lacp
		n.mu.Unlock()
		a, ok1 := n.partner(ics[0].Name)
		b, ok2 := n.partner(ics[1].Name)
		if auto && ok1 && ok2 && lacp.Aggregable(a, b) {
			n.d.log.Warn("the interconnect modules speak LACP as one partner: so does the bond from now on", "partner", a.String())
			n.mu.Lock()
			n.lacp = true
			n.mu.Unlock()
			n.wake()
		}
	}
}

func (n *network) partner(link string) (lacp.Partner, bool) {
	if h := n.watch.lacp[link]; h != nil {
		if l, ok := h.get(); ok {
			return l.Partner()
		}
	}
	return lacp.Partner{}, false
}

// The MTU to neighbours on the deployment network is checked so often, and to
// so many of them.
const (
	mtuEvery = 10 * time.Minute
	mtuPeers = 4
)

// checkMTU sends packets of full size to neighbours on the deployment network.
func (n *network) checkMTU(ctx context.Context) error {
	link := netcfg.DeploymentLink(n.d.depl)
	for wait := time.Minute; ; wait = mtuEvery {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			continue // sync says so
		}
		peers, err := netcfg.Neighbours(ctx, link)
		if err != nil {
			n.d.log.Debug("mtu", "err", err)
		}
		var found []string
		for _, p := range peers[:min(len(peers), mtuPeers)] {
			err := netcfg.CheckMTU(ctx, link, p, ifi.MTU)
			if errors.Is(err, netcfg.ErrTooLong) {
				found = append(found, fmt.Sprintf("packets of %d bytes do not reach %v over %s: %v", ifi.MTU, p, link, netcfg.ErrTooLong))
			}
		}
		n.mu.Lock()
		n.tooLong = found
		n.mu.Unlock()
	}
}
