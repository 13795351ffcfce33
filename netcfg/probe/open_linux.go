package probe

import (
	"fmt"
	"math/rand/v2"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"baystream/netcfg/ether"
)

// Open opens the sockets of a Monitor in the calling thread's namespace.
func Open(cfg Config) (*Monitor, error) {
	m := newMonitor(cfg, rand.Uint64())
	fail := func(err error) (*Monitor, error) {
		for _, w := range []wire{m.probes[0], m.probes[1], m.arps[0], m.arps[1]} {
			if c, ok := w.(*ether.Conn); ok {
				c.Close()
			}
		}
		return nil, fmt.Errorf("probe: %w", err)
	}
	for i, p := range cfg.Ports {
		c, err := ether.Open(p.Name, ether.Probe, m.macs[i], group)
		if err != nil {
			return fail(err)
		}
		m.probes[i] = c
		a, err := ether.Open(p.Name, ether.ARP, m.macs[i])
		if err != nil {
			return fail(err)
		}
		m.arps[i] = a
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fail(err)
	}
	m.driver = &kernelBond{h: h, bond: cfg.Bond, ports: [2]string{cfg.Ports[0].Name, cfg.Ports[1].Name}}
	return m, nil
}

// kernelBond is the bonding driver.
type kernelBond struct {
	h     *netlink.Handle
	bond  string
	ports [2]string
}

func (k *kernelBond) Close() { k.h.Close() }

// Read implements driver.
func (k *kernelBond) Read() (facts, error) {
	f := facts{active: -1}
	bond, err := k.h.LinkByName(k.bond)
	if err != nil {
		return f, fmt.Errorf("link %s: %w", k.bond, err)
	}
	f.mtu = bond.Attrs().MTU
	b, _ := bond.(*netlink.Bond)
	for i, name := range k.ports {
		l, err := k.h.LinkByName(name)
		if err != nil {
			return f, fmt.Errorf("link %s: %w", name, err)
		}
		a := l.Attrs()
		f.carrier[i] = a.RawFlags&unix.IFF_LOWER_UP != 0 && a.Flags&net.FlagUp != 0
		if a.Statistics != nil {
			f.received[i] = a.Statistics.RxPackets
		}
		if b != nil && b.Mode == netlink.BOND_MODE_ACTIVE_BACKUP && b.ActiveSlave == a.Index {
			f.active = i
		}
	}
	return f, nil
}

// SetActive implements driver. The bond is named without its index, see
// netcfg's modifyBond.
func (k *kernelBond) SetActive(port int) error {
	l, err := k.h.LinkByName(k.ports[port])
	if err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name = k.bond
	b := netlink.NewLinkBond(a)
	b.ActiveSlave = l.Attrs().Index
	return k.h.LinkModify(b)
}
