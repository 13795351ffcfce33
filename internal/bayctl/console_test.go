package bayctl

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"baystream/daemon/domain"
	"baystream/hw"
	"baystream/internal/local"
	"baystream/internal/password"
	"baystream/internal/support"
)

// operator sits at a console whose module has the given parts.
type operator struct {
	t    *testing.T
	line net.Conn

	mu   sync.Mutex
	seen strings.Builder
	news chan struct{}
	size string // answer to the question for the size; empty: a dumb terminal

	audit, port1 *buffer
	dir          string
}

// buffer takes what many write.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *buffer) Close() error { return nil }
func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func sitDown(t *testing.T, size string) *operator {
	t.Helper()
	here, there := net.Pipe()
	o := &operator{t: t, line: here, news: make(chan struct{}, 1), size: size, audit: &buffer{}, port1: &buffer{}, dir: t.TempDir()}
	ctx, cancel := context.WithCancel(context.Background())
	c := &console{tty: newTerminal(ctx, there), now: time.Now, audit: o.audit, patience: 100 * time.Millisecond, paths: consolePaths{
		socket: filepath.Join(o.dir, "rest.sock"), control: filepath.Join(o.dir, "init.sock"), run: o.dir, state: filepath.Join(o.dir, "state"), log: filepath.Join(o.dir, "ring")},
		hardware: hw.Inventory{Bay: hw.Bay{Frame: "VF0001", Number: 1, Location: "appliance bay 1", Serial: "A1"}, Settings: map[string]string{"deployment": "vlan:1300"}},
		console1: func() (io.WriteCloser, error) { return o.port1, nil }}
	done := make(chan error, 1)
	go func() { done <- c.serve() }()
	go o.read()
	t.Cleanup(func() {
		cancel()
		here.Close()
		there.Close()
		<-done
	})
	return o
}

func (o *operator) read() {
	buf := make([]byte, 4096)
	for {
		n, err := o.line.Read(buf)
		if err != nil {
			return
		}
		o.mu.Lock()
		o.seen.Write(buf[:n])
		o.mu.Unlock()
		if strings.Contains(string(buf[:n]), "\x1b[6n") && o.size != "" {
			go io.WriteString(o.line, o.size)
		}
		select {
		case o.news <- struct{}{}:
		default:
		}
	}
}

// sees waits for text that matches, after what was seen before.
func (o *operator) sees(pattern string) string {
	o.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(30 * time.Second)
	for {
		o.mu.Lock()
		text := o.seen.String()
		o.mu.Unlock()
		if m := re.FindStringIndex(text); m != nil {
			o.mu.Lock()
			rest := o.seen.String()[m[1]:]
			o.seen.Reset()
			o.seen.WriteString(rest)
			o.mu.Unlock()
			return text[m[0]:m[1]]
		}
		select {
		case <-o.news:
		case <-late:
			o.t.Fatalf("no %q on the console:\n%s", pattern, text)
		}
	}
}

func (o *operator) types(text string) {
	o.t.Helper()
	if _, err := io.WriteString(o.line, text); err != nil {
		o.t.Fatal(err)
	}
}

// at types after each of the prompts.
func (o *operator) at(pairs ...string) {
	o.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		o.sees(pairs[i])
		o.types(pairs[i+1] + "\r")
	}
}

// init answers like the first process.
func (o *operator) init(answers map[string]string) {
	o.t.Helper()
	ln, err := net.Listen("unix", filepath.Join(o.dir, "init.sock"))
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 256)
			n, _ := conn.Read(buf)
			answer := answers[strings.TrimSpace(string(buf[:n]))]
			if answer == "" {
				answer = `{"ok":false,"error":"unknown"}`
			}
			io.WriteString(conn, answer+"\n")
			conn.Close()
		}
	}()
}

