package rest

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"baystream/daemon/domain"
)

// statuses says how a kind of failure is answered. Ruby clients treat 400, 401
// and 404 apart and expect none of them for a change of something read-only.
var statuses = map[domain.Kind]int{
	domain.Internal:     http.StatusInternalServerError,
	domain.Invalid:      http.StatusBadRequest,
	domain.Unauthorized: http.StatusUnauthorized,
	domain.Forbidden:    http.StatusForbidden,
	domain.NotFound:     http.StatusNotFound,
	domain.Conflict:     http.StatusConflict,
	domain.Stale:        http.StatusPreconditionFailed,
	domain.TooLarge:     http.StatusRequestEntityTooLarge,
	domain.TooMany:      http.StatusTooManyRequests,
	domain.Unavailable:  http.StatusServiceUnavailable,
	domain.Full:         http.StatusInsufficientStorage,
	domain.Unsupported:  http.StatusNotImplemented,
}

// later is a refusal that ends by itself.
type later struct {
	error
	after time.Duration
}

func (l later) Unwrap() error { return l.error }

// statusError is an error of the protocol itself, such as a wrong method.
type statusError struct {
	error
	status int
}

func (e statusError) Unwrap() error { return e.error }

// fail answers err. It is the only place that makes an error answer.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statuses[domain.KindOf(err)]
	var wrong statusError
	if errors.As(err, &wrong) {
		status = wrong.status
	}
	var l later
	if errors.As(err, &l) {
		w.Header().Set("Retry-After", strconv.Itoa(int((l.after+time.Second-1)/time.Second)))
	}
	if status >= 500 && r.Context().Err() == nil {
		level := slog.LevelError
		if status == http.StatusServiceUnavailable { // such as no majority: the board says why
			level = slog.LevelWarn
		}
		s.Log.Log(r.Context(), level, "request failed", "method", r.Method, "path", r.URL.Path, "status", status, "err", err)
	}
	body := domain.Explain(err)
	if body.ErrorSource == "" {
		body.ErrorSource = r.URL.Path
	}
	if body.Details == "" {
		body.Details = details(body)
	}
	s.encode(w, status, body)
}

// details tells clients that print only message and details what to do.
func details(e domain.TaskError) string {
	if len(e.RecommendedActions) > 0 {
		return e.RecommendedActions[0]
	}
	return e.Message
}
