package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"baystream/daemon/domain"
	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/netcfg"
)

// testNetwork is the network of a module with all its ports, none of which is
// in this machine.
func testNetwork(t *testing.T, frame string) *network {
	t.Helper()
	m, err := netcfg.ParseManagement(frame)
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{log: slog.New(slog.DiscardHandler), board: newBoard(), mgmt: m}
	d.inv = hw.Inventory{Settings: map[string]string{}, NICs: []hw.NIC{
		{Name: "none1", Slot: 1, MAC: "02:00:00:00:00:01"}, {Name: "none2", Slot: 2, MAC: "02:00:00:00:00:02"},
		{Name: "none3", Slot: 3, MAC: "02:00:00:00:00:03"}, {Name: "none6", Slot: 6, MAC: "02:00:00:00:00:06"},
	}}
	return newNetwork(d)
}

func TestNetworkWantsWhatIsSet(t *testing.T) {
	n := testNetwork(t, "")
	n.lease = netcfg.Management{Address: netip.MustParsePrefix("192.0.2.50/24")}
	n.SetFrameLink(netip.MustParsePrefix("169.254.1.11/16"))
	var got []string
	for _, l := range n.want().Links {
		for _, a := range l.Addrs {
			got = append(got, l.Name+" "+a.String())
		}
	}
	if s := strings.Join(got, ", "); s != "none1 192.0.2.50/24, none2 169.254.1.11/16" {
		t.Errorf("wants %s", s)
	}
	if err := n.want().Validate(); err != nil {
		t.Error(err)
	}
}

func TestNetworkChangeRevertsUnlessConfirmed(t *testing.T) {
	const old = "address:192.0.2.10/24"
	next := "address:198.51.100.10/24"
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := testNetwork(t, old)
		n.load(dir)
		change := domain.NetChange{Management: &next, GraceSeconds: 30, Unchecked: true}
		trial, err := n.ChangeNetwork(t.Context(), change)
		if err != nil || trial.Address != "198.51.100.10" || n.want().Links[0].Addrs[0].String() != "198.51.100.10/24" {
			t.Fatalf("ChangeNetwork = %+v, %v", trial, err)
		}
		if _, err := n.ChangeNetwork(t.Context(), change); domain.KindOf(err) != domain.Invalid {
			t.Errorf("a change during another: %v", err)
		}
		time.Sleep(29 * time.Second)
		if err := n.ConfirmNetwork(netip.MustParseAddr("192.0.2.10"), time.Now()); domain.KindOf(err) != domain.Conflict {
			t.Errorf("confirmed over the old address: %v", err)
		}
		time.Sleep(2 * time.Second)
		if s := n.NetworkSettings(); s.Management != old || s.Trial != nil || s.From != "frame" {
			t.Errorf("after the grace time: %+v", s)
		}
		if _, err := os.Stat(filepath.Join(dir, netFile)); err == nil {
			t.Error("settings that nobody confirmed are kept")
		}
		if _, err := n.ChangeNetwork(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := n.ConfirmNetwork(netip.MustParseAddr("198.51.100.10"), time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := n.NetworkSettings(); s.Management != next || s.Trial != nil || s.From != "administrator" {
			t.Errorf("after the confirmation: %+v", s)
		}
	})
	again := testNetwork(t, old)
	again.load(dir)
	if s := again.NetworkSettings(); s.Management != next || s.From != "administrator" {
		t.Errorf("after a restart: %+v", s)
	}
	later := testNetwork(t, "address:192.0.2.77/24")
	later.load(dir)
	if s := later.NetworkSettings(); s.Management != "address:192.0.2.77/24" || s.From != "frame" {
		t.Errorf("when the frame says something new: %+v", s)
	}
}

func TestDeploymentNetworkOnTrial(t *testing.T) {
	dir := t.TempDir()
	set := "vlan:1300,address:203.0.113.2/24,pool:203.0.113.100-203.0.113.199"
	ofFrame, overlap := domain.NetOfFrame, "vlan:1300,address:192.0.2.200/25"
	synctest.Test(t, func(t *testing.T) {
		n := testNetwork(t, "address:192.0.2.10/24")
		n.d.net = n
		n.load(dir)
		before, other := n.deployment()
		if before.VLAN != 0 || n.d.portal().IsValid() {
			t.Fatalf("deployment %v before there is one", before)
		}
		if _, err := n.ChangeNetwork(t.Context(), domain.NetChange{Deployment: &overlap}); domain.KindOf(err) != domain.Invalid {
			t.Errorf("a network that overlaps the management's: %v", err)
		}
		trial, err := n.ChangeNetwork(t.Context(), domain.NetChange{Deployment: &set})
		if err != nil || !trial.Anywhere || trial.Deployment != set || trial.Management != "address:192.0.2.10/24" {
			t.Fatalf("ChangeNetwork = %+v, %v", trial, err)
		}
		<-other // the boot service is told
		if n.d.portal().String() != "203.0.113.2" || !n.deploymentOnTrial() {
			t.Errorf("portal %v, on trial %v", n.d.portal(), n.deploymentOnTrial())
		}
		_, other = n.deployment()
		time.Sleep(2 * time.Minute)
		<-other
		if d, _ := n.deployment(); d.VLAN != 0 || n.NetworkSettings().Deployment != "" {
			t.Errorf("nobody confirmed %v", d)
		}
		if _, err := n.ChangeNetwork(t.Context(), domain.NetChange{Deployment: &set}); err != nil {
			t.Fatal(err)
		}
		if err := n.ConfirmNetwork(netip.Addr{}, time.Now()); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		if s := n.NetworkSettings(); s.Deployment != set || s.DeploymentFrom != "administrator" || s.From != "frame" {
			t.Errorf("after the confirmation: %+v", s)
		}
		// What servers would notice has to wait until it is known whether there are any.
		if _, err := n.ChangeNetwork(t.Context(), domain.NetChange{Deployment: &ofFrame}); domain.KindOf(err) != domain.Unavailable {
			t.Errorf("back to the frame's: %v", err)
		}
	})
	again := testNetwork(t, "address:192.0.2.99/24") // the management setting is another, which is no matter
	again.load(dir)
	if s := again.NetworkSettings(); s.Deployment != set || s.DeploymentFrom != "administrator" || s.Management != "address:192.0.2.99/24" {
		t.Errorf("after a restart: %+v", s)
	}
}

