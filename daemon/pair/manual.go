package pair

import (
	"errors"
	"fmt"
	"time"
)

// manualSilence is how long a partner must have been silent before the
// administrator may go on without it.
const manualSilence = 10 * time.Second

// Statement is what the administrator says who makes an appliance go on alone
// where no majority can decide (a pair without a witness, or with two of three
// votes lost).
type Statement struct {
	PartnerOff bool           // "I have made sure that the other appliance is off and stays off"
	Epochs     map[int]uint64 // of each group, as `bayctl status` showed them
}

// MayForce says whether this appliance may go on without votes: the daemon then
// recovers the domain state from its own copy into a new cluster, in which the
// other appliance has no vote until it joins anew, and sets Consent for the
// groups; from there the planner goes on by its usual rules. The error joins
// everything that speaks against it.
//
// Only the administrator can know that the partner does not write any more; that
// is why the partner must be silent and be said to be off, and why the epochs
// must be the ones that were looked at.
func MayForce(v *View, s Statement) error {
	var no []error
	if v.Votes.Quorum {
		no = append(no, errors.New("a majority answers: the grant decides, nothing has to be forced"))
	}
	if h := v.Partner.Heard; h >= 0 && v.Now-h < manualSilence {
		no = append(no, fmt.Errorf("the partner was heard %v ago: turn it off, or mend the network", v.Now-h))
	}
	if !v.Partner.Off && !s.PartnerOff {
		no = append(no, errors.New("nobody says that the partner is off: make sure of it and say so"))
	}
	for i := range v.Groups {
		g := &v.Groups[i]
		f := digest(g)
		if g.Record.Survivor == v.Self.Other() {
			no = append(no, fmt.Errorf("group %d: the partner holds the grant of epoch %d, this copy is older", g.Number, g.Record.Epoch))
		}
		if f.linked {
			no = append(no, fmt.Errorf("group %d: the mirror is connected: the partner lives", g.Number))
		}
		if !f.usable {
			no = append(no, fmt.Errorf("group %d: a leg is missing or inconsistent", g.Number))
		}
		if e, ok := s.Epochs[g.Number]; !ok || e != g.Record.Epoch {
			no = append(no, fmt.Errorf("group %d: the epoch is %d, the statement says %d: look again", g.Number, g.Record.Epoch, e))
		}
	}
	return errors.Join(no...)
}

// Obstacle says in a few words why this side could not take over or go on with
// g if the partner died now; empty when it could. For status.
func Obstacle(v *View, m *Memory, g *Group) string {
	f, gm := digest(g), m.Groups[g.Number]
	switch {
	case v.Standing != Member:
		return "this module is " + v.Standing.String()
	case v.Votes.Voters < 3:
		return "no third vote: only the administrator can decide (bayctl pair force)"
	case !v.Votes.Quorum:
		return "the domain state has no majority that answers"
	case g.Record.Survivor == v.Self.Other():
		return "this copy is behind; a resync is needed first"
	case f.bad || !g.Healthy:
		return "the disk here has failed"
	case !f.usable:
		return "a leg here is not complete"
	case !f.primary && (gm == nil || !gm.Intact):
		return "this copy was not in sync since it booted"
	}
	return ""
}
