package scenario

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baystream/qemu"

	"github.com/google/go-cmp/cmp"
)

// badInput is what mistakes get: a status, words that name the object, a
// remedy, and nothing left half-made. That the pool refuses new volumes when
// 85 % are used is shown in daemon/storage, where a pool is small enough.
func (s *site) badInput(t *testing.T) {
	s.running(t, 1)
	absent := s.registerAbsent(t, 2)
	post := func(in map[string]any) error {
		return s.REST().Do(t.Context(), "POST", "/rest/server-profiles", in, nil)
	}
	for _, tc := range []struct {
		name   string
		do     func(t *testing.T) error
		status int // 0: a task that fails
		says   []string
	}{
		{"CorruptBundle", func(t *testing.T) error {
			_, err := s.upload(t, "/rest/artifact-bundles", "corrupt", bundle(t, "corrupt-bad-zip-headers.zip"))
			return err
		}, 0, []string{"bundle corrupt-bad-zip-headers", "_planscript.json", "Send the file again"}},
		{"BundleThatIsNone", func(t *testing.T) error {
			file := filepath.Join(t.TempDir(), "letter.zip")
			must(t, os.WriteFile(file, []byte("Dear appliance,\n"), 0o600))
			_, err := s.upload(t, "/rest/artifact-bundles", "letter", file)
			return err
		}, 0, []string{"bundle letter", "not a readable zip", "Send the file again"}},
		{"GoldenImageLargerThanThePool", func(t *testing.T) error {
			file := filepath.Join(t.TempDir(), "huge.qcow2")
			must(t, os.WriteFile(file, emptyQcow2(1<<40), 0o600))
			_, err := s.upload(t, "/rest/golden-images", "huge", file)
			return err
		}, 0, []string{"golden image huge", "1099511627776", "room for", "Delete OS volumes"}},
		{"UnknownAttribute", func(*testing.T) error {
			return post(profile("bad", absent, s.plan, attributes("HostName", "bad", "Address", "-", "Colour", "blue")))
		}, 400, []string{"Colour"}},
		{"AttributeWithoutValue", func(*testing.T) error {
			return post(profile("bad", absent, s.plan, attributes("Address", "-")))
		}, 400, []string{"HostName"}},
		{"ValueOutsideItsConstraint", func(*testing.T) error {
			return post(profile("bad", absent, s.plan, attributes("HostName", "bad", "Address", "-", "Message", "LOUD 1")))
		}, 400, []string{"Message"}},
		{"HostNameThatIsNone", func(*testing.T) error {
			return post(profile("bad", absent, s.plan, attributes("HostName", "not a name", "Address", "-")))
		}, 400, []string{"HostName"}},
		{"UnknownServer", func(*testing.T) error {
			return post(profile("bad", "/rest/server-hardware/00000000-0000-4000-8000-0000000000ff", s.plan, attributes("HostName", "bad", "Address", "-")))
		}, 400, []string{"00000000-0000-4000-8000-0000000000ff"}},
		{"ServerThatIsTaken", func(*testing.T) error {
			return post(profile("bad", "/rest/server-hardware/"+s.Compute(1).Identity.UUID, s.plan, attributes("HostName", "bad", "Address", "-")))
		}, 409, []string{"web-1"}},
		{"UnknownPlan", func(*testing.T) error {
			return post(profile("bad", absent, "/rest/deployment-plans/00000000-0000-4000-8000-0000000000ff", nil))
		}, 400, []string{"00000000-0000-4000-8000-0000000000ff"}},
		{"NameThatIsTaken", func(*testing.T) error {
			return post(profile("web-1", absent, s.plan, attributes("HostName", "bad", "Address", "-")))
		}, 409, []string{"web-1"}},
		{"GoldenImageInUse", func(t *testing.T) error {
			return s.REST().Do(t.Context(), "DELETE", s.golden(t), nil, nil)
		}, 409, []string{"Sample OS"}},
		{"ProfileOfARunningServer", func(t *testing.T) error {
			p, _ := s.named(t, "/rest/server-profiles", "web-1")
			return s.REST().Do(t.Context(), "DELETE", p.URI, nil, nil)
		}, 409, []string{"web-1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := s.withoutTasks(t)
			refused(t, tc.do(t), tc.status, tc.says...)
			if diff := cmp.Diff(before, s.withoutTasks(t)); diff != "" {
				t.Errorf("something is left (-before +after):\n%s", diff)
			}
		})
	}
	t.Run("FailingPlanScript", s.failingScript)
	t.Run("LogIn", s.badLogIn)
}

