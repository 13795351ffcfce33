package rest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"baystream/daemon/domain"
)

// Metrics tell serial numbers, load and faults, so they are for users like all
// else. A collector cannot log in, so beside a session's token (as Bearer or in
// the header auth) Basic authentication is taken; a user of its own with the role
// "Read only" is the way to set it up.

// scrapers remembers passwords that were right, as a keyed hash and for a while,
// so that a scrape every few seconds does not cost a memory-hard hash each time.
// What is remembered is void when the user's password changes or the user goes.
type scrapers struct {
	key [32]byte
	now func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]scraper
}

type scraper struct {
	user  string // key in the store
	hash  string // of the password, as it was stored then
	until time.Time
}

const (
	scraperTime = 10 * time.Minute
	maxScrapers = 64
)

func newScrapers(now func() time.Time) *scrapers {
	s := &scrapers{now: now, known: map[[sha256.Size]byte]scraper{}}
	_, _ = rand.Read(s.key[:]) // does not fail (crypto/rand)
	return s
}

func (s *scrapers) mark(user, password string) [sha256.Size]byte {
	m := hmac.New(sha256.New, s.key[:])
	m.Write([]byte(user))
	m.Write([]byte{0})
	m.Write([]byte(password))
	return [sha256.Size]byte(m.Sum(nil))
}

func (s *scrapers) find(mark [sha256.Size]byte) (scraper, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.known[mark]
	return v, ok && s.now().Before(v.until)
}

func (s *scrapers) remember(mark [sha256.Size]byte, v scraper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxScrapers {
		clear(s.known) // they prove themselves again
	}
	v.until = s.now().Add(scraperTime)
	s.known[mark] = v
}

// metrics serves what a Prometheus scrapes.
func (s *Server) metrics() http.Handler {
	if s.Metrics == nil {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errNoFrame(r)) })
	}
	serve := promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 30 * time.Second, DisableCompression: true,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.mayScrape(r); err != nil {
			if domain.KindOf(err) == domain.Unauthorized {
				w.Header().Set("WWW-Authenticate", `Basic realm="baystream"`)
			}
			s.fail(w, r, err)
			return
		}
		serve.ServeHTTP(w, r)
	})
}

// mayScrape lets every user pass: all roles may read.
func (s *Server) mayScrape(r *http.Request) error {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		r = r.Clone(r.Context())
		r.Header.Set("Auth", token)
	}
	name, password, basic := r.BasicAuth()
	if !basic {
		_, _, err := s.identify(r)
		return err
	}
	mark := s.scrapers.mark(userKey(name), password)
	if known, ok := s.scrapers.find(mark); ok {
		user, there, err := s.Store.Users.Get(r.Context(), known.user)
		if err != nil {
			return err
		}
		if there && user.PasswordHash == known.hash {
			return nil
		}
	}
	user, err := s.authenticate(r, credentials{UserName: name, Password: password})
	if err != nil {
		return err
	}
	s.scrapers.remember(mark, scraper{user: userKey(name), hash: user.PasswordHash})
	return nil
}
