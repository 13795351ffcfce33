package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bringUp gives the NIC with the given MAC its address and waits for its link.
func bringUp(mac net.HardwareAddr, addr netip.Prefix, limit time.Duration) error {
	link, err := linkByMAC(mac, limit)
	if err != nil {
		return err
	}
	name := link.Attrs().Name
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("link %s: up: %w", name, err)
	}
	if err := addAddress(link, addr, 0); err != nil {
		return err
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		l, err := netlink.LinkByIndex(link.Attrs().Index)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		if l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return nil
		}
	}
	return fmt.Errorf("link %s: no carrier in %v; is its interconnect port up?", name, limit)
}

func linkByMAC(mac net.HardwareAddr, limit time.Duration) (netlink.Link, error) {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if bytes.Equal(l.Attrs().HardwareAddr, mac) {
				return l, nil
			}
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no NIC with address %s", mac)
		}
	}
}

// takeAddress puts the personality's address on the first NIC that does not
// carry the boot session. A machine without such a NIC gets it as a host
// address on the loopback, which Linux answers for on every NIC.
func takeAddress(fw *firmware, cidr string) error {
	prefix, err := parseAddress(cidr)
	if err != nil {
		return err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		at := l.Attrs()
		if at.Flags&net.FlagLoopback != 0 || len(at.HardwareAddr) != 6 {
			continue
		}
		if fw != nil && bytes.Equal(at.HardwareAddr, fw.MAC) {
			continue
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("link %s: up: %w", at.Name, err)
		}
		// The metric leaves the network of the boot session where it is.
		return addAddress(l, prefix, 200)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("link lo: up: %w", err)
	}
	return addAddress(lo, netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen()), 0)
}

// parseAddress takes "192.0.2.10/24" or a bare address, which then stands for
// itself alone.
func parseAddress(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("want ADDRESS/LENGTH: %w", err)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// addAddress adds p to link; metric is that of the network's route, 0 for the
// kernel's own.
func addAddress(link netlink.Link, p netip.Prefix, metric int) error {
	name := link.Attrs().Name
	ip := net.IP(p.Addr().AsSlice())
	a := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if metric != 0 {
		a.Flags = unix.IFA_F_NOPREFIXROUTE
	}
	if err := netlink.AddrReplace(link, a); err != nil {
		return fmt.Errorf("link %s: add address %s: %w", name, p, err)
	}
	if metric == 0 {
		return nil
	}
	masked := p.Masked()
	r := &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Scope:     netlink.SCOPE_LINK,
		Dst:       &net.IPNet{IP: masked.Addr().AsSlice(), Mask: a.Mask},
		Src:       ip,
		Priority:  metric,
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("link %s: add route %s: %w", name, masked, err)
	}
	return nil
}
