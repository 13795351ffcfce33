package acd

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestCheckAgainstKernel has the kernel own the address on the other end.
func TestCheckAgainstKernel(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: unshare: %v", err)
	}
	a := netlink.NewLinkAttrs()
	a.Name = "m"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "far"}); err != nil {
		t.Skipf("needs veth links: %v", err)
	}
	m, err1 := netlink.LinkByName("m")
	far, err2 := netlink.LinkByName("far")
	ip, _ := netlink.ParseAddr("192.0.2.10/24")
	ignore := os.WriteFile("/proc/sys/net/ipv4/conf/m/arp_ignore", []byte("1"), 0)
	if err := errors.Join(err1, err2, ignore, netlink.LinkSetUp(m), netlink.LinkSetUp(far), netlink.AddrAdd(far, ip)); err != nil {
		t.Fatal(err)
	}
	var c *Conflict
	if err := Check(t.Context(), "m", addr); !errors.As(err, &c) || c.MAC.String() != far.Attrs().HardwareAddr.String() {
		t.Errorf("Check of an address in use = %v", err)
	}
	if err := Check(t.Context(), "m", netip.MustParseAddr("192.0.2.77")); err != nil {
		t.Errorf("Check of a free address = %v", err)
	}
}
