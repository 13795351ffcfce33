package member

import (
	"fmt"
	"strings"

	"baystream/daemon/domain"
)

// Action is what becomes of a module that is to be claimed.
type Action string

// The actions.
const (
	Join       Action = "join"       // a module that the domain does not know
	Rejoin     Action = "rejoin"     // one that it knows, with the same key: the claim goes on
	Replace    Action = "replace"    // it takes the place of another, which is removed
	Quarantine Action = "quarantine" // it is written down and kept out
	Refuse     Action = "refuse"     // nothing is written
)

// Decision is what to do with a claim, and why.
type Decision struct {
	Action   Action
	Replaces string   // id of the module that goes
	Why      string   // for Quarantine and Refuse, a sentence
	Remedy   string   // what the administrator can do
	Warnings []string // of a claim that is allowed all the same
}

// maxAppliances is how many appliances the primary pair has.
const maxAppliances = 2

// Decide says what becomes of the claim of module c, as it announces itself,
// given the modules that the domain has. It does no I/O.
//
// The place in the frame is the module's name to the outside world, so two
// modules never hold one; the key is its identity, so a known serial number
// with another key is another module until somebody says that it replaces the
// first.
func Decide(have []domain.Module, c domain.Module, role, replaces string) Decision {
	if c.State == domain.ModuleForeign {
		return Decision{Action: Refuse, Why: fmt.Sprintf("module %s belongs to another domain", c.ID),
			Remedy: "Reset it to its factory state at its console, then claim it."}
	}
	if c.ID == "" {
		return Decision{Action: Refuse, Why: "the module has no serial number", Remedy: "Correct the module's hardware identity (SMBIOS)."}
	}
	if role != domain.RoleOfAppliance && role != domain.RoleOfWitness {
		return Decision{Action: Refuse, Why: fmt.Sprintf("%q is not a role", role), Remedy: "Claim it as appliance or as witness."}
	}
	if c.Role != "" && c.Role != role {
		return Decision{Action: Refuse, Why: fmt.Sprintf("module %s sits in a bay for the role %s", c.ID, c.Role),
			Remedy: fmt.Sprintf("Claim it as %s, or change the bay's role in the frame.", c.Role)}
	}
	if replaces != "" && !known(have, replaces) {
		return Decision{Action: Refuse, Why: fmt.Sprintf("module %s, which it should replace, is not known", replaces),
			Remedy: "List the modules with bayctl appliance list."}
	}
	d := Decision{Action: Join, Replaces: replaces}
	if replaces != "" {
		d.Action = Replace
	}
	for _, m := range have {
		switch {
		case m.ID != c.ID:
		case m.Fingerprint == c.Fingerprint && m.State == domain.ModuleQuarantined:
			return Decision{Action: Refuse, Why: fmt.Sprintf("module %s is in quarantine: %s", m.ID, m.Detail),
				Remedy: "Remove the cause, then bayctl appliance remove " + m.ID + ", and claim it again."}
		case m.Fingerprint == c.Fingerprint:
			return Decision{Action: Rejoin}
		case m.ID != replaces && m.State != domain.ModuleQuarantined:
			return Decision{Action: Refuse, Why: fmt.Sprintf("module %s is known with another key", m.ID),
				Remedy: fmt.Sprintf("If it was reset or replaced, claim it with --replaces %s.", m.ID)}
		}
	}
	appliances := 0
	for _, m := range have {
		if m.ID == replaces || m.State == domain.ModuleQuarantined {
			continue
		}
		if samePlace(m, c) {
			return Decision{Action: Quarantine, Why: fmt.Sprintf("frame %s, %s belongs to module %s", c.Frame, c.Bay, m.ID),
				Remedy: fmt.Sprintf("Take one of the two out; if %s is gone for good, claim this one with --replaces %s.", m.ID, m.ID)}
		}
		if m.Role == domain.RoleOfAppliance {
			appliances++
		}
		if m.Frame == c.Frame && m.Frame != "" {
			d.Warnings = append(d.Warnings, fmt.Sprintf("module %s is in the same frame: the loss of frame %s takes both", m.ID, c.Frame))
		}
	}
	if role == domain.RoleOfAppliance && appliances >= maxAppliances {
		return Decision{Action: Refuse, Why: "the primary pair is complete", Remedy: "Claim it as witness, or replace one of the pair with --replaces ID."}
	}
	return d
}

func known(have []domain.Module, id string) bool {
	for _, m := range have {
		if m.ID == id {
			return true
		}
	}
	return false
}

func samePlace(a, b domain.Module) bool {
	return a.Frame != "" && a.Frame == b.Frame && strings.EqualFold(a.Bay, b.Bay)
}

// Returning says whether a module that comes back may be anything but the
// target of a resync: known are the epochs of the storage groups when it last
// took part, now those in the domain state. A grant that changed hands since
// means writes that this module has not.
func Returning(known, now map[string]uint64) (resync bool) {
	for group, epoch := range now {
		if epoch > known[group] {
			return true
		}
	}
	return false
}
