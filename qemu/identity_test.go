package qemu

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIdentityIsStableAndDistinct(t *testing.T) {
	a, d := place{1, ApplianceBay, 1}, place{2, ComputeBay, 3}
	got := []string{a.name(), a.serial(), a.location(), a.mac(3).String(), a.address().String(),
		d.name(), d.serial(), d.location(), d.mac(6).String()}
	want := []string{"appliance1", "VF0001A01", "appliance bay 1", "02:61:00:01:01:03", "192.0.2.10/24",
		"frame2-compute3", "VF0002D03", "device bay 3", "02:63:00:02:03:06"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	seen := map[string]place{}
	for frame := 1; frame <= maxFrames; frame++ {
		for bay := 1; bay <= 9; bay++ {
			for _, kind := range []Kind{ApplianceBay, ComputeBay} {
				p := place{frame, kind, bay}
				for _, id := range []string{p.serial(), p.uuid(), p.mac(3).String(), p.mac(6).String(), p.name()} {
					if other, twice := seen[id]; twice {
						t.Errorf("%s stands for %v and %v", id, p, other)
					}
					seen[id] = p
				}
			}
		}
	}
}

func TestLinkedFramesDivideThePool(t *testing.T) {
	got := append(place{1, ApplianceBay, 1}.oem(2, 7), place{2, ApplianceBay, 1}.oem(2, 7)...)
	want := []string{
		"baystream:management=address:192.0.2.10/24,gateway:192.0.2.1",
		"baystream:deployment=vlan:7,address:198.51.100.2/24,pool:198.51.100.100-198.51.100.149,mtu:1500",
		"baystream:management=address:192.0.2.20/24,gateway:192.0.2.1",
		"baystream:deployment=vlan:7,address:198.51.100.3/24,pool:198.51.100.150-198.51.100.199,mtu:1500",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestAPairHasAddressesInCommonAndAWitness(t *testing.T) {
	var got []string
	for n := range pairFrames {
		got = append(got, place{n + 1, ApplianceBay, 1}.oem(pairFrames, 7)...)
	}
	want := []string{
		"baystream:management=address:192.0.2.10/24,gateway:192.0.2.1",
		"baystream:deployment=vlan:7,address:198.51.100.2/24,pool:198.51.100.100-198.51.100.199,mtu:1500",
		"baystream:service=192.0.2.8/24",
		"baystream:portals=198.51.100.8,198.51.100.9",
		"baystream:management=address:192.0.2.20/24,gateway:192.0.2.1",
		"baystream:deployment=vlan:7,address:198.51.100.3/24,pool:198.51.100.100-198.51.100.199,mtu:1500",
		"baystream:service=192.0.2.8/24",
		"baystream:portals=198.51.100.8,198.51.100.9",
		"baystream:role=witness",
		"baystream:management=address:192.0.2.30/24,gateway:192.0.2.1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestADirectoryHasOneFrame(t *testing.T) {
	dir := t.TempDir()
	if Held(dir) {
		t.Error("an empty directory is held")
	}
	var a, b rig
	a.cfg.Dir, b.cfg.Dir = dir, dir
	must(t, a.makeDirs())
	if !Held(dir) {
		t.Error("not held by the frame in it")
	}
	if err := b.makeDirs(); err == nil || !strings.Contains(err.Error(), "vframe down") {
		t.Errorf("a second frame = %v, want the remedy", err)
	}
	must(t, b.lock.Close())
	must(t, a.lock.Close())
	if Held(dir) {
		t.Error("held by nobody")
	}
}