// daemon answers like the daemon, on its socket.
func (o *operator) daemon(setUp bool) *http.Server {
	o.t.Helper()
	ln, err := net.Listen("unix", filepath.Join(o.dir, "rest.sock"))
	if err != nil {
		o.t.Fatal(err)
	}
	mux := http.NewServeMux()
	say := func(pattern string, status int, v any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(v)
		})
	}
	say("GET /rest/baystream/setup", 200, map[string]bool{"setUp": setUp})
	say("DELETE /rest/login-sessions", 204, nil)
	mux.HandleFunc("POST /rest/login-sessions", func(w http.ResponseWriter, r *http.Request) {
		var c struct{ UserName, Password string }
		json.NewDecoder(r.Body).Decode(&c)
		role := map[string]string{"alice": domain.RoleInfrastructure, "bob": domain.RoleReadOnly}[c.UserName]
		if role == "" || c.Password != "correct horse" {
			w.WriteHeader(401)
			role = ""
		}
		json.NewEncoder(w).Encode(map[string]string{"sessionID": "token", "userName": c.UserName, "role": role})
	})
	mux.HandleFunc("POST /rest/baystream/setup", func(w http.ResponseWriter, r *http.Request) {
		var c struct{ SetupCode, UserName, Password string }
		if json.NewDecoder(r.Body).Decode(&c); c.SetupCode != "ABCD" {
			w.WriteHeader(401)
		}
	})
	parts := []domain.HealthPart{{Name: "network", Status: "Warning", Detail: "one port is down", Remedy: "Look at it."}, {Name: "storage", Status: "OK", Detail: "3 volumes"}}
	if !setUp {
		parts = append(parts, domain.HealthPart{Name: "data disk", Status: "Critical", Detail: "there is none", Remedy: "Insert one."})
	}
	say("GET /rest/baystream/health", 200, domain.Health{Status: "OK", Appliance: domain.Identity{Name: "VF0001, appliance 1", Role: "appliance", Version: "1.2"}, Parts: parts})
	say("GET /rest/baystream/net", 200, domain.NetReport{Links: []domain.NetLink{{Name: "eth0", Purpose: "management", Up: true, Carrier: true, Addresses: []string{"192.0.2.10/24"}}}})
	say("GET /rest/baystream/storage", 200, domain.StorageReport{DataBytes: 1 << 30, DataUsed: 1 << 28, Volumes: []domain.StorageVolume{{Name: "web1", IQN: "iqn", Bytes: 1 << 30, Sessions: []string{"server1"}}}})
	say("GET /rest/baystream/cluster", 200, domain.ClusterReport{Verdict: "one voter"})
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	o.t.Cleanup(func() { srv.Close() })
	return srv
}

const initStatus = `{"ok":true,"uptime_sec":61,"services":[{"name":"baystreamd","state":"waiting","restarts":4,"last_exit":"exit status 1"}],` +
	`"steps":[{"name":"mount configfs","error":"no such device"}]}`

func TestConsoleShowsTheDashboardToAdministrators(t *testing.T) {
	o := sitDown(t, "\x1b[24;80R")
	o.init(map[string]string{"status": `{"ok":true,"uptime_sec":61}`, "log 200": `{"ok":true,"lines":["first line","last line"]}`})
	srv := o.daemon(true)
	o.at("Press Enter", "", "user name: ", "alice", "password: ", "wrong", "not right[\\s\\S]*user name: ", "bob", "password: ", "correct horse",
		`role "Read only"[\s\S]*user name: `, "alice", "password: ", "correct horse")
	for _, want := range []string{`Baystream  VF0001, appliance 1`, `status    OK`, `WARNING   network: one port is down`, `what to do: Look at it.`, `well      storage`, `eth0       management   up         192.0.2.10/24`,
		`pool      256.0 MiB of 1.0 GiB used \(25 %\); 1 volumes, 1 served`, `last line`, `c commands   m maintenance   q log out`} {
		o.sees(want)
	}
	o.types("c")
	o.at("baystream> ", "bayctl status", `VF0001, appliance 1  \(appliance[\s\S]*votes: one voter[\s\S]*baystream> `, "artifacts backup /etc/x", "unknown command[\\s\\S]*baystream> ", "login --server x",
		"unknown command[\\s\\S]*baystream> ", "status --ca /etc/x", "unknown flag[\\s\\S]*baystream> ", "maintenance")
	o.at("back: ", "7", "has one image[\\s\\S]*back: ", "6", `web1 +1.0 GiB  IN USE by server1[\s\S]*type "erase A1"`, "no", "Nothing was erased[\\s\\S]*back: ", "", "baystream> ", "dashboard")
	o.sees("status    OK")
	srv.Close()
	o.sees("STATUS    the daemon does not answer")
	o.types("q")
	o.sees("Press Enter")
	for _, want := range []string{"alice logged in", "alice logged out"} {
		if !strings.Contains(o.audit.String(), want) {
			t.Errorf("audit %q lacks %q", o.audit.String(), want)
		}
	}
	if strings.Contains(o.audit.String(), "correct horse") {
		t.Error("the audit has a password")
	}
}

