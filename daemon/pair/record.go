package pair

import (
	"errors"
	"fmt"
)

// Side is one of the two appliances of a pair.
type Side uint8

// The sides; None is nobody.
const (
	None Side = iota
	A
	B
)

// Other is the partner's side.
func (s Side) Other() Side {
	switch s {
	case A:
		return B
	case B:
		return A
	}
	return None
}

func (s Side) String() string { return [...]string{"none", "A", "B"}[s%3] }

// Record is one storage group's line in the domain state. Its changes are the
// methods below and nothing else; each is written by compare-and-swap on
// Revision.
type Record struct {
	Epoch    uint64 `json:"epoch"`         // grows with each Win and Yield, never goes back
	Survivor Side   `json:"survivor"`      // who alone has all writes; None: both legs do
	Owner    Side   `json:"owner"`         // who serves, or should
	Home     Side   `json:"home"`          // where it is served when all is well
	Pin      Side   `json:"pin,omitempty"` // where the administrator wants it instead; None: at home
	Clean    bool   `json:"clean"`         // nobody served since the last orderly end: everything is flushed
	Revision int64  `json:"-"`             // of the stored record
}

// Preferred is where the group should be served when nothing is in the way.
func (r Record) Preferred() Side {
	if r.Pin != None {
		return r.Pin
	}
	return r.Home
}

// Refusals of the transitions below.
var (
	ErrLost      = errors.New("the partner holds the grant")
	ErrNotHolder = errors.New("only the holder of the grant may clear it")
)

// Win returns the record after x went on alone: it has all writes from here on,
// the partner has not. It is refused with ErrLost when the partner was first.
func (r Record) Win(x Side) (Record, error) {
	if r.Survivor == x.Other() {
		return r, fmt.Errorf("epoch %d: %w", r.Epoch, ErrLost)
	}
	r.Epoch++
	r.Survivor, r.Owner, r.Clean = x, x, false
	return r, nil
}

// Clear returns the record after x, the survivor, has seen that both legs are
// the same again.
func (r Record) Clear(x Side) (Record, error) {
	if r.Survivor != x {
		return r, fmt.Errorf("epoch %d: %w", r.Epoch, ErrNotHolder)
	}
	r.Survivor = None
	return r, nil
}

// Yield returns the record after x declared its own leg not fit to serve: the
// partner has all writes. The owner stays, it may be serving through the
// partner's leg.
func (r Record) Yield(x Side) Record {
	if r.Survivor != x.Other() {
		r.Epoch++
		r.Survivor = x.Other()
	}
	return r
}

// HandOver returns the record after the group was given to side to while both
// are connected. The grant stays as it is.
func (r Record) HandOver(to Side) Record {
	r.Owner, r.Clean = to, false
	return r
}

// Finish returns the record after an orderly end: x served last, has demoted
// and flushed. The next boot need not reset servers.
func (r Record) Finish() Record {
	r.Clean = true
	return r
}
