package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"baystream/daemon/pki"
	"baystream/netcfg"
)

// movable is a listener that can go on at another address. Connections that
// were accepted stay as they are.
type movable struct {
	accepted chan net.Conn
	closed   chan struct{}

	mu    sync.Mutex
	inner net.Listener // nil once closed
	last  []net.Conn   // accepted when it was closed, and still to be answered
	wg    sync.WaitGroup
}

func newMovable(ln net.Listener) *movable {
	m := &movable{accepted: make(chan net.Conn), closed: make(chan struct{})}
	m.inner = ln
	m.wg.Go(func() { m.take(ln) })
	return m
}

// move goes on at ln, and no longer at the old address.
func (m *movable) move(ln net.Listener) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inner == nil {
		return errors.Join(net.ErrClosed, ln.Close())
	}
	old := m.inner
	m.inner = ln
	m.wg.Go(func() { m.take(ln) })
	return old.Close()
}

// take accepts from one address until it is closed.
func (m *movable) take(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as too many open files, which pass
			select {
			case <-m.closed:
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case m.accepted <- conn:
		case <-m.closed:
			m.mu.Lock()
			m.last = append(m.last, conn)
			m.mu.Unlock()
		}
	}
}

// Accept implements net.Listener.
func (m *movable) Accept() (net.Conn, error) {
	select {
	case conn := <-m.accepted:
		return conn, nil
	case <-m.closed:
	}
	m.wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.last) == 0 {
		return nil, net.ErrClosed
	}
	conn := m.last[0]
	m.last = m.last[1:]
	return conn, nil
}

// Addr implements net.Listener: where it listens now.
func (m *movable) Addr() net.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inner == nil {
		return &net.TCPAddr{}
	}
	return m.inner.Addr()
}

// Close implements net.Listener.
func (m *movable) Close() error {
	m.mu.Lock()
	if m.inner == nil {
		m.mu.Unlock()
		return net.ErrClosed
	}
	err := m.inner.Close()
	m.inner = nil
	close(m.closed)
	m.mu.Unlock()
	m.wg.Wait()
	return err
}

// restPort is HTTPS's.
const restPort = 443

// openAt listens at ip, whose certificate is made first.
func (d *Daemon) openAt(ctx context.Context, authority *pki.Authority, ip netip.Addr) (net.Listener, error) {
	if err := authority.Serve(d.names(ip)...); err != nil {
		return nil, err
	}
	ln, err := listenAt(ctx, ip)
	if err != nil {
		return nil, err
	}
	d.address.Store(&ip)
	return ln, nil
}

func listenAt(ctx context.Context, ip netip.Addr) (net.Listener, error) {
	addr := netip.AddrPortFrom(ip, restPort).String()
	ln, err := listenKept(ctx, net.ListenConfig{}, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("rest: listen on %s: %w", addr, err)
	}
	return ln, nil
}

// followAddress moves REST to each new management address: DHCP may lend
// another one at any time.
func (d *Daemon) followAddress(ctx context.Context, authority *pki.Authority, m *movable) error {
	return follow(ctx, netcfg.Watch(ctx), *d.address.Load(), d.managementAddress, func(ip netip.Addr) error {
		ln, err := d.openAt(ctx, authority, ip)
		if err == nil {
			err = m.move(ln)
		}
		if err != nil {
			d.log.Debug("management address", "address", ip.String(), "err", err)
			return err
		}
		d.log.Info("management address changed", "address", ip.String())
		d.cfg.Console("REST ready https://%s", ln.Addr())
		return nil
	})
}

// Events only wake follow; now and then it looks by itself.
const (
	followEvery = time.Minute
	followRetry = time.Second
)

// follow calls move whenever address says another one than before, and again
// while that fails: the kernel may not have the address yet.
func follow(ctx context.Context, events <-chan struct{}, have netip.Addr, address func(context.Context) (netip.Addr, error), move func(netip.Addr) error) error {
	wait := followEvery
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-events:
			if !open {
				events = nil
			}
		case <-time.After(wait):
		}
		now, err := address(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait = followEvery
		if err != nil || now == have {
			continue
		}
		if move(now) != nil {
			wait = followRetry
			continue
		}
		have = now
	}
}
