package netcfg

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Down takes a link down, so that its addresses answer nobody any more. A link
// that is not there is no error.
func Down(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkSetDown(l)
	}
	if err != nil {
		return fmt.Errorf("netcfg: link %s: down: %w", name, err)
	}
	return nil
}
