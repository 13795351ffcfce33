// Package domain holds the nouns of a Baystream domain and the rules they
// obey, without I/O.
//
// The nouns are the resources of the REST interface (plan scripts, build
// plans, deployment plans, golden images, artifact bundles, OS volumes,
// server hardware, server profiles, tasks, users); their JSON form is both
// the wire form and the stored form, so there is one shape to know. What must
// never leave the appliance carries its own type (Secret) or lives in a
// resource that is not served (User, Credentials).
//
// The rules say what a valid resource is (Validate), which attribute values
// a deployment uses (MergeAttributes), who uses what (Users), and which names
// identity gives to a volume on the wire (TargetIQN, Serial).
//
// Domain imports nothing of ours and everything may import it. All functions
// are pure; values are safe to copy.
package domain

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Resource is the envelope that every resource carries (spec section 2.2).
type Resource struct {
	Type        string `json:"type,omitempty"`
	URI         string `json:"uri"`
	Category    string `json:"category"`
	ETag        string `json:"eTag,omitempty"` // "<milliseconds>/<n>"; written by the store
	Created     string `json:"created,omitempty"`
	Modified    string `json:"modified,omitempty"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Status      string `json:"status,omitempty"` // OK, Warning, Critical, Unknown
	State       string `json:"state,omitempty"`
}

// Base gives generic code (the store, the collections) the envelope.
func (r *Resource) Base() *Resource { return r }

// Entity is a resource with its own id field.
type Entity interface {
	Base() *Resource
	EntityID() string
	// SetID gives a new entity its id; it also sets uri, category and, where
	// it is empty, type.
	SetID(id string)
}

// Status values of the envelope.
const (
	StatusOK       = "OK"
	StatusWarning  = "Warning"
	StatusCritical = "Critical"
)

// TimeFormat is the form of created and modified (spec section 2.2).
const TimeFormat = "2006-01-02T15:04:05.000Z"

// Stamp renders t as the interface wants it.
func Stamp(t time.Time) string { return t.UTC().Format(TimeFormat) }

// NewID makes the id of a new resource.
func NewID() string { return uuid.NewString() }

// IDFromURI returns the last element of a uri of the given collection
// ("/rest/plan-scripts"). A bare id passes too, since callers use both.
func IDFromURI(collection, uri string) (string, error) {
	id := strings.TrimSuffix(strings.TrimPrefix(uri, collection+"/"), "/")
	if id == "" || strings.Contains(id, "/") {
		return "", &Error{Kind: Invalid, Object: uri, Message: "is not a uri below " + collection}
	}
	return id, nil
}

// Kind says what sort of failure an Error is; REST turns it into a status.
type Kind int

// The kinds of failure.
const (
	Internal     Kind = iota // a fault of ours: 500
	Invalid                  // the request cannot be right: 400
	Unauthorized             // no or wrong credentials: 401
	Forbidden                // credentials without the right: 403
	NotFound                 // no such object: 404
	Conflict                 // the object's state forbids it: 409
	Stale                    // the eTag is not the current one: 412
	TooLarge                 // more than the limit or the room: 413
	TooMany                  // rate limited: 429
	Unavailable              // not now: 503
	Full                     // the pool or the local partition has no room: 507
	Unsupported              // not in this version: 501
)

// Error is a failure that a person can act on: what object, what is wrong,
// what to do.
type Error struct {
	Kind    Kind
	Code    string // errorCode on the wire; empty takes the kind's
	Object  string
	Message string
	Remedy  []string
	Err     error
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Object != "" {
		b.WriteString(e.Object + ": ")
	}
	b.WriteString(e.Message)
	if e.Err != nil {
		if e.Message != "" {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// ErrDeposed is within the error of a write that was not done because the
// appliance that wanted it is no longer the active one.
var ErrDeposed = errors.New("is no longer the active appliance")

// Errorf makes an Error of kind about object; remedies can be added by Fix.
func Errorf(kind Kind, object, format string, args ...any) *Error {
	return &Error{Kind: kind, Object: object, Message: fmt.Sprintf(format, args...)}
}

// Fix adds what the caller can do about e.
func (e *Error) Fix(remedy ...string) *Error {
	e.Remedy = append(e.Remedy, remedy...)
	return e
}

// KindOf returns the kind of the first Error in err's chain, Internal if none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
