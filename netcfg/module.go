package netcfg

import (
	"fmt"
	"net"
	"net/netip"
)

// InterconnectBond is the name of the bond over a module's interconnect ports.
const InterconnectBond = "ic0"

// A NIC is a port of the module: the kernel's name and the burnt-in address.
// A NIC without MAC is found by its name.
type NIC struct {
	Name string
	MAC  net.HardwareAddr
}

// A Module says what a module has and what is set for it. A NIC without name
// and a zero setting are left out.
type Module struct {
	ManagementPort    NIC
	FramePort         NIC
	InterconnectPorts []NIC

	Management Management   // with DHCP: the lease
	FrameLink  netip.Prefix // address on the frame's own network, from the frame document
	Deployment Deployment
	LACP       bool
}

// Config returns the wanted network of a module: its management port and the
// frame link, untagged; a bond over its interconnect ports; and on it the
// deployment network, tagged, where the portal is a second address.
//
// The first interconnect port is preferred, so that all modules of a frame sit
// on the same interconnect module and their traffic stays within it.
func (m Module) Config() Config {
	var c Config
	if m.ManagementPort.Name != "" {
		c.Links = append(c.Links, managementLink(m.ManagementPort, m.Management))
	}
	if m.FramePort.Name != "" {
		l := Link{Name: m.FramePort.Name, Kind: Physical, MAC: m.FramePort.MAC}
		if m.FrameLink.IsValid() {
			l.Addrs = []netip.Prefix{m.FrameLink}
		}
		c.Links = append(c.Links, l)
	}
	if len(m.InterconnectPorts) == 0 {
		return c
	}
	d := m.Deployment
	bond := Link{Name: InterconnectBond, Kind: Bond, LACP: m.LACP, Miimon: DefaultMiimon, MTU: d.MTU}
	if !m.LACP {
		bond.Primary = m.InterconnectPorts[0].Name
	}
	for _, n := range m.InterconnectPorts {
		c.Links = append(c.Links, Link{Name: n.Name, Kind: Physical, MAC: n.MAC})
		bond.Slaves = append(bond.Slaves, n.Name)
	}
	c.Links = append(c.Links, bond)
	if d.VLAN != 0 {
		c.Links = append(c.Links, deploymentLink(d))
	}
	return c
}

// DeploymentLink is the name of the link that carries d.
func DeploymentLink(d Deployment) string {
	return fmt.Sprintf("%s.%d", InterconnectBond, d.VLAN)
}

func managementLink(n NIC, m Management) Link {
	l := Link{Name: n.Name, Kind: Physical, MAC: n.MAC}
	if m.Address.IsValid() {
		l.Addrs = []netip.Prefix{m.Address}
	}
	if m.Gateway.IsValid() {
		l.Routes = []Route{{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: m.Gateway}}
	}
	if m.Address6.IsValid() {
		l.Addrs = append(l.Addrs, m.Address6)
	}
	if m.Gateway6.IsValid() {
		l.Routes = append(l.Routes, Route{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Gateway: m.Gateway6})
	}
	return l
}

func deploymentLink(d Deployment) Link {
	l := Link{
		Name:   DeploymentLink(d),
		Kind:   VLAN,
		Parent: InterconnectBond,
		ID:     d.VLAN,
		MTU:    d.MTU,
		Addrs:  []netip.Prefix{d.Address},
	}
	if d.Portal.IsValid() && d.Portal != d.Address.Addr() {
		l.Addrs = append(l.Addrs, netip.PrefixFrom(d.Portal, 32))
	}
	if d.Address6.IsValid() {
		l.Addrs = append(l.Addrs, d.Address6)
	}
	return l
}
