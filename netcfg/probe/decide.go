package probe

import "fmt"

// Limits of the Decider, in rounds.
const (
	window    = 3    // a proof counts so long
	settle    = 2    // a better port must be better so long
	weakAfter = 10   // without proof: how long the active port must have heard nothing
	weakHeard = 3    // and in how many of these rounds the other one must have heard something
	dwell     = 10   // after a change, only a proven port is changed to
	holdBack  = 50   // how long a preferred port that failed must work before it is used again
	maxHold   = 3000 // the hold doubles with each failure up to this
	forgive   = 6000 // a port that worked so long has never failed
	never     = 1 << 30
)

// Seen is what one port showed since the round before.
type Seen struct {
	Carrier   bool
	Delivered bool // something that it sent came in at the other port
	Answered  bool // a neighbour answered what it sent
	Received  bool // it received anything
}

// A Verdict is what the Decider thinks of a port.
type Verdict string

// The verdicts.
const (
	Works   Verdict = "works"      // sends and receives, proven
	Hears   Verdict = "hears"      // receives; nobody confirms what it sends
	Silent  Verdict = "silent"     // has a carrier and neither hears nor is heard
	Mute    Verdict = "mute"       // is heard by the other port, and hears nothing itself
	NoLink  Verdict = "no carrier" // the driver sees that by itself
	Unknown Verdict = "unknown"    // not long enough observed
)

// A Decision is the outcome of one round.
type Decision struct {
	Active   int // the port to use, 0 or 1; -1: leave it to the driver
	Reason   string
	Ask      bool // ask the neighbours before the next round
	Verdicts [2]Verdict
}

// A Decider decides between the two ports of a bond. It does no I/O and knows
// no clock: Round is called once for each round of probes.
type Decider struct {
	preferred int // -1: none
	ports     [2]track
	rounds    int // since the start
	since     int // rounds since the last change that we made
	better    int // rounds in a row in which the other port was better
	doubt     doubt
}

// track is what is known of one port: rounds since something happened.
type track struct {
	carrier bool
	sent    int // since something that it sent is known to have arrived
	heard   int // since it received something
	worked  int // rounds in a row in which it worked
	hold    int // so long it must work before it is preferred again; 0: did not fail
}

// doubt counts the rounds since the active port is no longer proven, and in
// how many of them each port heard something.
type doubt struct {
	rounds int
	heard  [2]int
}

// NewDecider returns a Decider that prefers one port, or none if preferred is
// -1.
func NewDecider(preferred int) *Decider {
	d := &Decider{preferred: preferred, since: never}
	for i := range d.ports {
		d.ports[i] = track{sent: never, heard: never}
	}
	return d
}

// Round takes what the ports showed and which one the bond uses, -1 for none.
func (d *Decider) Round(active int, seen [2]Seen) Decision {
	d.rounds = min(d.rounds+1, never)
	d.since = min(d.since+1, never)
	for i := range d.ports {
		d.ports[i].update(seen[i])
	}
	out := Decision{Active: -1}
	for i, p := range d.ports {
		out.Verdicts[i] = p.verdict(d.rounds)
		out.Ask = out.Ask || out.Verdicts[i] != Works && out.Verdicts[i] != NoLink
	}
	if active < 0 {
		d.doubt, d.better = doubt{}, 0
		return out
	}
	if d.ports[active].works() {
		d.doubt = doubt{}
	} else {
		d.doubt.rounds++
		for i, s := range seen {
			if s.Received || s.Answered {
				d.doubt.heard[i]++
			}
		}
	}
	if d.choose(active, &out) {
		d.since, d.better, d.doubt = 0, 0, doubt{}
	}
	return out
}

// Doubt is for how many rounds the port in use has not been proven to work.
func (d *Decider) Doubt() int { return d.doubt.rounds }

// choose decides whether to change to the other port.
func (d *Decider) choose(active int, out *Decision) bool {
	other := 1 - active
	switch a, o := &d.ports[active], &d.ports[other]; {
	case !o.carrier:
		d.better = 0
	case !a.carrier:
		// The driver changes by itself, as soon as its miimon looks.
		d.better++
		if d.better >= settle {
			out.Active, out.Reason = other, "the port in use has no carrier"
		}
	case a.works():
		d.better = 0
		if other == d.preferred && o.worked >= max(o.hold, settle) && d.since >= dwell {
			out.Active, out.Reason = other, "the preferred port works"
			if o.hold > 0 {
				out.Reason = fmt.Sprintf("the preferred port works again, for %d rounds now", o.worked)
			}
		}
	case o.works() && d.doubt.rounds >= window:
		d.better++
		if d.better >= settle {
			out.Active, out.Reason = other, "the port in use is "+string(a.verdict(d.rounds))+", the other one works"
		}
	case d.since >= dwell && a.sent >= window && d.doubt.rounds >= weakAfter && d.doubt.heard[active] == 0 && d.doubt.heard[other] >= weakHeard:
		out.Active, out.Reason = other, "the port in use hears nothing, the other one does"
	default:
		d.better = 0
	}
	if out.Active < 0 {
		return false
	}
	if other != d.preferred && active == d.preferred {
		d.ports[active].failed()
	}
	return true
}

func (t *track) update(s Seen) {
	t.sent, t.heard = min(t.sent+1, never), min(t.heard+1, never)
	if !s.Carrier {
		t.sent, t.heard = never, never
	}
	t.carrier = s.Carrier
	if s.Carrier && (s.Delivered || s.Answered) {
		t.sent = 0
	}
	if s.Carrier && (s.Received || s.Answered) {
		t.heard = 0
	}
	if !t.works() {
		t.worked = 0
		return
	}
	t.worked = min(t.worked+1, never)
	if t.worked >= forgive {
		t.hold = 0
	}
}

func (t *track) failed() { t.hold = min(max(2*t.hold, holdBack), maxHold) }

func (t *track) works() bool { return t.carrier && t.sent < window && t.heard < window }

func (t *track) verdict(rounds int) Verdict {
	switch {
	case !t.carrier:
		return NoLink
	case t.works():
		return Works
	case rounds < window:
		return Unknown
	case t.heard < window:
		return Hears
	case t.sent < window:
		return Mute
	}
	return Silent
}
