package domain

import "errors"

// codes are the errorCodes of the kinds on the wire. What the original sends
// is not known, so they are ours.
var codes = map[Kind]string{
	Internal:     "BAYSTREAM_INTERNAL_ERROR",
	Invalid:      "BAYSTREAM_INVALID_REQUEST",
	Unauthorized: "BAYSTREAM_AUTHENTICATION_REQUIRED",
	Forbidden:    "BAYSTREAM_NOT_ALLOWED",
	NotFound:     "BAYSTREAM_RESOURCE_NOT_FOUND",
	Conflict:     "BAYSTREAM_RESOURCE_CONFLICT",
	Stale:        "BAYSTREAM_RESOURCE_CHANGED",
	TooLarge:     "BAYSTREAM_TOO_LARGE",
	TooMany:      "BAYSTREAM_TOO_MANY_REQUESTS",
	Unavailable:  "BAYSTREAM_UNAVAILABLE",
	Full:         "BAYSTREAM_NO_ROOM",
	Unsupported:  "BAYSTREAM_NOT_SUPPORTED",
}

// Explain renders err in the form of the interface (spec section 2.2), for an
// answer or for a task. Errors joined by errors.Join become nested errors.
func Explain(err error) TaskError {
	te := TaskError{
		ErrorCode: codes[KindOf(err)], Message: err.Error(), Details: "",
		RecommendedActions: []string{}, NestedErrors: []TaskError{}, Data: map[string]any{},
	}
	var e *Error
	if errors.As(err, &e) {
		te.ErrorSource = e.Object
		te.RecommendedActions = append(te.RecommendedActions, e.Remedy...)
		if e.Code != "" {
			te.ErrorCode = e.Code
		}
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			te.NestedErrors = append(te.NestedErrors, Explain(one))
		}
	}
	return te
}
