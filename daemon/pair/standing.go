package pair

// Standing is what a module is in the domain.
type Standing uint8

// Standings. Only a Member of an appliance bay runs storage groups.
const (
	Unclaimed   Standing = iota // waits for the administrator
	Member                      // claimed by this domain for this bay
	Quarantined                 // another module is claimed for this bay
	Foreign                     // claimed by another domain: never joins this one silently
)

func (s Standing) String() string {
	return [...]string{"unclaimed", "member", "quarantined", "foreign"}[s%4]
}

// Identity is how a module is told apart from every other.
type Identity struct {
	Frame, Bay string // from the hardware
	Key        string // fingerprint of the key that was made on the module
	Domain     string // id of the domain that it was claimed by; empty: none yet
}

// Stand says what module me is in the domain with that id and those claimed
// members. The first that was claimed for a bay has it; a second one that
// finds itself in the same bay, by mistake or by a copied disk, is quarantined
// until the administrator removes the claim.
func Stand(me Identity, domain string, claimed []Identity) Standing {
	if me.Domain != "" && me.Domain != domain {
		return Foreign
	}
	for _, c := range claimed {
		switch {
		case c.Key == me.Key && c.Frame == me.Frame && c.Bay == me.Bay:
			return Member
		case c.Frame == me.Frame && c.Bay == me.Bay, c.Key == me.Key:
			return Quarantined // somebody has this bay, or somebody has this key elsewhere
		}
	}
	return Unclaimed
}
