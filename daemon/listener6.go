package daemon

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/daemon/pki"
	"baystream/netcfg"
)

// listeners6 serves at a set of addresses that comes and goes: the IPv6 addresses
// of the management port, one that is set and those that routers give (RFC 4862).
// IPv4 has one address, which the management of the domain knows (listener.go).
type listeners6 struct {
	listen func(context.Context, netip.Addr) (net.Listener, error)
	serve  func(context.Context, net.Listener) error
	opened func(at netip.Addr, err error) // err is nil, or why not: it is tried again

	open map[netip.Addr]context.CancelFunc
}

// keep brings what is served to want, and says whether all of it is.
func (l *listeners6) keep(ctx context.Context, g *errgroup.Group, want []netip.Addr) bool {
	if l.open == nil {
		l.open = map[netip.Addr]context.CancelFunc{}
	}
	for at, stop := range l.open {
		if !slices.Contains(want, at) {
			stop()
			delete(l.open, at)
		}
	}
	all := true
	for _, at := range want {
		if l.open[at] != nil {
			continue
		}
		ln, err := l.listen(ctx, at)
		l.opened(at, err)
		if err != nil {
			all = false
			continue
		}
		own, stop := context.WithCancel(ctx)
		l.open[at] = stop
		g.Go(func() error { return l.serve(own, ln) })
	}
	return all
}

// run follows addresses, anew after each event, until ctx ends.
func (l *listeners6) run(ctx context.Context, events <-chan struct{}, addresses func(context.Context) []netip.Addr) error {
	g, ctx := errgroup.WithContext(ctx)
	for {
		wait := followEvery
		if !l.keep(ctx, g, addresses(ctx)) {
			wait = followRetry // the kernel still looks for others that have the address
		}
		select {
		case <-ctx.Done():
			return g.Wait()
		case _, open := <-events:
			if !open {
				events = nil
			}
		case <-time.After(wait):
		}
	}
}

// serveIPv6 serves REST at the IPv6 addresses of the management port until ctx
// ends.
func (d *Daemon) serveIPv6(ctx context.Context, authority *pki.Authority, serve func(context.Context, net.Listener) error) error {
	if d.net == nil || d.cfg.Listen != "" {
		return nil
	}
	told := map[netip.Addr]bool{}
	l := &listeners6{
		serve: serve,
		listen: func(ctx context.Context, at netip.Addr) (net.Listener, error) {
			d.also.add(at)
			if err := authority.Serve(d.names()...); err != nil {
				return nil, err
			}
			return listenKept(ctx, net.ListenConfig{}, "tcp6", netip.AddrPortFrom(at, restPort).String())
		},
		opened: func(at netip.Addr, err error) {
			switch {
			case err != nil:
				d.log.Debug("management address", "address", at.String(), "err", err)
			case !told[at]: // once: addresses of routers come and go
				told[at] = true
				d.log.Info("rest also at", "address", at.String())
				d.cfg.Console("REST also at https://%s", netip.AddrPortFrom(at, restPort))
			}
		},
	}
	return l.run(ctx, netcfg.Watch(ctx), d.net.addresses6)
}

// alsoServed are the addresses beside the management address that the certificate
// of REST has to name.
type alsoServed struct {
	mu    sync.Mutex
	addrs []netip.Addr
}

func (a *alsoServed) add(at netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.addrs, at) {
		a.addrs = append(a.addrs, at)
	}
}

func (a *alsoServed) all() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.addrs)
}

// names are the addresses that REST's certificate has to name: the management
// address, if it is known, that of a pair, and those of IPv6.
func (d *Daemon) names(more ...netip.Addr) []netip.Addr {
	names := append(d.also.all(), more...)
	if a := d.address.Load(); a != nil {
		names = append(names, *a)
	}
	if s := d.serviceAddress(); s.IsValid() {
		names = append(names, s.Addr())
	}
	return names
}

// addresses6 are the IPv6 addresses of the management port at which others can
// reach the module.
func (n *network) addresses6(ctx context.Context) []netip.Addr {
	mgmt, _, _ := n.ports()
	st, err := netcfg.Observe(ctx)
	if err != nil || mgmt.Name == "" {
		return nil
	}
	l, _ := st.Link(mgmt.Name)
	service := n.d.serviceAddress().Addr()
	var out []netip.Addr
	for _, a := range l.Addrs {
		if at := a.Addr(); at.Is6() && at.IsGlobalUnicast() && !a.Duplicate && at != service {
			out = append(out, at)
		}
	}
	return out
}
