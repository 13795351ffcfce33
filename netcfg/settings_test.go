package netcfg

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var cmpAddrs = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

const deploymentSetting = "vlan:1300,address:198.51.100.2/24,portal:198.51.100.3,pool:198.51.100.100-198.51.100.199,mtu:1500"

func TestParseDeployment(t *testing.T) {
	got, err := ParseDeployment(deploymentSetting)
	want := Deployment{
		VLAN:    1300,
		Address: netip.MustParsePrefix("198.51.100.2/24"),
		Portal:  netip.MustParseAddr("198.51.100.3"),
		Pool:    Pool{netip.MustParseAddr("198.51.100.100"), netip.MustParseAddr("198.51.100.199")},
		MTU:     1500,
	}
	if err != nil || got != want {
		t.Errorf("ParseDeployment = %+v, %v, want %+v", got, err, want)
	}
	if got.Pool.Size() != 100 || got.Pool.At(99) != want.Pool.Last || !got.Pool.Contains(got.Pool.At(5)) {
		t.Errorf("pool %v: size %d, last %v", got.Pool, got.Pool.Size(), got.Pool.At(99))
	}
	short, err := ParseDeployment("vlan:7,address:198.51.100.2/24")
	if err != nil || short.Portal != want.Address.Addr() {
		t.Errorf("portal = %v, %v, want the address", short.Portal, err)
	}
}

func TestParseDeploymentRefuses(t *testing.T) {
	for s, part := range map[string]string{
		"vlan:0,address:198.51.100.2/24":                                   "1 to 4094",
		"address:198.51.100.2/24":                                          "add vlan:ID",
		"vlan:7":                                                           "add address:",
		"vlan:7,address:198.51.100.2":                                      "prefix length",
		"vlan:7,address:198.51.100.0/24":                                   "network's own",
		"vlan:7,address:198.51.100.2/24,portal:203.0.113.1":                "outside",
		"vlan:7,address:198.51.100.2/24,pool:198.51.100.9":                 "FIRST-LAST",
		"vlan:7,address:198.51.100.2/24,pool:198.51.100.9-198.51.100.8":    "ends before",
		"vlan:7,address:198.51.100.2/24,pool:198.51.100.1-198.51.100.8":    "move it",
		"vlan:7,address:198.51.100.2/24,pool:198.51.100.10-198.51.100.255": "shorten it",
		"vlan:7,address:198.51.100.2/24,pool:198.51.101.10-198.51.101.20":  "outside",
		"vlan:7,vlan:8,address:198.51.100.2/24":                            "twice",
		"vlan:7,address:198.51.100.2/24,color:red":                         "use address, address6, mtu, pool, portal, vlan",
		"vlan:7,address:198.51.100.2/24,mtu:":                              "576",
		"vlan:7,address":                                                   "key:value",
	} {
		if _, err := ParseDeployment(s); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("ParseDeployment(%q) = %v, want %q", s, err, part)
		}
	}
}

func TestParseManagement(t *testing.T) {
	for s, ok := range map[string]bool{
		"": true, "address:192.0.2.10/24": true, "address:192.0.2.10/24,gateway:192.0.2.1": true,
		"gateway:192.0.2.1": false, "address:192.0.2.10/24,gateway:192.0.3.1": false,
		"address:192.0.2.10/24,gateway:192.0.2.10": false, "address:192.0.2.10/32": false, "dhcp": false,
		"address:2001:db8::1/64": false, "address6:2001:db8::10/64": true, "address6:2001:db8::10/64,gateway6:fe80::1": true,
		"address:192.0.2.10/24,address6:2001:db8::10/64,gateway6:2001:db8::1": true, "gateway6:fe80::1": false,
		"address6:2001:db8::10/64,gateway6:2001:db8:1::1": false, "address6:2001:db8::/64": false, "address6:fe80::1/64": false,
		"gateway:192.0.2.1,address6:2001:db8::10/64": false,
	} {
		m, err := ParseManagement(s)
		if (err == nil) != ok || ok && m.String() != s {
			t.Errorf("ParseManagement(%q) = %q, %v, want ok %v", s, m, err, ok)
		}
	}
}

