package daemon

import (
	"time"

	"baystream/daemon/domain"
	"baystream/hw/ipmi"
)

// carrierLost is how long no port of a network may have a carrier before that is
// on record: ports that come up have none for a moment.
const carrierLost = 3 * time.Second

// carriers finds networks that no port has a carrier on, for the controller's
// event log. By ipmi's code of the network.
type carriers map[byte]*carrier

type carrier struct {
	lost  time.Time // zero while there is one
	told  bool      // that it is lost, or that there is one
	known bool      // told has been told
}

// look returns what is to be noted of the ports as they are now.
func (c *carriers) look(ports []domain.NetPort, now time.Time) []ipmi.Event {
	var out []ipmi.Event
	for _, n := range []struct {
		name string
		code byte
	}{{"management", ipmi.NetworkManagement}, {"interconnect", ipmi.NetworkInterconnect}} {
		there, up := false, false
		for _, p := range ports {
			if p.Network == n.name {
				there, up = true, up || p.Carrier
			}
		}
		if !there {
			continue
		}
		if *c == nil {
			*c = carriers{}
		}
		v := (*c)[n.code]
		if v == nil {
			v = &carrier{}
			(*c)[n.code] = v
		}
		switch {
		case up:
			v.lost = time.Time{}
		case v.lost.IsZero():
			v.lost = now
		}
		lost := !v.lost.IsZero()
		if v.known && v.told == lost || lost && now.Sub(v.lost) < carrierLost {
			continue
		}
		v.known, v.told = true, lost
		kind := ipmi.LinkBack
		if lost {
			kind = ipmi.LinkLost
		}
		out = append(out, ipmi.Event{Kind: kind, Code: n.code})
	}
	return out
}