func TestReplaced(t *testing.T) {
	p := func(name string, slot int, mac string) hw.NIC { return hw.NIC{Name: name, Slot: slot, MAC: mac} }
	old := []hw.NIC{p("eth0", 1, "a"), p("eth2", 3, "c"), p("eth3", 6, "d")}
	for what, tc := range map[string]struct{ now, want, changed []hw.NIC }{
		"the same":            {old, old, nil},
		"pulled":              {[]hw.NIC{old[0], old[2]}, []hw.NIC{old[1], old[0], old[2]}, nil},
		"another card":        {[]hw.NIC{old[0], p("eth2", 3, "x"), old[2]}, []hw.NIC{old[0], p("eth2", 3, "x"), old[2]}, []hw.NIC{p("eth2", 3, "x")}},
		"another name":        {[]hw.NIC{old[0], p("eth9", 3, "c"), old[2]}, []hw.NIC{old[0], p("eth9", 3, "c"), old[2]}, []hw.NIC{p("eth9", 3, "c")}},
		"in the other slot":   {[]hw.NIC{old[0], p("eth2", 6, "c")}, []hw.NIC{old[0], p("eth2", 6, "c")}, []hw.NIC{p("eth2", 6, "c")}},
		"a card in no slot":   {append([]hw.NIC{p("usb0", 0, "u")}, old...), append([]hw.NIC{p("usb0", 0, "u")}, old...), nil},
		"nothing can be read": {nil, old, nil},
	} {
		got, changed := replaced(old, tc.now)
		if !slices.Equal(got, tc.want) || !slices.Equal(changed, tc.changed) {
			t.Errorf("%s: %v, changed %v; want %v, %v", what, got, changed, tc.want, tc.changed)
		}
	}
}

func TestCarriersAreToldWhenTheyStayAway(t *testing.T) {
	var c carriers
	at := time.Unix(1000, 0)
	ports := func(up ...bool) []domain.NetPort {
		out := []domain.NetPort{{Network: "management", Carrier: up[0]}}
		for _, u := range up[1:] {
			out = append(out, domain.NetPort{Network: "interconnect", Carrier: u})
		}
		return out
	}
	lost, back := ipmi.LinkLost, ipmi.LinkBack
	for i, tc := range []struct {
		after time.Duration
		up    []bool
		want  []ipmi.EventKind // of the interconnect; the management port is up
	}{
		{0, []bool{true, false, false}, nil}, // they are coming up
		{time.Second, []bool{true, true, true}, []ipmi.EventKind{back}},
		{time.Second, []bool{true, false, true}, nil},
		{time.Minute, []bool{true, false, true}, nil},
		{time.Second, []bool{true, false, false}, nil},
		{5 * time.Second, []bool{true, false, false}, []ipmi.EventKind{lost}},
		{5 * time.Second, []bool{true, false, false}, nil},
		{time.Second, []bool{true, true, false}, []ipmi.EventKind{back}},
	} {
		at = at.Add(tc.after)
		var got []ipmi.EventKind
		for _, e := range c.look(ports(tc.up...), at) {
			if e.Code == ipmi.NetworkInterconnect {
				got = append(got, e.Kind)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("step %d: %v, want %v", i, got, tc.want)
		}
	}
}

func TestPortFinding(t *testing.T) {
	port := func(slot int, verdict string, use bool) domain.NetPort {
		return domain.NetPort{Link: "p", Slot: slot, Network: "interconnect", Carrier: verdict != "no carrier", Verdict: verdict, InUse: use}
	}
	for _, tt := range []struct {
		mine, other domain.NetPort
		part        string
	}{
		{port(3, "works", true), port(6, "works", false), ""},
		{port(3, "unknown", true), port(6, "unknown", false), ""},
		{port(3, "silent", false), port(6, "works", true), "restart the interconnect module"},
		{port(3, "silent", true), port(6, "silent", false), "link between the interconnect modules"},
		{port(3, "silent", false), port(6, "silent", true), ""}, // said once
		{port(3, "no carrier", false), port(6, "works", true), "no carrier"},
		{port(3, "mute", false), port(6, "works", true), "hears nothing"},
		{port(3, "hears", false), port(6, "works", true), "is not heard"},
	} {
		tt.other.Link = "q"
		got := portFinding(tt.mine, []domain.NetPort{tt.mine, tt.other})
		if (got == "") != (tt.part == "") || !strings.Contains(got, tt.part) {
			t.Errorf("portFinding(%s beside %s) = %q, want %q", tt.mine.Verdict, tt.other.Verdict, got, tt.part)
		}
	}
}
