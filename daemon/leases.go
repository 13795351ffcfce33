package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"baystream/daemon/boot"
	"baystream/daemon/domain"
	"baystream/netcfg"
)

// A lease is the address of a port whose server nobody knows.
type lease struct {
	Address netip.Addr `json:"address"`
	Seen    time.Time  `json:"seen"`
}

// What strangers on the deployment network can take is bounded: their leases
// are short and forgotten soon after they have run out, and with the servers
// that were only discovered they share at most half of the pool.
const (
	strangerLease  = 10 * time.Minute
	forgetStranger = 2 * strangerLease
	maxPorts       = 8 // of a server that are noted without anybody registering them
)

// quota is how many strangers, and how many discovered servers, a pool of size
// addresses takes.
func quota(size int) int { return min(max(size/4, 4), 256) }

// errStrangers says that the quota of strangers is used up.
var errStrangers = errors.New("too many unknown ports ask for addresses: register the servers, or find out what asks")

// strangerAddress picks the address of the unknown port mac, and the leases to
// forget with it. Taken are the addresses of the appliance and of servers.
func strangerAddress(pool netcfg.Pool, taken map[netip.Addr]string, leases map[string]lease, mac string, now time.Time) (addr netip.Addr, forget []string, err error) {
	all, live := map[netip.Addr]string{}, 0
	for a, who := range taken {
		all[a] = who
	}
	for m, l := range leases {
		switch {
		case m == mac:
			if _, lost := taken[l.Address]; !lost && pool.Contains(l.Address) {
				addr = l.Address
			}
		case now.Sub(l.Seen).Abs() > forgetStranger: // also of before the clock was set
			forget = append(forget, m)
		default:
			all[l.Address] = m
			live++
		}
	}
	if addr.IsValid() {
		return addr, forget, nil
	}
	if live >= quota(pool.Size()) {
		return addr, forget, fmt.Errorf("port %s: %w", mac, errStrangers)
	}
	addr, err = boot.Allocate(pool, all, mac)
	return addr, forget, err
}

// serverAddress picks the address of a server that has none yet. If the pool is
// full, it takes that of the stranger who was not seen for the longest. Own is
// the server's port, whose lease as a stranger becomes its address.
func serverAddress(pool netcfg.Pool, taken map[netip.Addr]string, leases map[string]lease, id, own string) (addr netip.Addr, forget []string, err error) {
	all, oldest := map[netip.Addr]string{}, ""
	for a, who := range taken {
		all[a] = who
	}
	for m, l := range leases {
		if _, lost := taken[l.Address]; lost {
			continue
		}
		if m == own {
			if pool.Contains(l.Address) {
				return l.Address, []string{own}, nil
			}
			continue
		}
		all[l.Address] = m
		if pool.Contains(l.Address) && (oldest == "" || l.Seen.Before(leases[oldest].Seen)) {
			oldest = m
		}
	}
	addr, err = boot.Allocate(pool, all, id)
	if errors.Is(err, boot.ErrPoolFull) && oldest != "" {
		return leases[oldest].Address, []string{oldest, own}, nil
	}
	return addr, []string{own}, err
}

// forgettable returns the discovered server that may go to make room for one
// more, "" if there is room, and an error if none may go: one that has a
// profile, or was seen within a day, stays.
func forgettable(servers []domain.ServerHardware, room int, now time.Time) (string, error) {
	discovered, oldest, since := 0, "", now.Add(-24*time.Hour)
	for _, h := range servers {
		if !h.Discovered {
			continue
		}
		discovered++
		seen, _ := time.Parse(domain.TimeFormat, h.LastSeen) // none is long ago
		if h.ServerProfile == "" && seen.Before(since) {
			oldest, since = h.UUID, seen
		}
	}
	switch {
	case discovered < room:
		return "", nil
	case oldest == "":
		return "", fmt.Errorf("%d servers were discovered and not registered: register them, or delete those that do not exist", discovered)
	}
	return oldest, nil
}
