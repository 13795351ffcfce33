package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"baystream/hw"
	"baystream/netcfg"
)

// leaseLimit is how long a DHCP server may take while there is no daemon.
const leaseLimit = 30 * time.Second

// GivenUp is what PID 1 runs when it has given the daemon up: the controller's
// event log tells so, and the management port has an address, where the health
// port answers. An address that the daemon left there stays as it is.
func GivenUp(ctx context.Context, cfg Config) error {
	noted := make(chan error, 1)
	go func() { noted <- NoteMaintenance(ctx, cfg.Root, "crash-loop") }()
	return errors.Join(managementOnly(ctx, cfg), <-noted)
}

// managementOnly gives the management port the address that the frame sets, or
// one that DHCP lends, unless it has one.
func managementOnly(ctx context.Context, cfg Config) error {
	inv, err := hw.Probe(cfg.Root)
	if err != nil {
		cfg.Log.Warn("hardware", "err", err)
	}
	port, _, _ := ports(inv)
	if port.Name == "" {
		return errors.New("management network: the module has no management port")
	}
	if has, err := hasAddress(port.Name); err != nil || has {
		return err
	}
	set, err := netcfg.ParseManagement(inv.Settings["management"])
	if err != nil {
		cfg.Log.Warn("frame settings", "err", err)
	}
	sync := func(m netcfg.Management) error {
		_, err := netcfg.Sync(ctx, netcfg.Module{ManagementPort: port, Management: m}.Config())
		return err
	}
	if err := sync(set); err != nil || set.Address.IsValid() || set.Address6.IsValid() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseLimit)
	defer cancel()
	lent := fmt.Errorf("management network: no lease within %v", leaseLimit)
	err = netcfg.DHCP(ctx, port.Name, cfg.Log, func(l netcfg.Lease) {
		if l.Address.IsValid() {
			lent = sync(l.Management)
			cancel()
		}
	})
	return errors.Join(err, lent)
}

// hasAddress tells whether a link has an address that others can reach it at.
func hasAddress(link string) (bool, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return false, fmt.Errorf("management network: link %s: %w", link, err)
	}
	addrs, err := i.Addrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return true, nil
		}
	}
	return false, err
}
