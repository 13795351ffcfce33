package domain

// States of a module in its domain.
const (
	ModuleUnclaimed   = "unclaimed"   // seen, belongs to no domain
	ModuleForeign     = "foreign"     // seen, belongs to another domain
	ModuleJoining     = "joining"     // claimed, does not hold the whole state yet
	ModuleMember      = "member"      // takes part
	ModuleQuarantined = "quarantined" // takes no part, and why
)

// Module is an appliance or a witness, as the domain knows it or as it
// announces itself, below /rest/baystream/appliances.
type Module struct {
	ID          string `json:"id"` // serial number of the module
	Frame       string `json:"frame"`
	Bay         string `json:"bay"` // "appliance bay 1"
	Role        string `json:"role"`
	Fingerprint string `json:"fingerprint"` // SHA-256 of its public key, hex
	Address     string `json:"address"`     // where its peers reach it, ADDRESS:PORT
	// Addresses are its own, with their prefix lengths, by network: management,
	// deployment, frame.
	Addresses map[string]string `json:"addresses,omitempty"`
	State     string            `json:"state"`
	Detail    string            `json:"detail,omitempty"`
	Version   string            `json:"version,omitempty"`
	// Resync: its volumes may be old; it may be nothing but the target of a
	// resync until the pair says that this is done.
	Resync  bool   `json:"resync"`
	Claimed string `json:"claimed,omitempty"` // when
	By      string `json:"by,omitempty"`      // user name
}

// Domain is the domain that an appliance belongs to.
type Domain struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Created string `json:"created"`
	Founder string `json:"founder"` // serial number of the first module
}

// ClaimRequest asks for a module to be taken into the domain.
type ClaimRequest struct {
	ID          string `json:"id"`                    // of a module that announces itself, or
	Address     string `json:"address,omitempty"`     // of any module
	Fingerprint string `json:"fingerprint,omitempty"` // as its console shows it; needed with an address
	Role        string `json:"role"`
	Replaces    string `json:"replaces,omitempty"` // id of the module whose place it takes
}
