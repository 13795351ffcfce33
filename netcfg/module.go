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

// ModuleConfig returns the wanted network of a module: its management port,
// untagged; an active-backup bond over its interconnect ports; and on it the
// deployment network, tagged, where the portal is a second address. A port
// without name and a zero setting are left out. With DHCP, m is the lease.
//
// The first interconnect port is preferred, so that all modules of a frame sit
// on the same interconnect module and their traffic stays within it.
func ModuleConfig(mgmt NIC, ics []NIC, m Management, d Deployment) Config {
	var c Config
	if mgmt.Name != "" {
		c.Links = append(c.Links, managementLink(mgmt, m))
	}
	if len(ics) == 0 {
		return c
	}
	bond := Link{Name: InterconnectBond, Kind: Bond, Primary: ics[0].Name, Miimon: DefaultMiimon, MTU: d.MTU}
	for _, n := range ics {
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
	return l
}
