package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Management is a module's setting for its management port. The zero value
// means DHCP, and IPv6 by router advertisements. IPv6 may be set beside either.
type Management struct {
	Address  netip.Prefix
	Gateway  netip.Addr // invalid: none
	Address6 netip.Prefix
	Gateway6 netip.Addr
}

// Deployment is the setting for the network over which servers boot. The zero
// value means that there is none (yet).
type Deployment struct {
	VLAN    int          // 802.1Q ID
	Address netip.Prefix // of this module
	// Address6 is one more of this module; invalid: none.
	Address6 netip.Prefix
	Portal   netip.Addr // of the OS volumes; the address itself unless set
	Pool     Pool       // for the servers
	MTU      int        // bytes; 0 leaves it as it is
}

// An Interconnect is the setting for the ports to the interconnect modules.
type Interconnect struct {
	LACP LACP
}

// LACP says whether the bond speaks LACP (IEEE 802.1AX) to its partner.
type LACP string

// What LACP can be. Two interconnect modules are two switches, which can only
// be one partner if they act as one; so the default waits to be told by them.
const (
	LACPAuto LACP = "" // when one partner speaks it on both ports
	LACPOn   LACP = "on"
	LACPOff  LACP = "off"
)

// ParseInterconnect parses a frame's setting such as "lacp:on". The empty
// string is "lacp:auto".
func ParseInterconnect(s string) (Interconnect, error) {
	var c Interconnect
	if s == "" {
		return c, nil
	}
	err := parseFields(s, map[string]func(string) error{"lacp": func(v string) error {
		switch v {
		case "auto":
			c.LACP = LACPAuto
		case "on", "off":
			c.LACP = LACP(v)
		default:
			return fmt.Errorf("%q: use auto, on or off", v)
		}
		return nil
	}})
	if err != nil {
		return Interconnect{}, fmt.Errorf("interconnect setting %q: %w", s, err)
	}
	return c, nil
}

// A Pool is a range of IPv4 addresses, both ends in it.
type Pool struct {
	First, Last netip.Addr
}

// Contains says whether a is in p.
func (p Pool) Contains(a netip.Addr) bool {
	return p.First.IsValid() && a.IsValid() && p.First.Compare(a) <= 0 && a.Compare(p.Last) <= 0
}

// Size is the number of addresses in p.
func (p Pool) Size() int {
	if !p.First.Is4() || !p.Last.Is4() || p.Last.Less(p.First) {
		return 0
	}
	return int(ordinal(p.Last)-ordinal(p.First)) + 1
}

