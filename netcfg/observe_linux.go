package netcfg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownGroup is the link group of what this package makes; see IFLA_GROUP in
// rtnetlink(7). It is set in the request that creates a link, so that no crash
// leaves one without it.
const ownGroup = 0x626179

// Observe reads the network of the calling thread's namespace. A link that
// comes or goes meanwhile may be missing; Watch tells that it did.
func Observe(ctx context.Context) (State, error) {
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	links, err := retry(netlink.LinkList)
	if err != nil {
		return State{}, fmt.Errorf("netcfg: list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var s State
	index := map[int]int{} // of the kernel → of s.Links
	for _, l := range links {
		index[l.Attrs().Index] = len(s.Links)
		s.Links = append(s.Links, linkState(l, names))
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := errors.Join(observeAddrs(&s, family, index), observeRoutes(&s, family, index))
		if err != nil && (family == unix.AF_INET || !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP)) {
			return State{}, err
		}
	}
	slices.SortStableFunc(s.Links, func(a, b LinkState) int { return cmp.Compare(a.Name, b.Name) })
	return s, nil
}

// retry repeats a dump that changed while it was read.
func retry[T any](dump func() ([]T, error)) ([]T, error) {
	for range 4 {
		if l, err := dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return l, err
		}
	}
	return dump()
}

func linkState(l netlink.Link, names map[int]string) LinkState {
	a := l.Attrs()
	s := LinkState{
		Name:    a.Name,
		Type:    l.Type(),
		MAC:     a.HardwareAddr,
		PermMAC: a.PermHWAddr,
		Up:      a.Flags&net.FlagUp != 0,
		Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
		MTU:     a.MTU,
		Master:  names[a.MasterIndex],
		Ours:    a.Group == ownGroup,
	}
	switch l := l.(type) {
	case *netlink.Bond:
		s.BondMode = l.Mode.String()
		s.Miimon = l.Miimon
		s.Primary = names[l.Primary]
		s.Reselect = l.PrimaryReselect.String()
		s.Active = names[l.ActiveSlave]
	case *netlink.Vlan:
		s.VLANParent = names[a.ParentIndex]
		s.VLANID = l.VlanId
	}
	return s
}

func observeAddrs(s *State, family int, index map[int]int) error {
	addrs, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, family) })
	if err != nil {
		return fmt.Errorf("netcfg: list addresses: %w", err)
	}
	for _, a := range addrs {
		i, ok := index[a.LinkIndex]
		p, valid := toPrefix(a.IPNet)
		if !ok || !valid {
			continue
		}
		made := a.Flags&unix.IFA_F_PERMANENT == 0 || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()
		s.Links[i].Addrs = append(s.Links[i].Addrs, Addr{Prefix: p, Kernel: made, Duplicate: a.Flags&unix.IFA_F_DADFAILED != 0})
	}
	return nil
}

func observeRoutes(s *State, family int, index map[int]int) error {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	routes, err := retry(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return fmt.Errorf("netcfg: list routes: %w", err)
	}
	for _, r := range routes {
		i, ok := index[r.LinkIndex]
		if !ok || len(r.MultiPath) > 0 {
			continue
		}
		dst, ok := toPrefix(r.Dst)
		switch {
		case r.Dst == nil && family == unix.AF_INET:
			dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		case r.Dst == nil:
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		case !ok:
			continue
		}
		gw, _ := netip.AddrFromSlice(r.Gw)
		made := r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || r.Protocol == unix.RTPROT_REDIRECT
		s.Links[i].Routes = append(s.Links[i].Routes, RouteState{
			Route:  Route{Dst: dst, Gateway: gw.Unmap(), Metric: r.Priority},
			Kernel: made,
		})
	}
	return nil
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if a.Is4In6() && size == 32 || a.Is4() {
		a = a.Unmap()
	}
	p := netip.PrefixFrom(a, bits)
	return p, ok && p.IsValid()
}

func fromPrefix(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
