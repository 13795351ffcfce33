package bayctl

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/domain"
)

func TestDrawNet(t *testing.T) {
	ic := func(bay string) *domain.NetNeighbour {
		return &domain.NetNeighbour{System: "VF0001 interconnect bay " + bay, Port: "appliance-1:a"}
	}
	v := domain.NetReport{
		Links: []domain.NetLink{
			{Name: "eth0", Up: true, Addresses: []string{"192.0.2.10/24", "fe80::1/64"}},
			{Name: "ic0", Up: true}, {Name: "ic0.1300", Purpose: "deployment", Up: true, Addresses: []string{"198.51.100.2/24"}},
			{Name: "usb0"},
		},
		Ports: []domain.NetPort{
			{Link: "eth0", Slot: 1, Network: "management", Carrier: true, InUse: true},
			{Link: "eth1", Slot: 2, Network: "frame link"},
			{Link: "eth2", Slot: 3, Network: "interconnect", Carrier: true, Verdict: "silent", Neighbour: ic("6")},
			{Link: "eth3", Slot: 6, Network: "interconnect", Carrier: true, Verdict: "works", InUse: true, Neighbour: ic("3")},
		},
		Bond:     &domain.NetBond{Name: "ic0", Mode: "active-backup", Active: "eth3", Changes: 1, Changed: "2026-01-02T03:04:05.678Z", Reason: "the port in use is silent, the other one works"},
		Warnings: []string{"eth2 (slot 3) is cabled to interconnect bay 6, not 3: exchange the cables"},
	}
	want := strings.TrimPrefix(`
slot 1  eth0      ===  ?                                         management              192.0.2.10/24
slot 2  eth1       /   ?                                         frame link, no carrier
slot 3  eth2      -x-  VF0001 interconnect bay 6, appliance-1:a  silent
slot 6  eth3      ===  VF0001 interconnect bay 3, appliance-1:a  works, in use
        |
        ic0            active-backup over eth3
        ic0.1300       deployment                                                        198.51.100.2/24
        usb0           not the appliance's, down

ic0 changed its port 1 times, last at 03:04:05 UTC: the port in use is silent, the other one works

warning: eth2 (slot 3) is cabled to interconnect bay 6, not 3: exchange the cables
`, "\n")
	var b bytes.Buffer
	drawNet(&b, v)
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("drawNet (-want +got):\n%s", diff)
	}
}

// TestNetSetConfirms has a server that is already at the address it is asked to
// take, so that bayctl can reach it there.
func TestNetSetConfirms(t *testing.T) {
	a := newAppliance(t, map[string]string{
		"PUT /rest/baystream/net/settings":          `{"management":"address:127.0.0.1/8","address":"127.0.0.1","until":"2999-01-02T03:04:05.678Z"}`,
		"POST /rest/baystream/net/settings/confirm": `{"management":"address:127.0.0.1/8"}`,
	})
	out, err := command(t, "net", "set", "address:127.0.0.1/8", "--grace", "30s")
	if err != nil || !strings.Contains(out, "confirmed: the appliance is at https://127.0.0.1:") {
		t.Errorf("net set = %q, %v", out, err)
	}
	if diff := cmp.Diff([]string{"PUT /rest/baystream/net/settings", "POST /rest/baystream/net/settings/confirm"}, a.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// TestNetSetLeavesTheAppliance has one that cannot be reached at its new
// address before the time is over.
func TestNetSetLeavesTheAppliance(t *testing.T) {
	until := domain.Stamp(time.Now().Add(2 * time.Second))
	newAppliance(t, map[string]string{
		"PUT /rest/baystream/net/settings": `{"management":"address:127.0.0.1/8","address":"127.0.0.1","until":"` + until + `"}`,
	})
	if _, err := command(t, "net", "set", "address:127.0.0.1/8"); err == nil || !strings.Contains(err.Error(), "it takes the old settings back") {
		t.Errorf("net set = %v", err)
	}
}
