package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"baystream/daemon/domain"
	"baystream/hw"
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
	const old, next = "address:192.0.2.10/24", "address:198.51.100.10/24"
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := testNetwork(t, old)
		n.load(dir)
		change := domain.NetChange{Management: next, GraceSeconds: 30, Unchecked: true}
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
