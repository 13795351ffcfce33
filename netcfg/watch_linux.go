package netcfg

import (
	"context"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchGroups are those of rtnetlink(7) whose news may change a plan. The
// library takes them as numbers, not as bits.
var watchGroups = []uint{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE,
}

// Watch returns a channel that wakes its reader after the network of the
// calling thread's namespace changed. It is buffered by one, so that many
// changes are one wake-up. When the kernel had to drop news, the reader is
// woken too. The channel is closed when ctx ends.
func Watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	// The first socket is opened here, in the caller's namespace.
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, watchGroups...)
	go func() {
		defer close(changed)
		for ctx.Err() == nil {
			if err == nil {
				receive(ctx, sock, changed)
			}
			wake(changed)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			sock, err = nl.Subscribe(unix.NETLINK_ROUTE, watchGroups...)
		}
	}()
	return changed
}

// receive passes wake-ups on until sock fails or ctx ends. It closes sock.
func receive(ctx context.Context, sock *nl.NetlinkSocket, changed chan<- struct{}) {
	stop := context.AfterFunc(ctx, sock.Close)
	defer func() {
		if stop() {
			sock.Close()
		}
	}()
	for {
		_, _, err := sock.Receive()
		if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			return
		}
		wake(changed)
	}
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
