package netcfg

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// supports tells whether this kernel makes links of a kind over port.
func supports(t *testing.T, kind Kind, port string) bool {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = "probe"
	var l netlink.Link = netlink.NewLinkBond(a)
	if kind == VLAN {
		a.ParentIndex = mustLink(t, port).Attrs().Index
		l = &netlink.Vlan{LinkAttrs: a, VlanId: 4000}
	}
	if err := netlink.LinkAdd(l); err != nil {
		t.Logf("this kernel has no %s links: %v", kind, err)
		return false
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	return true
}

// TestSyncRandomNetworks takes the kernel from one random network to the next,
// so that each is the observed state of the one behind it: one Sync must do,
// and leave nothing to plan.
func TestSyncRandomNetworks(t *testing.T) {
	syncRandomNetworks(t, 40)
}

func syncRandomNetworks(t *testing.T, draws int) {
	inNetNS(t)
	for _, p := range []string{"a", "b", "c", "d"} {
		addPair(t, p, "far-"+p)
	}
	kinds := map[Kind]bool{Physical: true, Bond: supports(t, Bond, "a"), VLAN: supports(t, VLAN, "a")}
	const seed = 20
	r := rand.New(rand.NewPCG(seed, 0))
	for draw := range draws {
		want := randomConfig(r)
		want.Links = slices.DeleteFunc(want.Links, func(l Link) bool { return !kinds[l.Kind] })
		before, err := Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		problems := Problems(want, before)
		changes, err := Sync(t.Context(), want)
		if err != nil && problems == nil {
			t.Fatalf("seed %d draw %d: Sync: %v\nwant %+v", seed, draw, err, want)
		}
		after, err := Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again := Plan(want, after); len(again) > 0 {
			t.Fatalf("seed %d draw %d: second plan = %v after %v\nwant %+v\nproblems %v\nbefore %+v\nafter %+v", seed, draw, again, changes, want, problems, before, after)
		}
	}
}
