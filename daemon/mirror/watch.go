package mirror

import (
	"context"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Watch wakes the reader of its channel when the state of a resource may have
// changed, until ctx ends. What happened, States says: an event may stand for
// many, and one that was lost shows at the next look.
func (c *Control) Watch(ctx context.Context) (<-chan struct{}, error) {
	group, err := eventGroup()
	if err != nil {
		return nil, err
	}
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(s), "drbd events") // the poller waits, so that Close ends a Read
	if err := unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), f.Close())
	}
	if err := unix.SetsockoptInt(s, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group)); err != nil {
		return nil, errors.Join(os.NewSyscallError("join events", err), f.Close())
	}
	wake := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer stop()
		defer f.Close()
		buf := make([]byte, 64<<10)
		for {
			_, err := f.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // lost some: look
				return
			}
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	return wake, nil
}

// eventGroup asks for the number of the multicast group "events".
func eventGroup() (uint32, error) {
	fam, err := askFamily()
	if err != nil {
		return 0, err
	}
	if id, ok := multicastGroup(fam, "events"); ok {
		return id, nil
	}
	return 0, errors.New("generic netlink did not name DRBD's events")
}

// multicastGroup finds a group in the attributes of a family: a list, numbered
// from 1, of {1: name, 2: number} (linux/genetlink.h).
func multicastGroup(family map[uint16][]byte, name string) (uint32, bool) {
	const groups, groupName, groupID = 7, 1, 2
	for _, g := range parseAttrs(family[groups]) {
		a := parseAttrs(g)
		if cstring(a[groupName]) == name && len(a[groupID]) >= 4 {
			return binary.NativeEndian.Uint32(a[groupID]), true
		}
	}
	return 0, false
}
