package redfish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	user     = "bay-appliance-1"
	password = "a password that nobody may see"
)

// frameManager is a manager of a frame with three bays, and a linked frame
// whose manager is away.
type frameManager struct {
	*httptest.Server
	log bytes.Buffer

	mu       sync.Mutex
	token    string
	logins   int
	sessions int // open ones
	power    string
	resets   []string
	streams  chan *stream
}

// stream is an open stream of events.
type stream struct {
	last string // Last-Event-ID of the request
	out  chan string
}

func newManager(t *testing.T) *frameManager {
	m := &frameManager{power: "Off", streams: make(chan *stream, 8)}
	m.Server = httptest.NewTLSServer(http.HandlerFunc(m.serve))
	t.Cleanup(m.Close)
	return m
}

func (m *frameManager) client(t *testing.T) *Client {
	t.Helper()
	sum := sha256.Sum256(m.Certificate().Raw)
	c, err := New(Config{URL: m.URL, Pin: hex.EncodeToString(sum[:]), User: user, Password: password, Log: slog.New(slog.NewTextHandler(&m.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.http.CloseIdleConnections() })
	return c
}

// resources are those that are only read, by path below /redfish/v1.
var resources = map[string]string{
	"/":        `{"Name":"Frame manager of VF0001","Vendor":"Baystream","Product":"Test","Chassis":{"@odata.id":"/redfish/v1/Chassis"},"EventService":{"@odata.id":"/redfish/v1/EventService"}}`,
	"/Chassis": `{"Members":[{"@odata.id":"/redfish/v1/Chassis/VF0001"},{"@odata.id":"/redfish/v1/Chassis/a1"}],"Members@odata.nextLink":"/redfish/v1/Chassis?page=2"}`,
	"/Chassis?page=2": `{"Members":[{"@odata.id":"/redfish/v1/Chassis/i3"},{"@odata.id":"/redfish/v1/Chassis/d2"},
		{"@odata.id":"/redfish/v1/Chassis/VF0002"}]}`,
	"/Chassis/VF0001": `{"Id":"VF0001","ChassisType":"Enclosure","SerialNumber":"VF0001","Model":"Virtual frame","Status":{"Health":"OK"}}`,
	"/Chassis/a1": `{"ChassisType":"Blade","Name":"appliance bay 1","SerialNumber":"A1","PowerState":"On","Status":{"State":"Enabled","Health":"OK"},
		"Location":{"PartLocation":{"ServiceLabel":"appliance bay 1"}},
		"Links":{"ContainedBy":{"@odata.id":"/redfish/v1/Chassis/VF0001"},"ComputerSystems":[{"@odata.id":"/redfish/v1/Systems/A1"}]}}`,
	"/Chassis/i3": `{"ChassisType":"Module","Name":"interconnect bay 3","SerialNumber":"I3","PowerState":"On","Status":{"State":"Enabled","Health":"Warning"},
		"Links":{"ContainedBy":{"@odata.id":"/redfish/v1/Chassis/VF0001"}}}`,
	"/Chassis/d2":   `{"ChassisType":"Blade","Name":"device bay 2","PowerState":"Off","Status":{"State":"Absent"},"Links":{"ContainedBy":{"@odata.id":"/redfish/v1/Chassis/VF0001"}}}`,
	"/EventService": `{"ServerSentEventUri":"/redfish/v1/EventService/SSE"}`,
}

func (m *frameManager) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.RequestURI(), "/redfish/v1")
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Method == "POST" && path == "/SessionService/Sessions" {
		var in struct{ UserName, Password string }
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.UserName != user || in.Password != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		m.logins++
		m.sessions++
		m.token = fmt.Sprintf("token-%d", m.logins)
		w.Header().Set("X-Auth-Token", m.token)
		w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
		w.WriteHeader(http.StatusCreated)
		return
	}
	if m.token == "" || r.Header.Get("X-Auth-Token") != m.token {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":{"message":"general","@Message.ExtendedInfo":[{"Message":"There is no valid session."}]}}`)
		return
	}
	switch {
	case r.Method == "DELETE":
		m.sessions--
		w.WriteHeader(http.StatusNoContent)
	case path == "/moved":
		http.Redirect(w, r, "https://elsewhere.invalid/", http.StatusTemporaryRedirect)
	case path == "/Chassis/VF0002":
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprint(w, `{"error":{"message":"The manager of frame VF0002 cannot be reached."}}`)
	case path == "/Systems/A1" && r.Method == "GET":
		fmt.Fprintf(w, `{"UUID":"AAAA-1","SerialNumber":"A1","PowerState":%q,"Actions":{"#ComputerSystem.Reset":{"target":"/redfish/v1/Systems/A1/Actions/Reset"}}}`, m.power)
	case path == "/Systems/A1/Actions/Reset" && r.Method == "POST":
		var in struct{ ResetType string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		m.resets = append(m.resets, in.ResetType)
		m.power = map[string]string{"On": "On", "ForceOff": "Off"}[in.ResetType]
		w.WriteHeader(http.StatusNoContent)
	case path == "/EventService/SSE":
		s := &stream{r.Header.Get("Last-Event-ID"), make(chan string)}
		m.mu.Unlock()
		s.serve(w, r, m.streams)
		m.mu.Lock()
	case resources[path] != "" && r.Method == "GET":
		fmt.Fprint(w, resources[path])
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *stream) serve(w http.ResponseWriter, r *http.Request, opened chan *stream) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	opened <- s
	for {
		select {
		case text, ok := <-s.out:
			if !ok {
				return
			}
			fmt.Fprint(w, text)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func TestInventory(t *testing.T) {
	m := newManager(t)
	c := m.client(t)
	got, err := c.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Inventory{Name: "Frame manager of VF0001", Vendor: "Baystream", Product: "Test", Frames: []Frame{
		{Serial: "VF0001", Model: "Virtual frame", Health: "OK", path: "/redfish/v1/Chassis/VF0001", Bays: []Bay{
			{Location: "appliance bay 1", Present: true, Serial: "A1", UUID: "aaaa-1", Power: Off, Health: "OK", System: "/redfish/v1/Systems/A1"},
			{Location: "interconnect bay 3", Present: true, Serial: "I3", Power: On, Health: "Warning"},
			{Location: "device bay 2", Power: Off},
		}},
		{Serial: "VF0002", Bays: []Bay{}, path: "/redfish/v1/Chassis/VF0002",
			Fault: "frame manager: /redfish/v1/Chassis/VF0002: The manager of frame VF0002 cannot be reached."},
	}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Frame{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if m.logins != 1 {
		t.Errorf("%d log-ins for one inventory", m.logins)
	}
	if b, ok := got.BayOf("AAAA-1", ""); !ok || b.Location != "appliance bay 1" {
		t.Errorf("BayOf a UUID = %+v, %v", b, ok)
	}
	if b, ok := got.BayOf("", "I3"); !ok || b.Location != "interconnect bay 3" {
		t.Errorf("BayOf a serial = %+v, %v", b, ok)
	}
	if _, ok := got.BayOf("", ""); ok {
		t.Error("BayOf nothing finds something")
	}
}

func TestAnotherCertificateIsNotTalkedTo(t *testing.T) {
	m := newManager(t)
	c, err := New(Config{URL: m.URL, Pin: strings.Repeat("ab", 32), User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Inventory(t.Context()); !errors.Is(err, ErrPin) {
		t.Errorf("Inventory of a manager with another certificate: %v", err)
	}
	if m.logins != 0 {
		t.Error("it got the password")
	}
}

func TestConfigThatCannotWork(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for _, cfg := range []Config{
		{URL: "http://169.254.1.1", Pin: pin}, {URL: "https://", Pin: pin}, {URL: "https://u:p@169.254.1.1", Pin: pin},
		{URL: "https://169.254.1.1"}, {URL: "https://169.254.1.1", Pin: "xyz"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) succeeds", cfg)
		}
	}
}

func TestSessionThatTheManagerForgot(t *testing.T) {
	m := newManager(t)
	c := m.client(t)
	if p, err := c.Power(t.Context(), "/redfish/v1/Systems/A1"); err != nil || p != Off {
		t.Fatalf("Power = %s, %v", p, err)
	}
	m.mu.Lock()
	m.token = "" // it restarted
	m.mu.Unlock()
	if p, err := c.Power(t.Context(), "/redfish/v1/Systems/A1"); err != nil || p != Off {
		t.Errorf("Power = %s, %v, want another log-in", p, err)
	}
	c.Close(t.Context())
	if m.logins != 2 || m.sessions != 1 {
		t.Errorf("%d log-ins, %d sessions are left, want 2 and the forgotten one", m.logins, m.sessions)
	}
}

func TestSecretsStayInside(t *testing.T) {
	m := newManager(t)
	c := m.client(t)
	c.cfg.Password = "wrong: " + password
	_, err1 := c.Inventory(t.Context())
	c.cfg.Password = password
	_, err2 := c.Power(t.Context(), "/redfish/v1/moved") // is not followed
	_, err3 := c.Power(t.Context(), "https://elsewhere.invalid/redfish")
	m.Close()
	_, err4 := c.Inventory(t.Context())
	for i, err := range []error{err1, err2, err3, err4} {
		if err == nil {
			t.Errorf("error %d is none", i+1)
			continue
		}
		if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "token-") {
			t.Errorf("error %d tells a secret: %v", i+1, err)
		}
	}
	if strings.Contains(m.log.String(), password) {
		t.Error("the log tells the password")
	}
}

func TestReset(t *testing.T) {
	m := newManager(t)
	c := m.client(t)
	for _, r := range []ResetType{PowerOn, ForceOff} {
		if err := c.Reset(t.Context(), "/redfish/v1/Systems/A1", r); err != nil {
			t.Errorf("Reset %s: %v", r, err)
		}
	}
	if diff := cmp.Diff([]string{"On", "ForceOff"}, m.resets); diff != "" {
		t.Errorf("resets (-want +got):\n%s", diff)
	}
	var refused *Error
	if err := c.Reset(t.Context(), "/redfish/v1/Systems/none", PowerOn); !errors.As(err, &refused) || refused.Status != 404 {
		t.Errorf("Reset of a computer that is not there: %v", err)
	}
}

// watcher hands on what it is told.
type watcher chan string

func (w watcher) Connected()     { w <- "connected" }
func (w watcher) Event(e Event)  { w <- e.ID + " " + e.Origin + " " + e.Message }
func (w watcher) Lost(err error) { w <- "lost: " + err.Error() }

func TestWatchComesBack(t *testing.T) {
	m := newManager(t)
	c := m.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, done := make(watcher), make(chan struct{})
	go func() { c.Watch(ctx, w); close(done) }()
	expect := func(want string) {
		t.Helper()
		if got := <-w; got != want {
			t.Fatalf("watcher is told %q, want %q", got, want)
		}
	}
	s := <-m.streams
	expect("connected")
	s.out <- ": a comment\n\n"
	s.out <- "id: 7\ndata: {\"Events\":[{\"MessageId\":\"ResourceEvent.1.3.ResourcePoweredOn\",\ndata: \"Message\":\"on\",\"OriginOfCondition\":{\"@odata.id\":\"/redfish/v1/Systems/A1\"}}]}\n\n"
	expect("ResourceEvent.1.3.ResourcePoweredOn /redfish/v1/Systems/A1 on")
	s.out <- "id: 8\r\ndata: not JSON\r\n\r\n"
	close(s.out) // the manager restarts and knows no session
	m.mu.Lock()
	m.token = ""
	m.mu.Unlock()
	expect("lost: frame manager: ended the stream of events")
	s = <-m.streams
	expect("connected")
	if s.last != "8" {
		t.Errorf("the stream is taken up after event %q, want 8", s.last)
	}
	cancel()
	<-done
}

func TestEventPower(t *testing.T) {
	for id, want := range map[string]Power{"ResourceEvent.1.3.ResourcePoweredOn": On, "ResourceEvent.1.0.ResourcePoweredOff": Off, "ResourceEvent.1.3.ResourceChanged": "", "": ""} {
		if p, ok := (Event{ID: id}).Power(); p != want || ok != (want != "") {
			t.Errorf("Power of %q = %s, %v", id, p, ok)
		}
	}
}

func FuzzReadStream(f *testing.F) {
	f.Add("id: 1\ndata: {}\n\n: alive\n\ndata\n\n")
	f.Add("data: a\r\ndata: b\r\n\r\nid\ndata:c\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		if err := readStream(strings.NewReader(s), func(m message) {
			if len(m.data) > len(s) {
				t.Errorf("%q becomes %d bytes", s, len(m.data))
			}
		}); err == nil {
			t.Error("a stream without an end")
		}
	})
}
