// Package uevent tells when the kernel adds, removes or changes a device, so
// that an inventory is read anew when it may differ and not by the clock.
//
// Events come over netlink from the kernel itself (lib/kobject_uevent.c); what
// other programs send on the same socket is ignored.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Event is one message of the kernel's.
type Event struct {
	Action    string // add, remove, change, bind, unbind, move, online, offline
	Path      string // below /sys
	Subsystem string // block, net, tpm ...
	Name      string // of the device node or interface: vda, eth0; "" without one
}

// Lost stands for events that the socket had no room for: everything must be
// looked at anew. It is the only Event without an action.
var Lost = Event{}

// Follow calls each with the kernel's events until ctx ends. It is ready, and
// no event is missed, once started has been called.
func Follow(ctx context.Context, started func(), each func(Event)) error {
	f, err := listen()
	if err != nil {
		return fmt.Errorf("device events: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	started()
	buf := make([]byte, 16<<10)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := conn.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("device events: %w", err)
		case errors.Is(got, unix.EINTR):
		case errors.Is(got, unix.ENOBUFS):
			each(Lost)
		case got != nil:
			return fmt.Errorf("device events: %w", got)
		default:
			if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
				continue // not the kernel
			}
			if e, ok := parse(buf[:n]); ok {
				each(e)
			}
		}
	}
}

// listen opens the socket; group 1 is the kernel's.
func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) // without privilege the default must do
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// parse reads a message: "ACTION@PATH", then strings KEY=VALUE, each ended by NUL.
func parse(b []byte) (Event, bool) {
	head, rest, ok := bytes.Cut(b, []byte{0})
	action, path, at := strings.Cut(string(head), "@")
	if !ok || !at || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, false
	}
	e := Event{Action: action, Path: path}
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "SUBSYSTEM":
			e.Subsystem = value
		case "DEVNAME", "INTERFACE":
			e.Name = value
		}
	}
	return e, true
}
