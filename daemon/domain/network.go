package domain

// The network of a module, as /rest/baystream/net shows it.

// NetPort is a port of the module and what is at the other end of its cable.
type NetPort struct {
	Link    string `json:"link"`
	Slot    int    `json:"slot"`    // PCIe; 3 and 6 lead to the interconnect bays of these numbers
	Network string `json:"network"` // management, frame link, interconnect
	MAC     string `json:"mac"`
	Carrier bool   `json:"carrier"`
	// Verdict is what the probes say of an interconnect port: works, hears,
	// silent, mute, no carrier, unknown; empty where there are none.
	Verdict   string        `json:"verdict,omitempty"`
	InUse     bool          `json:"inUse"`               // the bond sends over it
	Delivered uint64        `json:"delivered,omitempty"` // probes that arrived at the other port
	Missed    uint64        `json:"missed,omitempty"`
	Neighbour *NetNeighbour `json:"neighbour,omitempty"` // by LLDP
}

// NetNeighbour is a station that LLDP names.
type NetNeighbour struct {
	System      string   `json:"system"`
	Port        string   `json:"port"`
	Description string   `json:"description,omitempty"` // of the port
	Chassis     string   `json:"chassis"`
	Frame       string   `json:"frame,omitempty"` // where the interconnect module sits, if it says so
	Bay         int      `json:"bay,omitempty"`
	MaxFrame    int      `json:"maxFrame,omitempty"` // bytes
	Addresses   []string `json:"addresses,omitempty"`
	Since       string   `json:"since"`
	LACP        string   `json:"lacp,omitempty"` // the partner as it presents itself
}

// NetBond is the bond over the interconnect ports.
type NetBond struct {
	Name      string `json:"name"`
	Mode      string `json:"mode"` // active-backup, 802.3ad
	Active    string `json:"active,omitempty"`
	Preferred string `json:"preferred,omitempty"`
	Rounds    uint64 `json:"rounds"`  // of probes
	Changes   uint64 `json:"changes"` // of the active port, by the probes
	Changed   string `json:"changed,omitempty"`
	Reason    string `json:"reason,omitempty"` // of the last change
}

// NetSettings is what is set for the network, in the form that the frame's
// settings have; empty management is DHCP.
type NetSettings struct {
	Management string `json:"management"`
	From       string `json:"from"` // frame, or administrator
	Deployment string `json:"deployment"`
	// DeploymentFrom is who set the deployment network, as From.
	DeploymentFrom string `json:"deploymentFrom"`
	Interconnect   string `json:"interconnect"`
	FrameLink      string `json:"frameLink"`
	// Trial is the change that waits for a confirmation.
	Trial *NetTrial `json:"trial,omitempty"`
}

// NetTrial is a change of the settings that takes itself back.
type NetTrial struct {
	Management string `json:"management"`
	Deployment string `json:"deployment"`
	// Address is where to confirm; empty: what DHCP lends, or Anywhere.
	Address string `json:"address"`
	// Anywhere says that any request confirms: the management port is as before.
	Anywhere bool   `json:"anywhere"`
	Until    string `json:"until"`
}

// NetChange asks for other settings, in the form of the frame's; what is nil
// stays as it is.
type NetChange struct {
	Management   *string `json:"management,omitempty"` // empty: DHCP
	Deployment   *string `json:"deployment,omitempty"` // empty: none; NetOfFrame
	GraceSeconds int     `json:"graceSeconds"`         // 60 if 0
	Unchecked    bool    `json:"unchecked"`            // do not ask whether somebody has the address
}

// NetOfFrame as a setting is what the frame says.
const NetOfFrame = "frame"
