package rest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"baystream/daemon/domain"
)

// The versions of the interface. The oldest public clients speak 120 to
// OneView; 2800 is that of the last release and the newest the clients have
// types for, which matters because some speak what they read here. A header
// with a greater number is taken all the same.
const (
	minVersion     = 120
	currentVersion = 2800
	version500     = 500 // from here on the "V5" types
)

const answerTimeout = 5 * time.Minute // for answers that are not streams

// guard is what every request passes first.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p)
			default:
				s.Log.Error("panic in a request", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				s.fail(w, r, fmt.Errorf("internal error: %v", p))
			}
		}()
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
		cleanPath(r)
		next.ServeHTTP(w, r)
	})
}

// cleanPath makes trailing and doubled slashes meaningless.
func cleanPath(r *http.Request) {
	if r.URL.RawPath == "" {
		r.URL.Path = path.Clean("/" + r.URL.Path)
		return
	}
	r.URL.Path = strings.TrimSuffix(r.URL.Path, "/")
	r.URL.RawPath = strings.TrimSuffix(r.URL.RawPath, "/")
}

// access is who may use a route.
type access int

const (
	public    access = iota
	anyone           // with a session
	artifacts        // may change artifacts: infrastructure and software administrators
	profiles         // may change profiles and hardware: infrastructure and server administrators
	admin            // infrastructure administrators
)

func (a access) allows(role string) bool {
	switch role {
	case domain.RoleInfrastructure:
		return true
	case domain.RoleSoftware:
		return a <= anyone || a == artifacts
	case domain.RoleServer:
		return a <= anyone || a == profiles
	case domain.RoleReadOnly:
		return a <= anyone
	}
	return a == public
}

// handler is one route's work. What it returns as an error it has not answered.
type handler func(w http.ResponseWriter, r *http.Request) error

// caller is what a request knows of who sent it.
type caller struct {
	user    domain.User
	token   string
	version int
}

type callerKey struct{}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

func owner(r *http.Request) string { return callerOf(r).user.Name }

// gate checks version, token and role before h.
func (s *Server) gate(need access, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := func() error {
			version, err := apiVersion(r)
			if err != nil {
				return err
			}
			c := caller{version: version}
			if need != public {
				if c.user, c.token, err = s.identify(r); err != nil {
					return err
				}
				if !need.allows(c.user.Role) {
					return domain.Errorf(domain.Forbidden, "user "+c.user.Name, "has the role %q, which does not allow %s %s",
						c.user.Role, r.Method, r.URL.Path).Fix("Log in as a user with another role.")
				}
			}
			return h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
		}()
		if err != nil {
			s.fail(w, r, err)
		}
	})
}

func apiVersion(r *http.Request) (int, error) {
	h := strings.TrimSpace(r.Header.Get("X-Api-Version"))
	if h == "" {
		return currentVersion, nil
	}
	v, err := strconv.Atoi(h)
	if err != nil || v < minVersion {
		return 0, domain.Errorf(domain.Invalid, "header X-API-Version", "%q is not a version of this interface", h).
			Fix(fmt.Sprintf("Send a number from %d up, or leave the header out.", minVersion))
	}
	return v, nil
}

// notServed answers what no route matches, as JSON like everything else.
func (s *Server) notServed(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		var probe probe
		h.ServeHTTP(&probe, r)
		if allow := probe.Header().Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			s.fail(w, r, statusError{domain.Errorf(domain.Invalid, r.URL.Path, "does not take %s", r.Method).
				Fix("Use one of: " + allow + "."), http.StatusMethodNotAllowed})
			return
		}
		s.fail(w, r, domain.Errorf(domain.NotFound, r.URL.Path, "is not served").
			Fix("Check the path; docs/api.md lists what is served."))
	})
}

// probe takes an answer and keeps only its header.
type probe struct{ header http.Header }

func (p *probe) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(int)             {}

// source is the address that a request came from, without port.
func source(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
