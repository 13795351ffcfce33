package domain

import "slices"

// What an appliance says of itself, below /rest/baystream. These resources are
// ours; the rest of the interface has no place for them.

// Identity is who an appliance is.
type Identity struct {
	Name    string `json:"name"`   // "<frame serial>, appliance <bay>"
	Frame   string `json:"frame"`  // serial of the frame
	Bay     string `json:"bay"`    // "appliance bay 1"
	Serial  string `json:"serial"` // of the module
	Role    string `json:"role"`   // appliance or witness
	Version string `json:"version"`
	Kernel  string `json:"kernel"`
}

// Health is the answer of an appliance that is asked how it is.
type Health struct {
	Status    string       `json:"status"` // the worst of the parts
	Appliance Identity     `json:"appliance"`
	Started   string       `json:"started"` // of the daemon
	Parts     []HealthPart `json:"parts"`
}

// HealthPart is one part of the appliance.
type HealthPart struct {
	Name   string `json:"name"`
	Status string `json:"status"` // OK, Warning, Critical
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// HealthSummary is what an appliance tells of its health to anybody: how it is,
// and what somebody who stands before a module in trouble can do.
type HealthSummary struct {
	Status string       `json:"status"`
	Parts  []HealthPart `json:"parts"` // those that are not OK
}

// moduleParts speak of the module alone. What the others say may name volumes,
// servers or users.
var moduleParts = []string{"hardware", "frame settings", "network", "data disk"}

// Summary leaves out what only users may see.
func (h Health) Summary() HealthSummary {
	s := HealthSummary{Status: h.Status, Parts: []HealthPart{}}
	for _, p := range h.Parts {
		if p.Status == StatusOK {
			continue
		}
		if !slices.Contains(moduleParts, p.Name) {
			p.Detail = "" // the remedies are constant texts
		}
		s.Parts = append(s.Parts, p)
	}
	return s
}

// NetReport is the network as it is, and what differs from what is wanted.
type NetReport struct {
	Links []NetLink `json:"links"`
	Drift []string  `json:"drift"` // changes that the next round would make; empty is good

	Ports    []NetPort   `json:"ports"`
	Bond     *NetBond    `json:"bond,omitempty"`
	Warnings []string    `json:"warnings"` // what somebody should look after
	Settings NetSettings `json:"settings"`
}

// NetLink is one link.
type NetLink struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"` // physical, bond, vlan
	Purpose   string   `json:"purpose"`
	MAC       string   `json:"mac"`
	Slot      int      `json:"slot,omitempty"` // PCIe slot; of an interconnect port, the interconnect bay
	MTU       int      `json:"mtu"`
	Up        bool     `json:"up"`
	Carrier   bool     `json:"carrier"`
	Master    string   `json:"master,omitempty"`
	Addresses []string `json:"addresses"`
}

// StorageReport is the storage role as it is.
type StorageReport struct {
	Status    string          `json:"status"`
	Detail    string          `json:"detail,omitempty"`
	DataBytes int64           `json:"dataBytes"` // of the pool
	DataUsed  int64           `json:"dataUsed"`
	MetaBytes int64           `json:"metaBytes"`
	MetaUsed  int64           `json:"metaUsed"`
	Goldens   []StorageGolden `json:"goldens"`
	Volumes   []StorageVolume `json:"volumes"`
}

// StorageGolden is a golden image expanded in the pool.
type StorageGolden struct {
	ID     string `json:"id"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"` // of the contents (storage.Digest)
	Clones int    `json:"clones"`
}

// StorageVolume is an OS volume as the kernel sees it.
type StorageVolume struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Bytes    int64    `json:"bytes"`
	Used     int64    `json:"used"`   // mapped in the pool, bytes, shared blocks included
	Device   string   `json:"device"` // /dev/drbdN
	Role     string   `json:"role"`   // DRBD: Primary, Secondary
	Disk     string   `json:"disk"`   // DRBD: UpToDate, ...
	Peer     string   `json:"peer"`   // DRBD connection state; StandAlone without a partner
	IQN      string   `json:"iqn"`    // empty while not exported
	Sessions []string `json:"sessions"`
}

// ClusterReport says which votes exist.
type ClusterReport struct {
	Members  []ClusterMember `json:"members"`
	Leader   string          `json:"leader"`
	Revision int64           `json:"revision"`
	DBBytes  int64           `json:"dbBytes"`
	Verdict  string          `json:"verdict"` // what the next loss would do, in a sentence
}

// ClusterMember is one member.
type ClusterMember struct {
	Name  string `json:"name"`
	ID    string `json:"id"`
	Voter bool   `json:"voter"`
}