func TestParseInterconnect(t *testing.T) {
	for s, want := range map[string]LACP{"": LACPAuto, "lacp:auto": LACPAuto, "lacp:on": LACPOn, "lacp:off": LACPOff} {
		if got, err := ParseInterconnect(s); err != nil || got.LACP != want {
			t.Errorf("ParseInterconnect(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"lacp:", "lacp:maybe", "mtu:1", "on"} {
		if _, err := ParseInterconnect(s); err == nil {
			t.Errorf("ParseInterconnect(%q) = nil", s)
		}
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add(deploymentSetting)
	f.Add("address:192.0.2.10/24,gateway:192.0.2.1")
	f.Add("address6:2001:db8::10/64,gateway6:fe80::1")
	f.Add("vlan:7,address:1.2.3.4/8,address6:2001:db8::3/64")
	f.Add("vlan:7,address:1.2.3.4/8,pool:1.2.3.5-1.2.3.5")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDeployment(s); err == nil {
			again, err := ParseDeployment(d.String())
			if err != nil || again != d {
				t.Errorf("ParseDeployment(%q) = %+v, again %+v, %v", s, d, again, err)
			}
			c := Module{ManagementPort: NIC{Name: "m"}, InterconnectPorts: []NIC{{Name: "p3"}}, Deployment: d}.Config()
			if err := c.Validate(); err != nil {
				t.Errorf("Config of %q: %v", s, err)
			}
		}
		if m, err := ParseManagement(s); err == nil {
			again, err := ParseManagement(m.String())
			if err != nil || again != m {
				t.Errorf("ParseManagement(%q) = %+v, again %+v, %v", s, m, again, err)
			}
			if err := (Module{ManagementPort: NIC{Name: "m"}, Management: m}).Config().Validate(); err != nil {
				t.Errorf("Config of %q: %v", s, err)
			}
		}
	})
}

func TestModule(t *testing.T) {
	m, _ := ParseManagement("address:192.0.2.10/24,gateway:192.0.2.1,address6:2001:db8::10/64,gateway6:fe80::1")
	d, _ := ParseDeployment(deploymentSetting + ",address6:2001:db8:5::2/64")
	mac := func(b byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, b} }
	ics := []NIC{{"enp3s0", mac(3)}, {"enp6s0", mac(6)}}
	module := Module{
		ManagementPort: NIC{"enp1s0", mac(1)}, FramePort: NIC{"enp2s0", mac(2)}, InterconnectPorts: ics,
		Management: m, Deployment: d, FrameLink: netip.MustParsePrefix("169.254.1.11/16"),
	}
	got := module.Config()
	want := Config{Links: []Link{
		{Name: "enp1s0", Kind: Physical, MAC: mac(1), Addrs: pfx("192.0.2.10/24", "2001:db8::10/64"), Routes: []Route{via("0.0.0.0/0 192.0.2.1"), via("::/0 fe80::1")}},
		{Name: "enp2s0", Kind: Physical, MAC: mac(2), Addrs: pfx("169.254.1.11/16")},
		{Name: "enp3s0", Kind: Physical, MAC: mac(3)},
		{Name: "enp6s0", Kind: Physical, MAC: mac(6)},
		{Name: "ic0", Kind: Bond, Slaves: []string{"enp3s0", "enp6s0"}, Primary: "enp3s0", Miimon: 100, MTU: 1500},
		{Name: "ic0.1300", Kind: VLAN, Parent: "ic0", ID: 1300, MTU: 1500, Addrs: pfx("198.51.100.2/24", "198.51.100.3/32", "2001:db8:5::2/64")},
	}}
	if diff := cmp.Diff(want, got, cmpAddrs); diff != "" {
		t.Errorf("Config (-want +got):\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
	module.LACP = true
	if bond, _ := module.Config().link(InterconnectBond); !bond.LACP || bond.Primary != "" || module.Config().Validate() != nil {
		t.Errorf("with LACP the bond is %+v, %v", bond, module.Config().Validate())
	}
	factory := Module{ManagementPort: NIC{"enp1s0", nil}, InterconnectPorts: ics}.Config()
	if n := len(factory.Links); n != 4 || factory.Validate() != nil {
		t.Errorf("factory state has %d links, %v", n, factory.Validate())
	}
}

func TestUproots(t *testing.T) {
	old := "vlan:1300,address:198.51.100.2/24,portal:198.51.100.3,pool:198.51.100.100-198.51.100.199"
	for next, part := range map[string]string{
		old: "",
		"vlan:1300,address:198.51.100.4/24,portal:198.51.100.3,pool:198.51.100.90-198.51.100.250,mtu:9000": "",
		"vlan:1301,address:198.51.100.2/24,portal:198.51.100.3,pool:198.51.100.100-198.51.100.199":         "VLAN",
		"vlan:1300,address:198.51.100.2/24,pool:198.51.100.100-198.51.100.199":                             "portal",
		"vlan:1300,address:198.51.100.2/25,portal:198.51.100.3":                                            "prefix",
		"vlan:1300,address:198.51.100.2/24,portal:198.51.100.3,pool:198.51.100.110-198.51.100.199":         "pool",
		"vlan:1300,address:198.51.100.2/24,portal:198.51.100.3":                                            "pool",
		"": "VLAN",
	} {
		if got := deployment(t, old).Uproots(deployment(t, next)); (got == "") != (part == "") || !strings.Contains(got, part) {
			t.Errorf("Uproots(%q) = %q, want %q", next, got, part)
		}
	}
	if got := (Deployment{}).Uproots(deployment(t, old)); got != "" {
		t.Errorf("the first deployment network uproots %q", got)
	}
}
