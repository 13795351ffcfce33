package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
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
// opened again when its link was away, and ended when its link is no longer one
// of the module's: a port was replaced, the deployment network is another.
type watchers struct {
	filters bool // the modules of the packet filter are loaded; of run only

	mu      sync.Mutex
	running map[watchKey]*watcher
}

// watchKey names a watcher: what it watches, on which link, and as what. Another
// address of the port is another watcher.
type watchKey struct{ what, link, as string }

// What is watched.
const (
	watchLLDP      = "lldp"
	watchLACP      = "lacp"
	watchConflicts = "address conflicts"
	watchBond      = "bond"
	watchMTU       = "mtu"
	watchDHCP      = "dhcp client"
)

type watcher struct {
	stop context.CancelFunc
	held any // *held of what it runs
}

// runner is what a watcher runs.
type runner interface{ Run(context.Context) error }

// running is a runner that is a function.
type running func(context.Context) error

func (r running) Run(ctx context.Context) error { return r(ctx) }

// held is a runner that may be away.
type held[T any] struct{ atomic.Pointer[T] }

func (h *held[T]) get() (v T, ok bool) {
	if p := h.Load(); p != nil {
		return *p, true
	}
	return v, false
}

// watched returns what watches a link, false while nothing does.
func watched[T any](w *watchers, what, link string) (v T, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, r := range w.running {
		if h, is := r.held.(*held[T]); is && k.what == what && k.link == link {
			return h.get()
		}
	}
	return v, false
}

// allWatched are those that watch something on all links.
func allWatched[T any](w *watchers, what string) (all []T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, r := range w.running {
		if h, is := r.held.(*held[T]); is && k.what == what {
			if v, ok := h.get(); ok {
				all = append(all, v)
			}
		}
	}
	return all
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

// starting is a watcher that should run.
type starting struct {
	held any
	run  func(context.Context) error
}

func start[T runner](n *network, what string, open func() (T, error)) starting {
	h := &held[T]{}
	return starting{held: h, run: func(ctx context.Context) error { return keep(ctx, n, what, h, open) }}
}

// keepWatchers starts the watchers of the links as they are wanted now, and ends
// the others.
func (n *network) keepWatchers(ctx context.Context, g *errgroup.Group) {
	want := n.wantWatchers()
	w := &n.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == nil {
		w.running = map[watchKey]*watcher{}
	}
	for key, r := range w.running {
		if _, ok := want[key]; !ok {
			r.stop()
			delete(w.running, key)
		}
	}
	for key, s := range want {
		if w.running[key] != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		w.running[key] = &watcher{stop: stop, held: s.held}
		g.Go(func() error {
			defer stop()
			return s.run(own)
		})
	}
}

// wantWatchers are the watchers that the ports and networks of now need.
func (n *network) wantWatchers() map[watchKey]starting {
	mgmt, frame, ics := n.ports()
	depl, _ := n.deployment()
	want := map[watchKey]starting{}
	for _, p := range append([]netcfg.NIC{mgmt, frame}, ics...) {
		if p.Name != "" {
			want[watchKey{watchLLDP, p.Name, p.MAC.String()}] = start(n, watchLLDP, func() (*lldp.Agent, error) { return lldp.Open(p.Name, n.introduce(p.Name), n.d.log) })
		}
	}
	for _, p := range ics {
		want[watchKey{watchLACP, p.Name, p.MAC.String()}] = start(n, watchLACP, func() (*lacp.Listener, error) { return lacp.Open(p.Name) })
	}
	guarded := []string{mgmt.Name, frame.Name}
	if depl.VLAN != 0 && len(ics) > 0 {
		link := netcfg.DeploymentLink(depl)
		guarded = append(guarded, link)
		want[watchKey{watchMTU, link, ""}] = start(n, watchMTU, func() (running, error) { return n.checkMTU(link), nil })
	}
	for _, link := range guarded {
		if link == "" {
			continue
		}
		want[watchKey{watchConflicts, link, ""}] = start(n, watchConflicts, func() (*acd.Guard, error) {
			guard, err := acd.OpenGuard(link, n.ownPort, n.d.log)
			n.wake() // to be told the addresses
			return guard, err
		})
	}
	if mgmt.Name != "" {
		want[watchKey{watchDHCP, mgmt.Name, mgmt.MAC.String()}] = start(n, watchDHCP, func() (running, error) {
			return func(ctx context.Context) error { return n.borrow(ctx, mgmt.Name) }, nil
		})
	}
	if len(ics) == 2 {
		as := fmt.Sprint(ics, depl.VLAN)
		want[watchKey{watchBond, netcfg.InterconnectBond, as}] = start(n, watchBond, func() (*probe.Monitor, error) { return probe.Open(n.probeConfig(ics, depl)) })
		want[watchKey{watchLACP, netcfg.InterconnectBond, as}] = start(n, watchLACP, func() (running, error) {
			return func(ctx context.Context) error { return n.watchPartner(ctx, ics) }, nil
		})
	}
	return want
}

// probeConfig is what the bond's Monitor needs to know.
func (n *network) probeConfig(ics []netcfg.NIC, depl netcfg.Deployment) probe.Config {
	link := netcfg.DeploymentLink(depl)
	cfg := probe.Config{
		Bond: netcfg.InterconnectBond, Preferred: 0, VLAN: depl.VLAN, Log: n.d.log.With("part", "probes"),
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
	if depl.VLAN != 0 {
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
	n.mu.Lock()
	nics := n.nics
	n.mu.Unlock()
	return slices.ContainsFunc(nics, func(p hw.NIC) bool {
		own := nic(p).MAC
		return mac == ether.MAC(own) || mac == ether.OwnMAC(own)
	})
}

// introduce is what a port says of this module.
func (n *network) introduce(link string) func() lldp.Frame {
	mgmt, _, _ := n.ports()
	slot := n.slotOf(link)
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
	for _, l := range want.Links {
		if g, ok := watched[*acd.Guard](&n.watch, watchConflicts, l.Name); ok {
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
	mgmt, frame, ics := n.ports()
	depl, _ := n.deployment()
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
		if depl.VLAN != 0 {
			add(netcfg.DeploymentLink(depl), firewall.Deployment)
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
	if l, ok := watched[*lacp.Listener](&n.watch, watchLACP, link); ok {
		return l.Partner()
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
func (n *network) checkMTU(link string) running {
	return func(ctx context.Context) error {
		defer n.foundTooLong(nil)
		for wait := time.Minute; ; wait = mtuEvery {
			if !pause(ctx, wait) {
				return nil
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
			n.foundTooLong(found)
		}
	}
}

func (n *network) foundTooLong(found []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tooLong = found
}