func (s *site) withoutTasks(t *testing.T) map[string][]string {
	m := s.snapshot(t)
	delete(m, "tasks") // what failed is on record
	return m
}

// refused checks an error of REST, or of a task if status is 0: it says what
// is meant and what to do.
func refused(t *testing.T, err error, status int, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	t.Logf("refused: %v", err)
	var e *qemu.RESTError
	switch {
	case errors.As(err, &e) && status != 0:
		if e.Status != status {
			t.Errorf("status %d, want %d", e.Status, status)
		}
		if len(e.Recommended) == 0 || e.Recommended[0] == "" {
			t.Error("there is no remedy")
		}
		if e.Code == "" {
			t.Error("there is no errorCode")
		}
	case status != 0:
		t.Fatal("not an answer of REST")
	}
	for _, word := range says {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the message does not name %q", word)
		}
	}
}

// failingScript deploys a plan whose script fails in its third line.
func (s *site) failingScript(t *testing.T) {
	plan := s.scriptPlan(t, "Fails", "# the next line is fine\nmount /dev/sda1 /\nchmod 0644 /not/there\numount /\n", s.golden(t))
	absent := s.registerAbsent(t, 3)
	before := s.withoutTasks(t)
	task, err := s.REST().Run(qemu.Context(t, time.Minute), "POST", "/rest/server-profiles", profile("fails-1", absent, plan, nil), nil)
	refused(t, err, 0, "Fails", "line 3", "/not/there")
	if task.State != "Error" || len(task.Errors) == 0 || len(task.Errors[0].Recommended) == 0 {
		t.Errorf("the task is %+v, want Error with a remedy", task)
	}
	p, ok := s.named(t, "/rest/server-profiles", "fails-1")
	if !ok || p.State != "Failed" {
		t.Errorf("the profile is %+v, want it Failed, to be tried again", p)
	}
	after := s.withoutTasks(t)
	if diff := cmp.Diff(before["os-volumes"], after["os-volumes"]); diff != "" {
		t.Errorf("volumes (-before +after):\n%s", diff)
	}
	if got, want := len(s.sessions(t)), len(after["os-volumes"]); got != want {
		t.Errorf("storage has %d volumes, the state %d", got, want)
	}
	status, log := s.visitor(t).do(t, "GET", "/rest/os-volumes/archive/fails-1", nil)
	if status != 200 || !strings.Contains(log, "line 3") {
		t.Errorf("the log of the deployment is %d:\n%s\nwant one that names line 3", status, log)
	}
	_, err = s.REST().Run(qemu.Context(t, time.Minute), "DELETE", p.URI, nil, nil)
	must(t, err)
}

