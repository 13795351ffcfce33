package rest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/internal/password"
)

// hasher makes and checks the hashes of passwords, one at a time, so that
// log-ins cannot use up an appliance's memory.
type hasher struct {
	cost password.Cost

	mu     sync.Mutex
	nobody string // hash of a password that nobody knows
}

func newHasher() *hasher { return &hasher{cost: password.Default} }

func (h *hasher) hash(word string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return password.Hash(word, h.cost)
}

func (h *hasher) check(hash, word string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return password.Check(hash, word)
}

// dummy is checked for a user who does not exist, so that the answer takes as
// long as for one who does.
func (h *hasher) dummy() string {
	h.mu.Lock()
	made := h.nobody
	h.mu.Unlock()
	if made == "" {
		made = h.hash(newToken())
		h.mu.Lock()
		h.nobody = made
		h.mu.Unlock()
	}
	return made
}

func userKey(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

// authenticate checks user name and password against guessing and the store.
func (s *Server) authenticate(r *http.Request, c credentials) (domain.User, error) {
	from := source(r)
	var user domain.User
	good, err := s.logins.attempt(userKey(c.UserName)+"|"+from, from, func() (bool, error) {
		var known bool
		var err error
		if user, known, err = s.Store.Users.Get(r.Context(), userKey(c.UserName)); err != nil {
			return false, err
		}
		hash := user.PasswordHash
		if !known {
			hash = s.hasher.dummy()
		}
		return s.hasher.check(hash, c.Password) && known, nil
	})
	if domain.KindOf(err) == domain.TooMany {
		s.Log.Warn("audit: log-in refused, too many failures", "user", printable(c.UserName), "source", from)
	}
	if err != nil {
		return domain.User{}, err
	}
	if !good {
		s.Log.Warn("audit: log-in failed", "user", printable(c.UserName), "source", from)
		return domain.User{}, domain.Errorf(domain.Unauthorized, "log-in", "user name or password is wrong").
			Fix("Check both; passwords distinguish letter case. An administrator can set a new password.")
	}
	s.Log.Info("audit: logged in", "user", user.Name, "role", user.Role, "source", from)
	return user, nil
}

// printable shortens what a stranger sent for the log.
func printable(name string) string {
	name = strings.ToValidUTF8(name, "?")
	if utf8.RuneCountInString(name) > 40 {
		name = string([]rune(name)[:40]) + "..."
	}
	return name
}

// Rules for new users.
var (
	userName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)
	roles    = []string{domain.RoleInfrastructure, domain.RoleSoftware, domain.RoleServer, domain.RoleReadOnly}
)

const (
	minPassword = 10 // characters
	maxPassword = 256
)

func checkNewUser(name, password string) error {
	if !userName.MatchString(name) {
		return domain.Errorf(domain.Invalid, "userName", "%q is not a user name", printable(name)).
			Fix("Use 1 to 64 letters, digits and . _ @ -, the first a letter or digit.")
	}
	if n := utf8.RuneCountInString(password); n < minPassword || n > maxPassword || !utf8.ValidString(password) {
		return domain.Errorf(domain.Invalid, "password", "of user %s has %d characters", name, n).
			Fix(fmt.Sprintf("Use %d to %d characters.", minPassword, maxPassword))
	}
	if strings.EqualFold(name, password) {
		return domain.Errorf(domain.Invalid, "password", "is the user name").Fix("Choose another password.")
	}
	return nil
}

type userView struct {
	UserName string `json:"userName"`
	Role     string `json:"role"`
	Created  string `json:"created"`
	URI      string `json:"uri"`
	Category string `json:"category"`
}

func viewUser(u domain.User) userView {
	return userView{UserName: u.Name, Role: u.Role, Created: u.Created, URI: "/rest/baystream/users/" + userKey(u.Name), Category: "users"}
}

func (s *Server) listUsers(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.Users.List(r.Context())
	if err != nil {
		return err
	}
	views := make([]userView, 0, len(all))
	for _, u := range all {
		views = append(views, viewUser(u))
	}
	slices.SortFunc(views, func(a, b userView) int { return strings.Compare(a.URI, b.URI) })
	return serveList(s, w, r, "users", "/rest/baystream/users", views)
}

