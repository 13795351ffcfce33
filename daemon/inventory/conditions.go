package inventory

import (
	"time"

	"baystream/hw/ipmi"
)

// How often one condition may be written to the controller's log, which has room
// for some hundred records in the life of a module: at once, then after holdFirst,
// and after twice as long each further time, up to holdMost. Quiet for four times
// as long makes it new again.
const (
	holdFirst = time.Minute
	holdMost  = 6 * time.Hour
)

// conditions keeps what the log says of things that come and go, so that it is
// told once that something is wrong and once that it is over; a cable that comes
// and goes each second does not fill the log. Pure: times are given.
type conditions struct {
	by      map[ipmi.Event]*condition // by the event that begins it
	learned bool                      // the log was read: what it does not tell is not so
}

type condition struct {
	now, logged bool
	hold        time.Duration
	until       time.Time // not written before then
}

// learn takes what the log said last, oldest record first.
func (c *conditions) learn(log []ipmi.Record) {
	said := map[ipmi.Event]bool{}
	for _, r := range log {
		if r.Event == nil || !lasting(*r.Event) {
			continue
		}
		if begin, ends := r.Event.Ends(); ends {
			said[begin] = false
		} else {
			said[*r.Event] = true
		}
	}
	for begin, is := range said {
		if v := c.of(begin); !c.learned {
			v.now, v.logged = is, is
		}
	}
	c.learned = true
}

// lasting tells conditions from what happens once. I/O errors never end, but are
// told again when there are more.
func lasting(e ipmi.Event) bool {
	_, ends := e.Ends()
	return ends || e.Kind == ipmi.DiskFailed || e.Kind == ipmi.Maintenance || e.Kind == ipmi.LinkLost
}

func (c *conditions) of(begin ipmi.Event) *condition {
	if c.by == nil {
		c.by = map[ipmi.Event]*condition{}
	}
	if c.by[begin] == nil {
		c.by[begin] = &condition{}
	}
	return c.by[begin]
}

// note says whether e is to be written now. What has to wait is given by due.
func (c *conditions) note(e ipmi.Event, at time.Time) bool {
	if e.Kind == ipmi.DiskErrors {
		return c.of(e).pass(at)
	}
	if !lasting(e) {
		return true
	}
	begin, ends := e.Ends()
	if !ends {
		begin = e
	}
	_, known := c.by[begin]
	v := c.of(begin)
	v.now = !ends
	if ends && !known && e.Kind == ipmi.DiskReplaced { // a disk more
		return true
	}
	if v.now == v.logged || !v.pass(at) {
		return false
	}
	v.logged = v.now
	return true
}

// pass says whether the condition may be written, and holds the next one up.
func (v *condition) pass(at time.Time) bool {
	if at.Before(v.until) {
		return false
	}
	if quiet := at.Sub(v.until); v.until.IsZero() || quiet > 4*v.hold {
		v.hold = holdFirst
	} else {
		v.hold = min(2*v.hold, holdMost)
	}
	v.until = at.Add(v.hold)
	return true
}

// due returns the events that had to wait and are still so.
func (c *conditions) due(at time.Time) []ipmi.Event {
	var out []ipmi.Event
	for begin, v := range c.by {
		if !lasting(begin) || v.now == v.logged || !v.pass(at) {
			continue
		}
		v.logged = v.now
		e := begin
		if !v.now {
			e = ending(begin)
		}
		out = append(out, e)
	}
	return out
}

func ending(begin ipmi.Event) ipmi.Event {
	for _, k := range []ipmi.EventKind{ipmi.DiskReplaced, ipmi.MaintenanceEnded, ipmi.LinkBack} {
		e := begin
		e.Kind = k
		if b, _ := e.Ends(); b == begin {
			return e
		}
	}
	return begin
}

// forget takes back that e was written.
func (c *conditions) forget(e ipmi.Event) {
	begin, ends := e.Ends()
	if !ends {
		begin = e
	}
	if v := c.by[begin]; v != nil {
		v.logged, v.until = !v.now, time.Time{}
	}
}
