package netcfg

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbours returns the IPv4 addresses on a link that the kernel knows a MAC
// for, those that answered recently first (arp(7)).
func Neighbours(ctx context.Context, link string) ([]netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := netlink.LinkByName(link)
	if err != nil {
		return nil, fmt.Errorf("netcfg: link %s: neighbours: %w", link, err)
	}
	list, err := retry(func() ([]netlink.Neigh, error) { return netlink.NeighList(l.Attrs().Index, unix.AF_INET) })
	if err != nil {
		return nil, fmt.Errorf("netcfg: link %s: neighbours: %w", link, err)
	}
	const known = unix.NUD_REACHABLE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_PERMANENT
	list = slices.DeleteFunc(list, func(n netlink.Neigh) bool { return n.State&known == 0 })
	slices.SortStableFunc(list, func(a, b netlink.Neigh) int {
		return cmp.Compare(a.State&unix.NUD_STALE, b.State&unix.NUD_STALE)
	})
	var addrs []netip.Addr
	for _, n := range list {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, nil
}
