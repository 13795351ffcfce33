package artifact

import (
	"errors"
	"strings"
)

// What is wrong, as a caller branches on it: an *Error wraps exactly one.
var (
	ErrCorrupt     = errors.New("corrupt")           // cannot be read as what it claims to be
	ErrUnsafe      = errors.New("unsafe")            // would leave its place, or is a bomb
	ErrChecksum    = errors.New("wrong checksum")    // read well, but not what was sent
	ErrMissing     = errors.New("missing part")      // a part that others refer to is absent
	ErrDuplicate   = errors.New("duplicate")         // the same name twice
	ErrTooLarge    = errors.New("too large")         // beyond a limit
	ErrUnsupported = errors.New("unsupported")       // well-formed, but not for us
	ErrNoSpace     = errors.New("no space")          // the store's disk has no room
	ErrNotFound    = errors.New("no such object")    // not in the store
	ErrBadName     = errors.New("not a SHA-256 sum") // not the name of any object
)

// Error says what is wrong with a bundle, an image or an object, and what to
// do about it.
type Error struct {
	Kind   error  // one of the Err values
	Object string // "bundle X", "image", "object 1f2e..."
	Entry  string // the part of it, if one is to blame
	Reason string
	Remedy string
	Err    error // the cause, if any
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Object)
	if e.Entry != "" {
		b.WriteString(": " + e.Entry)
	}
	b.WriteString(": " + e.Reason)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Remedy != "" {
		b.WriteString(" (" + e.Remedy + ")")
	}
	return b.String()
}

// Unwrap gives the kind and the cause to errors.Is.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
