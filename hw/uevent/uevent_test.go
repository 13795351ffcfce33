package uevent

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Event
		ok   bool
	}{
		{"add@/devices/pci0000:00/0000:00:05.0/virtio3/block/vdb\x00ACTION=add\x00DEVPATH=/devices/x\x00SUBSYSTEM=block\x00MAJOR=254\x00DEVNAME=vdb\x00DEVTYPE=disk\x00SEQNUM=1\x00",
			Event{"add", "/devices/pci0000:00/0000:00:05.0/virtio3/block/vdb", "block", "vdb"}, true},
		{"remove@/devices/virtual/net/dummy0\x00SUBSYSTEM=net\x00INTERFACE=dummy0\x00", Event{"remove", "/devices/virtual/net/dummy0", "net", "dummy0"}, true},
		{"change@/x\x00", Event{Action: "change", Path: "/x"}, true},
		{"libudev\x00\xfe\xed", Event{}, false},
		{"add@/x", Event{}, false},
		{"add@x\x00", Event{}, false},
		{"@/x\x00", Event{}, false},
		{"", Event{}, false},
	} {
		got, ok := parse([]byte(tc.in))
		if diff := cmp.Diff(tc.want, got); diff != "" || ok != tc.ok {
			t.Errorf("parse(%q): %v (-want +got):\n%s", tc.in, ok, diff)
		}
	}
}

// TestFollowSeesLinksComeAndGo uses the kernel's events of a network namespace.
func TestFollowSeesLinksComeAndGo(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: unshare: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hotplug0"}}
	var got []string
	// The socket is opened in this thread's namespace; so is the link.
	err := Follow(ctx, func() {
		if err := netlink.LinkAdd(link); err != nil {
			cancel()
			t.Skipf("needs bridges: %v", err)
		}
	}, func(e Event) {
		if e.Name != link.LinkAttrs.Name {
			return
		}
		if got = append(got, e.Action); e.Action == "add" {
			if err := netlink.LinkDel(link); err != nil {
				t.Error(err)
			}
		}
		if e.Action == "remove" {
			cancel()
		}
	})
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"add", "remove"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Follow(ctx, cancel, func(Event) {})
	if os.IsPermission(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("add@/x\x00SUBSYSTEM=block\x00DEVNAME=vdb\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parse(b); ok == (e == Lost) {
			t.Errorf("parse(%q) = %+v, %v", b, e, ok)
		}
	})
}
