package netcfg

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Sync makes one round: Observe, Plan, Apply. It returns what it changed. The
// error joins all that could not be had; the rest is done all the same.
func Sync(ctx context.Context, want Config) ([]Change, error) {
	have, err := Observe(ctx)
	if err != nil {
		return nil, err
	}
	p := newPlan(want, have)
	errs := []error{Apply(ctx, p.changes)}
	for _, err := range p.errs {
		errs = append(errs, fmt.Errorf("netcfg: %w", err))
	}
	return p.changes, errors.Join(errs...)
}

// Apply carries changes out in the calling thread's namespace, in their order.
// It goes on after an error, but leaves out what needs a link that could not be
// made. The error joins a *LinkError for each change that failed.
func Apply(ctx context.Context, changes []Change) error {
	var errs []error
	missing := map[string]bool{}
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if missing[c.Link()] || missing[below(c)] {
			missing[c.Link()] = missing[c.Link()] || creates(c)
			continue
		}
		if err := apply(c); err != nil {
			missing[c.Link()] = missing[c.Link()] || creates(c)
			errs = append(errs, fmt.Errorf("netcfg: %w", &LinkError{c.Link(), fmt.Errorf("%v: %w%s", c, err, remedy(err))}))
		}
	}
	return errors.Join(errs...)
}

func creates(c Change) bool {
	switch c.(type) {
	case CreateBond, CreateVLAN:
		return true
	}
	return false
}

// below names the link that c needs beside its own, if any.
func below(c Change) string {
	switch c := c.(type) {
	case Enslave:
		return c.Master
	case CreateVLAN:
		return c.Parent
	}
	return ""
}

func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return " (run as root, with CAP_NET_ADMIN)"
	case errors.Is(err, unix.EOPNOTSUPP):
		return " (load the kernel module for it: bonding, 8021q; or the driver cannot)"
	}
	return ""
}

func apply(c Change) error {
	switch c := c.(type) {
	case CreateBond:
		b := netlink.NewLinkBond(attrs(c.Name))
		b.Mode, b.PrimaryReselect = netlink.BOND_MODE_ACTIVE_BACKUP, netlink.BOND_PRIMARY_RESELECT_FAILURE
		if c.LACP {
			b.Mode, b.PrimaryReselect = netlink.BOND_MODE_802_3AD, -1
			b.LacpRate, b.XmitHashPolicy = netlink.BOND_LACP_RATE_FAST, netlink.BOND_XMIT_HASH_POLICY_LAYER3_4
		}
		b.Miimon = c.Miimon
		return netlink.LinkAdd(b)
	case CreateVLAN:
		parent, err := netlink.LinkByName(c.Parent)
		if err != nil {
			return err
		}
		a := attrs(c.Name)
		a.ParentIndex = parent.Attrs().Index
		return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: c.ID})
	}
	l, err := netlink.LinkByName(c.Link())
	if err != nil {
		return err
	}
	switch c := c.(type) {
	case Delete:
		return netlink.LinkDel(l)
	case Release:
		return netlink.LinkSetNoMaster(l)
	case Enslave:
		master, err := netlink.LinkByName(c.Master)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(l, master)
	case SetMiimon:
		return modifyBond(l, func(b *netlink.Bond) { b.Miimon = c.Miimon })
	case SetPrimary:
		primary := 0 // clears it
		if c.Primary != "" {
			p, err := netlink.LinkByName(c.Primary)
			if err != nil {
				return err
			}
			primary = p.Attrs().Index
		}
		return modifyBond(l, func(b *netlink.Bond) { b.Primary = primary })
	case SetReselect:
		policy := netlink.StringToBondPrimaryReselectMap[c.Policy]
		return modifyBond(l, func(b *netlink.Bond) { b.PrimaryReselect = policy })
	case SetMTU:
		return netlink.LinkSetMTU(l, c.MTU)
	case SetUp:
		return netlink.LinkSetUp(l)
	case SetDown:
		return netlink.LinkSetDown(l)
	case AddAddr:
		return netlink.AddrReplace(l, &netlink.Addr{IPNet: fromPrefix(c.Addr)})
	case RemoveAddr:
		err := netlink.AddrDel(l, &netlink.Addr{IPNet: fromPrefix(c.Addr)})
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil // gone with its primary
		}
		return err
	case AddRoute:
		return netlink.RouteAdd(route(l, c.Route))
	case RemoveRoute:
		r := route(l, c.Route)
		r.Protocol = 0 // of any
		err := netlink.RouteDel(r)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return err
	}
	return fmt.Errorf("unknown change %T", c)
}

// attrs are those of a new link, with our mark.
func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	a.Group = ownGroup
	return a
}

// modifyBond names the bond without its index: with both, the kernel takes the
// request for a new name too, which a link that is up refuses (EBUSY).
func modifyBond(l netlink.Link, set func(*netlink.Bond)) error {
	a := netlink.NewLinkAttrs()
	a.Name = l.Attrs().Name
	b := netlink.NewLinkBond(a)
	set(b)
	return netlink.LinkModify(b)
}

func route(l netlink.Link, r Route) *netlink.Route {
	n := &netlink.Route{
		LinkIndex: l.Attrs().Index,
		Dst:       fromPrefix(r.Dst),
		Priority:  r.Metric,
		Protocol:  unix.RTPROT_STATIC,
	}
	if r.Gateway.IsValid() {
		n.Gw = r.Gateway.AsSlice()
	} else if r.Dst.Addr().Is4() {
		n.Scope = netlink.SCOPE_LINK
	}
	return n
}