// badLogIn is what wrong passwords and old tokens get.
func (s *site) badLogIn(t *testing.T) {
	check := func(what string, status int, body string) {
		t.Helper()
		var e qemu.RESTError
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Fatalf("%s: answer %d %q: %v", what, status, body, err)
		}
		e.Status = status
		refused(t, &e, 401)
	}
	v := s.visitor(t)
	status, body := v.do(t, "POST", "/rest/login-sessions", map[string]string{"userName": qemu.UserName, "password": "not the password"})
	check("wrong password", status, body)
	if strings.Contains(body, "not the password") {
		t.Error("the answer repeats the password")
	}
	if status, body := v.do(t, "POST", "/rest/sessions/idle-timeout", map[string]int{"idleTimeout": 1000}); status >= 300 {
		t.Fatalf("idle timeout: %d %s", status, body)
	}
	// Whoever asks keeps a session alive, so each look is later than the last.
	for pause := 1500 * time.Millisecond; ; pause *= 2 {
		time.Sleep(pause)
		status, body = v.do(t, "GET", "/rest/os-volumes", nil)
		if status != 200 || pause > qemu.Deadline(10*time.Second) {
			break
		}
	}
	check("expired token", status, body)
	v.token = "LTk4NjM0NzQ1MjE4"
	status, body = v.do(t, "GET", "/rest/os-volumes", nil)
	check("unknown token", status, body)
	v.token = ""
	status, body = v.do(t, "GET", "/rest/os-volumes", nil)
	check("no token", status, body)
}

// visitor is a client with a session of its own that shows answers as they are.
type visitor struct {
	base, token string
	http        *http.Client
}

func (s *site) visitor(t *testing.T) *visitor {
	t.Helper()
	a := s.Access()
	ca, err := os.ReadFile(a.CAFile)
	must(t, err)
	password, err := os.ReadFile(a.PasswordFile)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "baystream"}}
	t.Cleanup(transport.CloseIdleConnections)
	v := &visitor{base: a.RESTURL, http: &http.Client{Transport: transport}}
	status, body := v.do(t, "POST", "/rest/login-sessions", map[string]string{"userName": a.User, "password": strings.TrimSpace(string(password))})
	var session struct {
		ID string `json:"sessionID"`
	}
	if err := json.Unmarshal([]byte(body), &session); err != nil || status != 200 {
		t.Fatalf("log-in: %d %s, %v", status, body, err)
	}
	v.token = session.ID
	return v
}

func (v *visitor) do(t *testing.T, method, path string, in any) (status int, body string) {
	t.Helper()
	b, err := json.Marshal(in)
	must(t, err)
	if in == nil {
		b = nil
	}
	req, err := http.NewRequestWithContext(t.Context(), method, v.base+path, bytes.NewReader(b))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	if v.token != "" {
		req.Header.Set("Auth", v.token)
	}
	resp, err := v.http.Do(req)
	must(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(answer)
}

// bundle is the path of a published bundle.
func bundle(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("BAYSTREAM_BUNDLES")
	if dir == "" {
		dir = filepath.Join(moduleRoot, "..", "shared", "bundles")
	}
	file := filepath.Join(dir, name)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("needs a published bundle: %v; set BAYSTREAM_BUNDLES", err)
	}
	return file
}

// emptyQcow2 is an image of a disk of that size with nothing on it, as
// docs/interop/qcow2.txt of QEMU describes version 2.
func emptyQcow2(size uint64) []byte {
	const (
		clusterBits = 16
		cluster     = 1 << clusterBits
	)
	l1 := size >> (clusterBits + clusterBits - 3) // entries: each table of pointers has one cluster
	l1Clusters := (l1*8 + cluster - 1) / cluster
	b := make([]byte, cluster*(3+l1Clusters)) // header, refcount table, refcount block, L1 table
	copy(b, "QFI\xfb")
	put := binary.BigEndian
	put.PutUint32(b[4:], 2)
	put.PutUint32(b[20:], clusterBits)
	put.PutUint64(b[24:], size)
	put.PutUint32(b[36:], uint32(l1))
	put.PutUint64(b[40:], 3*cluster)
	put.PutUint64(b[48:], cluster)
	put.PutUint32(b[56:], 1)
	put.PutUint64(b[cluster:], 2*cluster)
	for i := range 3 + l1Clusters {
		put.PutUint16(b[2*cluster+2*i:], 1)
	}
	return b
}
