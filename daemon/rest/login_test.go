package rest

import (
	"strings"
	"testing"
	"time"

	"baystream/daemon/domain"
)

func TestFirstContact(t *testing.T) {
	g := newRig(t)
	if a := g.want(200, "GET", "/rest/baystream/ca", nil); !strings.HasPrefix(a.raw, "-----BEGIN") {
		t.Errorf("ca = %q", a.raw)
	}
	want := `{"status":"Warning","parts":[{"name":"data disk","status":"Warning","detail":"no disk","remedy":"Insert a blank disk."},` +
		`{"name":"storage","status":"Warning","detail":"","remedy":"See bayctl storage."}]}`
	for _, header := range [][]string{nil, {"auth", "none"}, {"auth", "of yesterday"}} {
		if a := g.want(200, "GET", "/rest/baystream/health", nil, header...); strings.TrimSpace(a.raw) != want {
			t.Errorf("health without a token = %s, want %s", a.raw, want)
		}
	}
	if a := g.want(200, "GET", "/rest/baystream/setup", nil); a.at("setUp") != false {
		t.Errorf("setup = %s", a.raw)
	}
	first := map[string]string{"setupCode": "wrong", "userName": rigUser, "password": rigPassword}
	g.refused(401, "POST", "/rest/baystream/setup", first, "console")
	first["setupCode"] = "abcd efgh 2345"
	first["password"] = "short"
	g.refused(400, "POST", "/rest/baystream/setup", first, "password", "10 to 256")
	first["password"] = rigPassword
	g.want(201, "POST", "/rest/baystream/setup", first)
	first["userName"] = "second"
	g.refused(409, "POST", "/rest/baystream/setup", first, "void")
	g.token = g.login("administrator", rigPassword)
	g.want(200, "GET", "/rest/plan-scripts", nil)
	if log := g.logged(); strings.Contains(log, rigPassword) || strings.Contains(log, g.token) || strings.Contains(log, rigCode) {
		t.Errorf("log holds a secret:\n%s", log)
	}
}

func TestSetupCodesCannotBeGuessed(t *testing.T) {
	g := newRig(t)
	guess := map[string]string{"setupCode": "wrong", "userName": rigUser, "password": rigPassword}
	for range guessFailures {
		g.want(401, "POST", "/rest/baystream/setup", guess)
	}
	guess["setupCode"] = rigCode
	if a := g.want(429, "POST", "/rest/baystream/setup", guess); a.header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	g.advance(time.Minute + time.Second)
	g.want(201, "POST", "/rest/baystream/setup", guess)
}

func TestVersionNeedsNoToken(t *testing.T) {
	g := newRig(t)
	for _, h := range []string{"", "300", "2800", "9999"} {
		a := g.want(200, "GET", "/rest/version", nil, "X-API-Version", h)
		if a.at("currentVersion") != float64(2800) || a.at("minimumVersion") != float64(120) {
			t.Errorf("version = %s", a.raw)
		}
	}
	for _, h := range []string{"x", "0", "-1"} {
		g.want(400, "GET", "/rest/version", nil, "X-API-Version", h)
	}
}

func TestSession(t *testing.T) {
	g := readyRig(t)
	if a := g.want(200, "PUT", "/rest/login-sessions", nil); a.str("sessionID") != g.token {
		t.Errorf("PUT login-sessions = %s", a.raw)
	}
	g.want(401, "GET", "/rest/plan-scripts", nil, "auth", "")
	g.want(401, "GET", "/rest/plan-scripts", nil, "auth", "none")
	g.want(401, "GET", "/rest/plan-scripts", nil, "auth", g.token+"x")
	g.want(200, "GET", "/rest/plan-scripts", nil, "auth", "", "Session-ID", g.token)
	g.want(401, "POST", "/rest/login-sessions", map[string]string{"userName": rigUser, "password": "wrong wrong wrong"})
	g.want(401, "POST", "/rest/login-sessions", map[string]string{"userName": "nobody", "password": rigPassword})
	g.want(400, "POST", "/rest/login-sessions", "{")
	g.want(400, "POST", "/rest/login-sessions", nil)

	if a := g.want(200, "GET", "/rest/sessions/idle-timeout", nil, "Session-ID", g.token, "auth", ""); a.at("idleTimeout") != float64(3600000) {
		t.Errorf("idle timeout = %s", a.raw)
	}
	g.want(200, "POST", "/rest/sessions/idle-timeout", map[string]int{"idleTimeout": 600_000})
	g.want(400, "POST", "/rest/sessions/idle-timeout", map[string]int{"idleTimeout": 800})
	g.advance(9 * time.Minute)
	g.want(200, "GET", "/rest/plan-scripts", nil)
	g.advance(9 * time.Minute) // not 18: the last use counts
	g.want(200, "GET", "/rest/plan-scripts", nil)
	g.advance(11 * time.Minute)
	g.refused(401, "GET", "/rest/plan-scripts", nil, "expired", "Log in again")

	g.token = g.login(rigUser, rigPassword)
	g.want(204, "DELETE", "/rest/login-sessions", "{}")
	g.want(401, "GET", "/rest/plan-scripts", nil)
	if all, err := g.store.Sessions.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%d sessions left, %v; want expired and closed ones gone", len(all), err)
	}
}

