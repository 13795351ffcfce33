package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// firmware is what the iSCSI Boot Firmware Table says about the session the
// machine booted from (kernel: Documentation/ABI/testing/sysfs-ibft).
type firmware struct {
	Initiator string
	Target    string // IQN
	Portal    netip.AddrPort
	MAC       net.HardwareAddr
	Address   netip.Prefix
}

// readIBFT reads the table below root. It returns nil when the firmware left
// no table, that is, when the machine did not boot by iSCSI.
func readIBFT(root string) (*firmware, error) {
	dir := filepath.Join(root, "sys/firmware/ibft")
	name, err := attr(dir, "initiator/initiator-name")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fw := &firmware{Initiator: name}
	if fw.Target, err = attr(dir, "target0/target-name"); err != nil {
		return nil, err
	}
	if fw.Portal, err = portal(dir); err != nil {
		return nil, err
	}
	mac, err := attr(dir, "ethernet0/mac")
	if err != nil {
		return nil, err
	}
	if fw.MAC, err = net.ParseMAC(mac); err != nil {
		return nil, err
	}
	fw.Address, err = address(dir)
	return fw, err
}

func portal(dir string) (netip.AddrPort, error) {
	ip, err := attr(dir, "target0/ip-addr")
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target address: %w", err)
	}
	port, err := attr(dir, "target0/port")
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target port: %w", err)
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

func address(dir string) (netip.Prefix, error) {
	ip, err := attr(dir, "ethernet0/ip-addr")
	if err != nil {
		return netip.Prefix{}, err
	}
	mask, err := attr(dir, "ethernet0/subnet-mask")
	if err != nil {
		return netip.Prefix{}, err
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("own address: %w", err)
	}
	m := net.ParseIP(mask).To4()
	if m == nil {
		return netip.Prefix{}, fmt.Errorf("subnet mask %q is not one", mask)
	}
	ones, bits := net.IPMask(m).Size()
	if bits == 0 {
		return netip.Prefix{}, fmt.Errorf("subnet mask %s is not contiguous", mask)
	}
	return netip.PrefixFrom(addr, ones), nil
}

func attr(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err
}
