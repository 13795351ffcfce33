package netcfg

import (
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestCheckMTU has a bridge between two stations that want 2000 bytes, whose
// one port carries 1500 only: frames that are too long vanish without a word.
func TestCheckMTU(t *testing.T) {
	inNetNS(t)
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip(err)
	}
	peer, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	enter := func(ns netns.NsHandle) {
		t.Helper()
		if err := netns.Set(ns); err != nil {
			t.Fatal(err)
		}
	}
	addPair(t, "p", "q")
	if err := netlink.LinkSetNsFd(mustLink(t, "q"), int(here)); err != nil {
		t.Fatal(err)
	}
	syncTwice(t, wants(with(phys("p"), func(l *Link) { l.Addrs, l.MTU = pfx("192.0.2.2/24"), 2000 })))
	enter(here)
	addPair(t, "m", "n")
	a := netlink.NewLinkAttrs()
	a.Name = "br0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}); err != nil {
		t.Skipf("needs a bridge: %v", err)
	}
	for _, name := range []string{"n", "q"} {
		if err := errors.Join(netlink.LinkSetMaster(mustLink(t, name), mustLink(t, "br0")), netlink.LinkSetUp(mustLink(t, name))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(netlink.LinkSetUp(mustLink(t, "br0")), netlink.LinkSetMTU(mustLink(t, "n"), 2000)); err != nil {
		t.Fatal(err)
	}
	syncTwice(t, wants(with(phys("m"), func(l *Link) { l.Addrs, l.MTU = pfx("192.0.2.1/24"), 2000 })))
	there, nobody := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	if err := CheckMTU(t.Context(), "m", there, 2000); !errors.Is(err, ErrTooLong) {
		t.Errorf("through a port of 1500: %v", err)
	}
	if err := CheckMTU(t.Context(), "m", there, 1500); err != nil {
		t.Errorf("as long as the port allows: %v", err)
	}
	if err := netlink.LinkSetMTU(mustLink(t, "q"), 2000); err != nil {
		t.Fatal(err)
	}
	if err := CheckMTU(t.Context(), "m", there, 2000); err != nil {
		t.Errorf("through ports of 2000: %v", err)
	}
	if err := CheckMTU(t.Context(), "m", nobody, 1500); !errors.Is(err, ErrNoAnswer) && !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("to nobody: %v", err)
	}
	if n, err := Neighbours(t.Context(), "m"); err != nil || !slices.Equal(n, []netip.Addr{there}) {
		t.Errorf("Neighbours = %v, %v", n, err)
	}
	runtime.KeepAlive(peer)
}