func TestConsoleMakesTheFirstAdministrator(t *testing.T) {
	o := sitDown(t, "")
	o.daemon(false)
	o.at("Press Enter", "", `CRITICAL  data disk: there is none\s+what to do: Insert one.\s+What is set up without it is lost[\s\S]*setup code: `, "WRONG", "administrator.: ", "alice", "password, at least", "correct horse", "again: ", "correct horse",
		"not right[\\s\\S]*setup code: ", "ABCD", "administrator.: ", "alice", "password, at least", "correct horse", "again: ", "correct horse")
	o.sees("status    OK[\\s\\S]*baystream> ") // lines, for the terminal told no size
}

func TestConsoleWithoutTheDaemonKnowsItsAdministrators(t *testing.T) {
	o := sitDown(t, "")
	o.init(map[string]string{"status": initStatus, "log 200": `{"ok":true,"lines":["why it died"]}`, "restart baystreamd": `{"ok":true}`})
	if err := (local.Administrators{"alice": password.Hash("correct horse", password.Cost{Time: 1, Memory: 64})}).Write(o.dir); err != nil {
		t.Fatal(err)
	}
	o.at("Press Enter", "", "does not answer[\\s\\S]*user name: ", "alice", "password: ", "nonsense", "not right[\\s\\S]*user name: ", "alice", "password: ", "correct horse")
	o.sees(`STATUS    the daemon does not answer`)
	o.sees(`service   baystreamd   waiting, 4 restarts  exit status 1`)
	o.sees(`boot step mount configfs failed: no such device`)
	o.at("why it died[\\s\\S]*baystream> ", "volumes", "daemon does not answer[\\s\\S]*baystream> ", "logs", "why it died[\\s\\S]*baystream> ", "maintenance",
		"back: ", "2", "restart the daemon", "y", "It restarts[\\s\\S]*back: ", "")
	o.at("baystream> ", "support-dump")
	text := o.sees(`-----BEGIN BAYSTREAM[\s\S]*-----END BAYSTREAM SUPPORT DUMP-----`)
	if dump, err := support.FromCapture([]byte(text)); err != nil || len(dump) < 1000 {
		t.Errorf("dump of %d bytes, %v", len(dump), err)
	}
	if strings.Contains(o.port1.String(), "code") {
		t.Error("a recovery code was shown although administrators are known")
	}
}

// Without data disk nobody is known: the code on the other port lets in.
func TestConsoleOfAModuleThatKnowsNobody(t *testing.T) {
	o := sitDown(t, "")
	o.init(map[string]string{"status": initStatus})
	o.at("Press Enter", "", "recovery code: ", "AAAA-AAAA-AAAA")
	o.sees("not right[\\s\\S]*recovery code: ")
	m := regexp.MustCompile(`recovery code (\S+)`).FindStringSubmatch(o.port1.String())
	if m == nil {
		t.Fatalf("port 1 says %q", o.port1.String())
	}
	o.types(strings.ToLower(m[1]) + "\r")
	o.sees("you are recovery[\\s\\S]*baystream> ")
	if strings.Contains(o.audit.String(), m[1]) {
		t.Error("the recovery code is in the log")
	}
}

func TestRenderFitsTheScreen(t *testing.T) {
	f := facts{Bay: hw.Bay{Frame: strings.Repeat("long ", 40)}, Now: time.Unix(0, 0)}
	for range 100 {
		f.Log = append(f.Log, strings.Repeat("ü", 300)+"\x1b[2J")
		f.Links = append(f.Links, domain.NetLink{Name: "eth"})
	}
	for _, size := range [][2]int{{60, 16}, {80, 24}, {200, 60}, {80, 3}} {
		lines := render(f, size[0], size[1])
		if len(lines) >= size[1] {
			t.Errorf("%d lines on a screen of %d, which needs one for the keys", len(lines), size[1])
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > size[0] || strings.Contains(l, "\x1b") {
				t.Errorf("line of %d characters on a screen of %d: %q", n, size[0], l)
			}
		}
	}
}

func TestLinesAreCutIntoWords(t *testing.T) {
	got, err := splitLine(`deploy "Debian 12" --name='a b' ""`)
	if want := []string{"deploy", "Debian 12", "--name=a b", ""}; err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("splitLine = %q, %v", got, err)
	}
	if _, err := splitLine(`a "b`); err == nil {
		t.Error("an open quote is taken")
	}
}