// At returns the i-th address of p, from 0.
func (p Pool) At(i int) netip.Addr {
	n := ordinal(p.First) + uint32(i)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func ordinal(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func (p Pool) String() string { return p.First.String() + "-" + p.Last.String() }

// ParseManagement parses a frame's setting such as
// "address:192.0.2.10/24,gateway:192.0.2.1,address6:2001:db8::10/64,gateway6:fe80::1".
// Without address, IPv4 is by DHCP. The empty string is DHCP alone.
func ParseManagement(s string) (Management, error) {
	var m Management
	if s == "" {
		return m, nil
	}
	err := parseFields(s, map[string]func(string) error{
		"address":  func(v string) (err error) { m.Address, err = parseHost(v); return err },
		"gateway":  func(v string) (err error) { m.Gateway, err = parseIPv4(v); return err },
		"address6": func(v string) (err error) { m.Address6, err = parseHost6(v); return err },
		"gateway6": func(v string) (err error) { m.Gateway6, err = parseIPv6(v); return err },
	})
	if err == nil {
		err = m.validate()
	}
	if err != nil {
		return Management{}, fmt.Errorf("management setting %q: %w", s, err)
	}
	return m, nil
}

func (m Management) validate() error {
	switch {
	case !m.Address.IsValid() && (m.Gateway.IsValid() || !m.Address6.IsValid()):
		return errors.New("no address: add address:A.B.C.D/LEN, or leave the setting out for DHCP")
	case m.Gateway6.IsValid() && !m.Address6.IsValid():
		return errors.New("gateway6 without address6: add address6:ADDRESS/LEN")
	case m.Gateway6.IsValid() && !m.Gateway6.IsLinkLocalUnicast() && (!m.Address6.Contains(m.Gateway6) || m.Gateway6 == m.Address6.Addr()):
		return fmt.Errorf("gateway6 %v is not a neighbour in %v: correct one of them", m.Gateway6, m.Address6.Masked())
	case m.Gateway.IsValid() && (!m.Address.Contains(m.Gateway) || m.Gateway == m.Address.Addr()):
		return fmt.Errorf("gateway %v is not a neighbour in %v: correct one of them", m.Gateway, m.Address.Masked())
	}
	return nil
}

// String returns m in the form that ParseManagement takes.
func (m Management) String() string {
	var fields []string
	add := func(key string, valid bool, v fmt.Stringer) {
		if valid {
			fields = append(fields, key+":"+v.String())
		}
	}
	add("address", m.Address.IsValid(), m.Address)
	add("gateway", m.Gateway.IsValid(), m.Gateway)
	add("address6", m.Address6.IsValid(), m.Address6)
	add("gateway6", m.Gateway6.IsValid(), m.Gateway6)
	return strings.Join(fields, ",")
}

// ParseDeployment parses a frame's setting such as
// "vlan:1300,address:198.51.100.2/24,portal:198.51.100.3,pool:198.51.100.100-198.51.100.199,mtu:1500".
// Portal, pool, mtu and address6 may be left out. The empty string is no deployment
// network.
func ParseDeployment(s string) (Deployment, error) {
	var d Deployment
	if s == "" {
		return d, nil
	}
	err := parseFields(s, map[string]func(string) error{
		"vlan":     func(v string) (err error) { d.VLAN, err = parseNumber(v, 1, maxVLAN); return err },
		"address":  func(v string) (err error) { d.Address, err = parseHost(v); return err },
		"address6": func(v string) (err error) { d.Address6, err = parseHost6(v); return err },
		"portal":   func(v string) (err error) { d.Portal, err = parseIPv4(v); return err },
		"pool":     func(v string) (err error) { d.Pool, err = parsePool(v); return err },
		"mtu":      func(v string) (err error) { d.MTU, err = parseNumber(v, minMTU, maxMTU); return err },
	})
	if !d.Portal.IsValid() {
		d.Portal = d.Address.Addr()
	}
	if err == nil {
		err = d.validate()
	}
	if err != nil {
		return Deployment{}, fmt.Errorf("deployment setting %q: %w", s, err)
	}
	return d, nil
}

func (d Deployment) validate() error {
	switch {
	case d.VLAN == 0:
		return errors.New("no vlan: add vlan:ID")
	case !d.Address.IsValid():
		return errors.New("no address: add address:A.B.C.D/LEN")
	case !d.Address.Contains(d.Portal):
		return fmt.Errorf("portal %v is outside %v: correct one of them", d.Portal, d.Address.Masked())
	case d.Pool == Pool{}:
		return nil
	case !d.Address.Contains(d.Pool.First) || !d.Address.Contains(d.Pool.Last):
		return fmt.Errorf("pool %v is outside %v: correct one of them", d.Pool, d.Address.Masked())
	case d.Pool.Contains(d.Address.Addr()) || d.Pool.Contains(d.Portal):
		return fmt.Errorf("pool %v holds the address or the portal of the appliance: move it", d.Pool)
	case d.Pool.Contains(d.Address.Masked().Addr()) || d.Pool.Contains(lastOf(d.Address)):
		return fmt.Errorf("pool %v holds the network's own or broadcast address: shorten it", d.Pool)
	}
	return nil
}

// String returns d in the form that ParseDeployment takes.
func (d Deployment) String() string {
	if d.VLAN == 0 {
		return ""
	}
	s := fmt.Sprintf("vlan:%d,address:%v", d.VLAN, d.Address)
	if d.Address6.IsValid() {
		s += ",address6:" + d.Address6.String()
	}
	if d.Portal != d.Address.Addr() {
		s += ",portal:" + d.Portal.String()
	}
	if d.Pool != (Pool{}) {
		s += ",pool:" + d.Pool.String()
	}
	if d.MTU != 0 {
		s += ",mtu:" + strconv.Itoa(d.MTU)
	}
	return s
}

// Uproots says what of a change from d to next cuts servers off that use volumes
// at d's portal, or takes their addresses away; "" if nothing does.
func (d Deployment) Uproots(next Deployment) string {
	switch {
	case d.VLAN == 0:
		return ""
	case next.VLAN != d.VLAN:
		return "the VLAN"
	case next.Portal != d.Portal:
		return "the portal's address"
	case next.Address.Masked() != d.Address.Masked():
		return "the network's prefix"
	case d.Pool.Size() > 0 && (!next.Pool.Contains(d.Pool.First) || !next.Pool.Contains(d.Pool.Last)):
		return "the servers' addresses: the pool can grow, not shrink"
	}
	return ""
}

// parseFields takes "key:value,key:value" apart.
func parseFields(s string, fields map[string]func(string) error) error {
	seen := map[string]bool{}
	for f := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(f, ":") // IPv6 addresses have more colons
		set := fields[key]
		switch {
		case !ok:
			return fmt.Errorf("%q: write it as key:value", f)
		case set == nil:
			return fmt.Errorf("unknown key %q: use %s", key, strings.Join(sortedKeys(fields), ", "))
		case seen[key]:
			return fmt.Errorf("%s is there twice: keep one", key)
		}
		seen[key] = true
		if err := set(value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

func sortedKeys(m map[string]func(string) error) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func parseNumber(s string, low, high int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("%q: use a number from %d to %d", s, low, high)
	}
	return n, nil
}

func parseIPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%q: use an IPv4 address such as 192.0.2.1", s)
	}
	return a, nil
}

func parseIPv6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%q: use an IPv6 address such as 2001:db8::1", s)
	}
	return a, nil
}