func (s *Server) createUser(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		UserName, Password, Role string
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if err := checkNewUser(req.UserName, req.Password); err != nil {
		return err
	}
	if !slices.Contains(roles, req.Role) {
		return domain.Errorf(domain.Invalid, "role", "%q is not a role", req.Role).Fix("Use one of: " + strings.Join(roles, ", ") + ".")
	}
	u := domain.User{Name: req.UserName, PasswordHash: s.hasher.hash(req.Password), Role: req.Role, Created: domain.Stamp(s.Now())}
	made, err := s.Store.Users.Create(r.Context(), userKey(u.Name), u)
	if err != nil {
		return err
	}
	if !made {
		return domain.Errorf(domain.Conflict, "user "+u.Name, "exists already").Fix("Choose another name, or change the password of the user.")
	}
	s.UsersChanged()
	s.Log.Info("audit: user created", "user", u.Name, "role", u.Role, "by", owner(r), "source", source(r))
	s.encode(w, http.StatusCreated, viewUser(u))
	return nil
}

// setPassword gives a user a new password and ends all his sessions, the one
// that asks for it too. A user
// may do it for himself, an infrastructure administrator for everybody.
func (s *Server) setPassword(w http.ResponseWriter, r *http.Request) error {
	var req struct{ Password string }
	name, c := r.PathValue("name"), callerOf(r)
	if userKey(name) != userKey(c.user.Name) && c.user.Role != domain.RoleInfrastructure {
		return domain.Errorf(domain.Forbidden, "user "+c.user.Name, "may change no other user's password").
			Fix("Ask an infrastructure administrator.")
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if err := checkNewUser(name, req.Password); err != nil {
		return err
	}
	hash := s.hasher.hash(req.Password)
	var after domain.User
	err := cluster.Atomically(r.Context(), s.Store.Client, func(tx *cluster.Txn) error {
		u, ok, err := s.Store.Users.GetIn(tx, userKey(name))
		if err != nil {
			return err
		}
		if !ok {
			return noUser(name)
		}
		u.PasswordHash = hash
		after = u
		return s.Store.Users.PutIn(tx, userKey(name), u)
	})
	if err != nil {
		return err
	}
	if err := s.sessions.closeAll(r.Context(), after.Name); err != nil {
		return err
	}
	s.UsersChanged()
	s.Log.Info("audit: password changed", "user", after.Name, "by", owner(r), "source", source(r))
	return s.ok(w, viewUser(after))
}

func noUser(name string) error {
	return domain.Errorf(domain.NotFound, "user "+printable(name), "does not exist").Fix("List /rest/baystream/users.")
}

// deleteUser never deletes the last infrastructure administrator. Deletions are
// taken one at a time, which makes the count true.
func (s *Server) deleteUser(w http.ResponseWriter, r *http.Request) error {
	s.userChange.Lock()
	defer s.userChange.Unlock()
	ctx, key := r.Context(), userKey(r.PathValue("name"))
	all, err := s.Store.Users.List(ctx)
	if err != nil {
		return err
	}
	u, ok := all[key]
	if !ok {
		return noUser(r.PathValue("name"))
	}
	others := 0
	for k, other := range all {
		if k != key && other.Role == domain.RoleInfrastructure {
			others++
		}
	}
	if others == 0 {
		return domain.Errorf(domain.Conflict, "user "+u.Name, "is the last infrastructure administrator").
			Fix("Create another infrastructure administrator first.")
	}
	if err := s.Store.Users.Delete(ctx, key); err != nil {
		return err
	}
	if err := s.sessions.closeAll(ctx, u.Name); err != nil {
		return err
	}
	s.UsersChanged()
	s.Log.Info("audit: user deleted", "user", u.Name, "by", owner(r), "source", source(r))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// setupDone marks that the first administrator was made.
type setupDone struct {
	User string `json:"user"`
	Time string `json:"time"`
}

// setup makes the first administrator for whoever reads the code on the
// appliance's console.
func (s *Server) setup(w http.ResponseWriter, r *http.Request) error {
	var req struct{ SetupCode, UserName, Password string }
	if err := decode(w, r, &req); err != nil {
		return err
	}
	ctx, from := r.Context(), source(r)
	done, ok, err := s.setupMark.Get(ctx)
	if err != nil {
		return err
	}
	if ok || s.SetupCode == "" {
		return setUpAlready(done)
	}
	good, err := s.setups.attempt("setup", from, func() (bool, error) { return sameCode(req.SetupCode, s.SetupCode), nil })
	if err != nil {
		return err
	}
	if !good {
		s.Log.Warn("audit: wrong setup code", "source", from)
		return domain.Errorf(domain.Unauthorized, "setupCode", "is wrong").
			Fix("Read the code on the appliance's console, in the line that begins with \"baystream: setup code\".")
	}
	if err := checkNewUser(req.UserName, req.Password); err != nil {
		return err
	}
	u := domain.User{Name: req.UserName, PasswordHash: s.hasher.hash(req.Password), Role: domain.RoleInfrastructure, Created: domain.Stamp(s.Now())}
	if err := s.firstUser(ctx, u); err != nil {
		return err
	}
	s.UsersChanged()
	s.Log.Info("audit: set up", "user", u.Name, "source", from)
	s.encode(w, http.StatusCreated, viewUser(u))
	return nil
}

// firstUser stores u unless another request was faster.
func (s *Server) firstUser(ctx context.Context, u domain.User) error {
	return cluster.Atomically(ctx, s.Store.Client, func(tx *cluster.Txn) error {
		if done, ok, err := s.setupMark.GetIn(tx); err != nil || ok {
			if err == nil {
				err = setUpAlready(done)
			}
			return err
		}
		if err := s.setupMark.PutIn(tx, setupDone{User: u.Name, Time: u.Created}); err != nil {
			return err
		}
		return s.Store.Users.PutIn(tx, userKey(u.Name), u)
	})
}

func setUpAlready(done setupDone) error {
	when := ""
	if done.Time != "" {
		when = " since " + done.Time
	}
	return domain.Errorf(domain.Conflict, "appliance", "is set up%s; its setup code is void", when).
		Fix("Log in as an administrator; a factory reset makes a new code.")
}

// sameCode compares codes without regard to letter case, dashes and blanks, in
// a time that does not depend on where they differ.
func sameCode(a, b string) bool {
	norm := func(s string) []byte {
		s = strings.NewReplacer("-", "", " ", "", "\t", "", "\n", "").Replace(strings.ToUpper(s))
		sum := sha256.Sum256([]byte(s))
		return sum[:]
	}
	return subtle.ConstantTimeCompare(norm(a), norm(b)) == 1
}

// Limits of guessing.
const (
	guessWindow   = time.Minute
	guessFailures = 5  // of one account from one source
	guessSource   = 20 // of all accounts from one source
	guessKeys     = 4096
)

// limiter counts failures in a sliding window. Attempts are checked one at a
// time: many sent at once neither pass together nor refuse each other.
type limiter struct {
	now func() time.Time

	turn     sync.Mutex // held during an attempt
	mu       sync.Mutex
	failures map[string][]time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, failures: map[string][]time.Time{}}
}

// attempt runs check, which says whether the attempt on account from source is
// good, unless there were too many failures.
func (l *limiter) attempt(account, source string, check func() (bool, error)) (bool, error) {
	account, source = "a|"+account, "s|"+source
	if err := l.refuse(account, source); err != nil {
		return false, err
	}
	l.turn.Lock()
	defer l.turn.Unlock()
	if err := l.refuse(account, source); err != nil {
		return false, err
	}
	good, err := check()
	if err == nil && !good {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, key := range []string{account, source} {
			l.failures[key] = append(l.failures[key], l.now())
		}
		l.prune()
	}
	return good, err
}

func (l *limiter) refuse(account, source string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := max(l.wait(account, guessFailures), l.wait(source, guessSource))
	if wait <= 0 {
		return nil
	}
	return later{domain.Errorf(domain.TooMany, "log-in", "has failed too often").
		Fix(fmt.Sprintf("Wait %d seconds, then try again.", int((wait+time.Second-1)/time.Second))), wait}
}

// wait is how long key has to wait until it has had fewer than limit failures
// in the window.
func (l *limiter) wait(key string, limit int) time.Duration {
	fails := l.failures[key]
	since := l.now().Add(-guessWindow)
	for len(fails) > 0 && !fails[0].After(since) {
		fails = fails[1:]
	}
	if len(fails) == 0 {
		delete(l.failures, key)
		return 0
	}
	l.failures[key] = fails
	if len(fails) < limit {
		return 0
	}
	return fails[len(fails)-limit].Sub(since)
}

// prune keeps the memory bounded, whoever asks how often.
func (l *limiter) prune() {
	if len(l.failures) < guessKeys {
		return
	}
	for key := range l.failures {
		l.wait(key, 1)
	}
	for key := range l.failures {
		if len(l.failures) < guessKeys {
			return
		}
		delete(l.failures, key)
	}
}