func TestPasswordsCannotBeGuessed(t *testing.T) {
	g := readyRig(t)
	try := func(user, password string) int {
		return g.do("POST", "/rest/login-sessions", map[string]string{"userName": user, "password": password}, "auth", "none").status
	}
	for range guessFailures {
		if got := try(rigUser, "wrong wrong wrong"); got != 401 {
			t.Fatalf("wrong password = %d, want 401", got)
		}
	}
	a := g.want(429, "POST", "/rest/login-sessions", map[string]string{"userName": " administrator", "password": rigPassword})
	if a.header.Get("Retry-After") != "60" {
		t.Errorf("Retry-After = %q, want 60", a.header.Get("Retry-After"))
	}
	if got := try("other", "wrong"); got != 401 {
		t.Errorf("another account = %d, want 401", got)
	}
	g.want(200, "GET", "/rest/plan-scripts", nil) // sessions go on
	g.advance(61 * time.Second)
	if got := try(rigUser, rigPassword); got != 200 {
		t.Errorf("after a minute = %d, want 200", got)
	}
	if log := g.logged(); !strings.Contains(log, "audit: log-in failed") || strings.Contains(log, "wrong wrong") {
		t.Errorf("log of failures:\n%s", log)
	}
}

func TestUsersAndRoles(t *testing.T) {
	g := readyRig(t)
	add := func(status int, name, role string) {
		t.Helper()
		g.want(status, "POST", "/rest/baystream/users", map[string]string{"userName": name, "password": "password of " + name, "role": role})
	}
	add(201, "soft", domain.RoleSoftware)
	add(201, "serv", domain.RoleServer)
	add(201, "read", domain.RoleReadOnly)
	add(409, "READ", domain.RoleReadOnly)
	add(400, "x y", domain.RoleReadOnly)
	add(400, "king", "King")
	if a := g.want(200, "GET", "/rest/baystream/users", nil); strings.Contains(a.raw, "argon2") || a.at("total") != float64(4) {
		t.Errorf("users = %s", a.raw)
	}
	g.want(409, "DELETE", "/rest/baystream/users/"+rigUser, nil)

	admin := g.token
	script := map[string]string{"name": "s", "planType": "general", "content": "echo"}
	hardware := map[string]any{"uuid": "aaaaaaaa-0000-0000-0000-000000000001", "serialNumber": "S1"}
	for _, c := range []struct {
		user                           string
		read, artifact, profile, admin int
	}{
		{"soft", 200, 201, 403, 403}, {"serv", 200, 403, 201, 403}, {"read", 200, 403, 403, 403}, {"", 401, 401, 401, 401},
	} {
		g.token = ""
		if c.user != "" {
			g.token = g.login(c.user, "password of "+c.user)
		}
		g.want(c.read, "GET", "/rest/plan-scripts", nil)
		g.want(c.artifact, "POST", "/rest/plan-scripts", script)
		g.want(c.profile, "POST", "/rest/server-hardware", hardware)
		g.want(c.admin, "GET", "/rest/baystream/users", nil)
		g.want(c.admin, "GET", "/rest/baystream/logs", nil)
	}
	g.token = g.login("read", "password of read")
	g.want(403, "PUT", "/rest/baystream/users/soft", map[string]string{"password": "something new"})
	g.want(200, "PUT", "/rest/baystream/users/read", map[string]string{"password": "something new"})
	g.want(401, "GET", "/rest/plan-scripts", nil) // a new password ends sessions
	g.token = g.login("read", "something new")
	read := g.token
	g.token = admin
	g.want(404, "PUT", "/rest/baystream/users/nobody", map[string]string{"password": "something new"})
	g.want(204, "DELETE", "/rest/baystream/users/read", nil)
	g.want(404, "DELETE", "/rest/baystream/users/read", nil)
	g.want(401, "GET", "/rest/plan-scripts", nil, "auth", read)
}

func TestPasswordHash(t *testing.T) {
	h := newHasher()
	hash := h.hash("pässword")
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash = %s", hash)
	}
	for password, want := range map[string]bool{"pässword": true, "password": false, "": false} {
		if got := h.check(hash, password); got != want {
			t.Errorf("check(%q) = %v, want %v", password, got, want)
		}
	}
	for _, bad := range []string{"", "x", "$argon2id$v=19$m=1,t=0,p=0$$", "$argon2id$v=19$m=99999999,t=1,p=1$AA$AA", "$argon2i$v=19$m=1,t=1,p=1$AA$AA"} {
		if h.check(bad, "") {
			t.Errorf("check(%q, \"\") = true", bad)
		}
	}
}
