// Package fence is the way between DRBD's fence handler, a small program that
// the kernel starts for each volume that lost its partner, and the daemon,
// which decides. The program waits for the daemon when it is being restarted:
// meanwhile the volume is frozen, which is safe.
package fence

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

// Socket is where the daemon listens.
const Socket = "/run/baystream/fence.sock"

// What the handler tells the kernel (drbd.conf(5), fence-peer): 7 thaws the
// volume and marks the partner's leg outdated, anything else that is not known
// leaves it frozen until it is thawed or withdrawn by the daemon.
const (
	ExitWon  = 7
	ExitLost = 1
)

// Limits of an ask.
const (
	patience = time.Minute // in all
	pause    = 100 * time.Millisecond
)

// Ask asks the daemon at socket whether resource may go on alone. It tries again
// while nobody listens, and gives up after a minute: what is frozen then stays
// so, and the daemon that comes back finds it.
func Ask(ctx context.Context, socket, resource string) (won bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		won, err = ask(ctx, socket, resource)
		if err == nil {
			return won, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("fence %s: nobody decides: %w", resource, err)
		case <-time.After(pause):
		}
	}
}

func ask(ctx context.Context, socket, resource string) (bool, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fprintln(conn, resource); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	switch strings.TrimSpace(line) {
	case "won":
		return true, nil
	case "lost":
		return false, nil
	}
	return false, fmt.Errorf("answer %q: %v", line, err)
}
