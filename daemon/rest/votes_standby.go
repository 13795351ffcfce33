package rest

import (
	"context"
	"net/http"
	"strings"
	"time"

	"baystream/daemon/domain"
)

// Leadership is what this appliance is in the primary pair now.
type Leadership struct {
	Active bool
	// Bind puts a request under the present term, so that it changes nothing
	// once the term is over. nil: there are no terms.
	Bind func(context.Context) context.Context
	URL  string // https://ADDRESS of the active appliance; empty: none is known
}

// While nobody is active, a change waits a moment for who becomes it: that is
// shorter than what clients make of a refusal.
const (
	leadPatience = 3 * time.Second
	leadEvery    = 20 * time.Millisecond
)

// standby lets only the active appliance change anything. The other answers
// reads itself, out of the domain state with a majority behind it, so nothing
// that it says is old; it sends whoever wants a change to the active one.
func (s *Server) standby(next http.Handler) http.Handler {
	if s.Lead == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l := s.Lead()
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead || own(r.URL.Path)
		for end := time.Now().Add(s.patience); !reads && !l.Active && l.URL == "" && time.Now().Before(end) && r.Context().Err() == nil; l = s.Lead() {
			time.Sleep(leadEvery)
		}
		switch {
		case reads:
			next.ServeHTTP(w, r)
		case l.Active:
			if l.Bind != nil {
				r = r.WithContext(l.Bind(r.Context()))
			}
			next.ServeHTTP(w, r)
		case l.URL == "":
			w.Header().Set("Retry-After", "1")
			s.fail(w, r, domain.Errorf(domain.Unavailable, "appliance", "is the standby, and no appliance is active at the moment").
				Fix("Try again in a few seconds; bayctl votes says what is missing."))
		default:
			w.Header().Set("Location", strings.TrimSuffix(l.URL, "/")+r.URL.RequestURI())
			s.fail(w, r, statusError{domain.Errorf(domain.Unavailable, "appliance", "is the standby; the active one is at %s", l.URL).
				Fix("Send the request there."), http.StatusTemporaryRedirect})
		}
	})
}

// own says whether a path is about this module alone, or about who asks: log-ins
// are good at both appliances, and each has its own network.
func own(path string) bool {
	return path == "/rest/login-sessions" || path == "/rest/sessions/idle-timeout" || strings.HasPrefix(path, "/rest/baystream/net/")
}