// parseHost6 parses the IPv6 address of a host with its prefix length.
func parseHost6(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil {
		_, err = parseIPv6(p.Addr().String())
	}
	if err != nil || p.Addr().IsLinkLocalUnicast() || p.Bits() < 16 || p.Bits() > 127 || p.Addr() == p.Masked().Addr() {
		return netip.Prefix{}, fmt.Errorf("%q: use an IPv6 address with a prefix length of 16 to 127, such as 2001:db8::10/64", s)
	}
	return p, nil
}

// parseHost parses the address of a host with its prefix length.
func parseHost(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Bits() < 8 || p.Bits() > 30 {
		return netip.Prefix{}, fmt.Errorf("%q: use an IPv4 address with a prefix length of 8 to 30, such as 192.0.2.10/24", s)
	}
	if p.Addr() == p.Masked().Addr() || p.Addr() == lastOf(p) {
		return netip.Prefix{}, fmt.Errorf("%q is the network's own or broadcast address: use one between", s)
	}
	return p, nil
}

// lastOf returns the broadcast address of p.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

func parsePool(s string) (Pool, error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return Pool{}, fmt.Errorf("%q: write it as FIRST-LAST", s)
	}
	var p Pool
	var err1, err2 error
	p.First, err1 = parseIPv4(first)
	p.Last, err2 = parseIPv4(last)
	if err := errors.Join(err1, err2); err != nil {
		return Pool{}, err
	}
	if p.Last.Less(p.First) {
		return Pool{}, fmt.Errorf("%q: ends before it begins", s)
	}
	return p, nil
}
