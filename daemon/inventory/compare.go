package inventory

import (
	"encoding/json"
	"slices"
	"strings"

	"baystream/hw"
)

// change is a device that came, went or became another.
type change struct {
	what, name string
	change     string // added, removed, changed
	number     byte   // of a disk: its place in the list, from 1, as the event log has it
}

// compare lists what differs between two inventories.
func compare(old, now hw.Inventory) []change {
	out := pair("disk", old.Disks, now.Disks, func(d hw.Disk) string { return d.Name }, func(d hw.Disk) any { return d })
	// Speed and carrier come and go with the cable, which is no hardware change.
	return append(out, pair("nic", old.NICs, now.NICs, func(n hw.NIC) string { return n.Name },
		func(n hw.NIC) any { n.SpeedMbps, n.Carrier = 0, false; return n })...)
}

func pair[T any](what string, old, now []T, name func(T) string, essence func(T) any) []change {
	var out []change
	find := func(list []T, n string) int { return slices.IndexFunc(list, func(v T) bool { return name(v) == n }) }
	for i, o := range old {
		j := find(now, name(o))
		switch {
		case j < 0:
			out = append(out, change{what, name(o), "removed", byte(min(i+1, 255))})
		case essence(o) != essence(now[j]):
			out = append(out, change{what, name(o), "changed", byte(min(i+1, 255))})
		}
	}
	for j, n := range now {
		if find(old, name(n)) < 0 {
			out = append(out, change{what, name(n), "added", byte(min(j+1, 255))})
		}
	}
	slices.SortFunc(out, func(a, b change) int { return strings.Compare(a.what+a.name, b.what+b.name) })
	return out
}

// same compares whole inventories, cables included.
func same(a, b hw.Inventory) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
