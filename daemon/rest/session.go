package rest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
)

const (
	sessionIdle = time.Hour      // until a session that nobody uses ends; a session can change its own
	maxIdle     = 24 * time.Hour // the most a session can ask for
	maxSessions = 500            // the oldest go first
	touchEvery  = time.Minute    // how exactly the last use is known
)

// sessions keeps the log-ins in the domain's state, so that they survive the
// daemon. Only hashes of tokens are kept.
type sessions struct {
	store *cluster.Store
	now   func() time.Time
}

func newSessions(store *cluster.Store, now func() time.Time) *sessions {
	return &sessions{store: store, now: now}
}

// tokenKey is what a token is stored under. Tokens are 256 random bits, so a
// plain hash keeps them secret, and finding one is a look-up, not a comparison
// whose time could tell something.
func tokenKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func newToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // does not fail (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// open makes a session of user and returns its token.
func (s *sessions) open(ctx context.Context, user string) (string, error) {
	if err := s.sweep(ctx); err != nil {
		return "", err
	}
	token, now := newToken(), domain.Stamp(s.now())
	return token, s.store.Sessions.Put(ctx, tokenKey(token), domain.Session{
		User: user, Created: now, LastUsed: now, IdleSeconds: int(sessionIdle / time.Second),
	})
}

func (s *sessions) expired(v domain.Session) bool {
	used, err := time.Parse(domain.TimeFormat, v.LastUsed)
	return err != nil || s.now().Sub(used) > time.Duration(v.IdleSeconds)*time.Second
}

// sweep deletes expired sessions, and the longest unused beyond the limit.
func (s *sessions) sweep(ctx context.Context) error {
	all, err := s.store.Sessions.List(ctx)
	if err != nil {
		return err
	}
	oldest := ""
	for key, v := range all {
		if s.expired(v) {
			if err := s.store.Sessions.Delete(ctx, key); err != nil {
				return err
			}
			delete(all, key)
		} else if oldest == "" || v.LastUsed < all[oldest].LastUsed {
			oldest = key
		}
	}
	if len(all) >= maxSessions {
		return s.store.Sessions.Delete(ctx, oldest)
	}
	return nil
}

// use returns the session of token, and false if there is none or it expired.
func (s *sessions) use(ctx context.Context, token string) (domain.Session, bool, error) {
	key := tokenKey(token)
	v, ok, err := s.store.Sessions.Get(ctx, key)
	if err != nil || !ok || s.expired(v) {
		return v, false, err
	}
	if used, _ := time.Parse(domain.TimeFormat, v.LastUsed); s.now().Sub(used) < touchEvery {
		return v, true, nil
	}
	ok, err = s.change(ctx, key, func(v *domain.Session) { v.LastUsed = domain.Stamp(s.now()) })
	return v, ok, err
}

// change does not bring back a session that a log-out deleted meanwhile.
func (s *sessions) change(ctx context.Context, key string, change func(*domain.Session)) (bool, error) {
	found := false
	err := cluster.Atomically(ctx, s.store.Client, func(tx *cluster.Txn) error {
		v, ok, err := s.store.Sessions.GetIn(tx, key)
		if found = ok; err != nil || !ok {
			return err
		}
		change(&v)
		return s.store.Sessions.PutIn(tx, key, v)
	})
	return found, err
}

func (s *sessions) close(ctx context.Context, token string) error {
	return s.store.Sessions.Delete(ctx, tokenKey(token))
}

// closeAll ends the sessions of user.
func (s *sessions) closeAll(ctx context.Context, user string) error {
	all, err := s.store.Sessions.List(ctx)
	if err != nil {
		return err
	}
	for key, v := range all {
		if v.User == user {
			if err := s.store.Sessions.Delete(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// identify finds the user whose token r carries.
func (s *Server) identify(r *http.Request) (domain.User, string, error) {
	token := r.Header.Get("Auth")
	if token == "" {
		token = r.Header.Get("Session-Id")
	}
	if token == "" || strings.EqualFold(token, "none") {
		return domain.User{}, "", domain.Errorf(domain.Unauthorized, r.URL.Path, "needs a session").
			Fix("Log in at /rest/login-sessions and send the sessionID in the header auth.")
	}
	gone := domain.Errorf(domain.Unauthorized, "session", "is unknown or has expired").
		Fix("Log in again at /rest/login-sessions.")
	v, ok, err := s.sessions.use(r.Context(), token)
	if err != nil {
		return domain.User{}, "", err
	}
	if !ok {
		return domain.User{}, "", gone
	}
	user, ok, err := s.Store.Users.Get(r.Context(), userKey(v.User))
	if err == nil && !ok {
		err = gone
	}
	return user, token, err
}

type credentials struct {
	UserName        string `json:"userName"`
	Password        string `json:"password"`
	AuthLoginDomain string `json:"authLoginDomain"` // accepted and not used: all users are local
}

type sessionAnswer struct {
	SessionID   string `json:"sessionID"`
	PartnerData any    `json:"partnerData"`
	UserName    string `json:"userName,omitempty"`
	Role        string `json:"role,omitempty"`
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var c credentials
	if err := decode(w, r, &c); err != nil {
		return err
	}
	user, err := s.authenticate(r, c)
	if err != nil {
		return err
	}
	token, err := s.sessions.open(r.Context(), user.Name)
	if err != nil {
		return err
	}
	return s.ok(w, sessionAnswer{SessionID: token, UserName: user.Name, Role: user.Role})
}

func (s *Server) reuseSession(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r)
	return s.ok(w, sessionAnswer{SessionID: c.token, UserName: c.user.Name, Role: c.user.Role})
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r)
	if err := s.sessions.close(r.Context(), c.token); err != nil {
		return err
	}
	s.Log.Info("audit: logged out", "user", c.user.Name, "source", source(r))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// idle is how long a session may rest, in milliseconds.
type idle struct {
	IdleTimeout int64 `json:"idleTimeout"`
}

func (s *Server) idleTimeout(w http.ResponseWriter, r *http.Request) error {
	v, ok, err := s.Store.Sessions.Get(r.Context(), tokenKey(callerOf(r).token))
	if err != nil {
		return err
	}
	if !ok {
		return domain.Errorf(domain.Unauthorized, "session", "has ended").Fix("Log in again at /rest/login-sessions.")
	}
	return s.ok(w, idle{int64(v.IdleSeconds) * 1000})
}

func (s *Server) setIdleTimeout(w http.ResponseWriter, r *http.Request) error {
	var want idle
	if err := decode(w, r, &want); err != nil {
		return err
	}
	d := time.Duration(want.IdleTimeout) * time.Millisecond
	if want.IdleTimeout <= 0 || want.IdleTimeout > maxIdle.Milliseconds() || d < time.Second {
		return domain.Errorf(domain.Invalid, "idleTimeout", "%d is not between 1000 and %d milliseconds",
			want.IdleTimeout, maxIdle.Milliseconds()).Fix("Send a value between them.")
	}
	if _, err := s.sessions.change(r.Context(), tokenKey(callerOf(r).token), func(v *domain.Session) {
		v.IdleSeconds = int(d / time.Second)
	}); err != nil {
		return err
	}
	return s.ok(w, want)
}
