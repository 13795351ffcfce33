package manager

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/qemu/bmc"

	"github.com/google/go-cmp/cmp"
)

// fakeModule has power and a sensor.
type fakeModule struct {
	mu    sync.Mutex
	on    bool
	state string
	did   []string
}

func (f *fakeModule) do(what string, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did, f.on = append(f.did, what), on
	return nil
}

func (f *fakeModule) On() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.on
}
func (f *fakeModule) PowerOn() error     { return f.do("on", true) }
func (f *fakeModule) PowerOff() error    { return f.do("off", false) }
func (f *fakeModule) PowerCycle() error  { return f.do("cycle", true) }
func (f *fakeModule) Reset() error       { return f.do("reset", true) }
func (f *fakeModule) PowerButton() error { return f.do("button", true) }
func (f *fakeModule) Interrupt() error   { return f.do("nmi", true) }
func (f *fakeModule) Readings() []bmc.Reading {
	return []bmc.Reading{{Sensor: bmc.Sensor{Name: "Inlet Temp", Kind: bmc.Temperature, UpperCritical: 42}, Value: 24, State: f.state}}
}

// site is the managers of linked frames, and a client for each.
type site struct {
	managers []*Manager
	modules  []*fakeModule
	urls     []string
	clients  []*http.Client
}

func clientFor(m *Manager) *http.Client {
	cert, _ := x509.ParseCertificate(m.Certificate())
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func newSite(t *testing.T, frames ...string) *site {
	t.Helper()
	s := &site{}
	for _, f := range frames {
		mod := &fakeModule{on: true, state: "ok"}
		m, err := New(Config{Frame: f, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Bays: []Bay{
			{Location: "appliance bay 1", Number: 1, Model: "Virtual module", Serial: f + "A01", UUID: "u", Module: mod},
			{Location: "interconnect bay 3", Number: 3, Model: "Virtual switch", Serial: f + "I03"},
			{Location: "device bay 1", Number: 1},
		}})
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m.Serve(l)
		t.Cleanup(m.Close)
		m.AddUser("admin", "secret", Administrator)
		m.AddUser("reader", "secret", ReadOnly)
		s.managers, s.modules = append(s.managers, m), append(s.modules, mod)
		s.urls, s.clients = append(s.urls, "https://"+l.Addr().String()), append(s.clients, clientFor(m))
	}
	for i := range frames {
		for j := range i {
			reach := func(k int, user string) Peer { return Peer{frames[k], s.urls[k], s.clients[k], user, "ring"} }
			Link(s.managers[i], s.managers[j], reach(i, "manager-"+frames[j]), reach(j, "manager-"+frames[i]))
		}
	}
	return s
}

// ask sends a request to the first manager and returns status and body.
func (s *site) ask(t *testing.T, method, path, user, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.urls[0]+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "secret")
	}
	resp, err := s.clients[0].Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (s *site) members(t *testing.T, path string) (out []string) {
	t.Helper()
	_, body := s.ask(t, "GET", path, "reader", "")
	var in struct {
		Members []struct {
			ID string `json:"@odata.id"`
		}
	}
	if err := json.Unmarshal([]byte(body), &in); err != nil {
		t.Fatalf("%s: %v: %s", path, err, body)
	}
	for _, m := range in.Members {
		out = append(out, strings.TrimPrefix(m.ID, path+"/"))
	}
	return out
}

func TestStatusOfRequests(t *testing.T) {
	s := newSite(t, "VF0001", "VF0002")
	const reset = "/Actions/ComputerSystem.Reset"
	for _, c := range []struct {
		method, path, user, body string
		status                   int
		has                      string
	}{
		{"GET", "/redfish", "", "", 200, "/redfish/v1/"},
		{"GET", "/redfish/v1", "", "", 200, "RootService"},
		{"GET", "/redfish/v1/", "", "", 200, "RootService"},
		{"GET", "/redfish/v1/Chassis", "", "", 401, "NoValidSession"},
		{"GET", "/redfish/v1/Chassis", "nobody", "", 401, "NoValidSession"},
		{"GET", "/redfish/v1/Chassis/VF0001", "reader", "", 200, `"LinkedFrames": [`},
		{"GET", "/redfish/v1/Chassis/VF0001-appliance-bay-1", "reader", "", 200, `"ServiceLabel": "appliance bay 1"`},
		{"GET", "/redfish/v1/Chassis/VF0001-interconnect-bay-3", "reader", "", 200, `"ChassisType": "Module"`},
		{"GET", "/redfish/v1/Chassis/VF0001-device-bay-1", "reader", "", 200, `"State": "Absent"`},
		{"GET", "/redfish/v1/Chassis/VF0001-device-bay-9", "reader", "", 404, "ResourceMissingAtURI"},
		{"GET", "/redfish/v1/Chassis/VF0001-appliance-bay-1/Sensors/InletTemp", "reader", "", 200, `"Reading": 24`},
		{"GET", "/redfish/v1/Chassis/VF0001-device-bay-1/Sensors", "reader", "", 404, "Missing"},
		{"GET", "/redfish/v1/Systems/VF0002A01", "reader", "", 200, `"PowerState": "On"`}, // by the other manager
		{"GET", "/redfish/v1/Managers/VF0002", "reader", "", 200, "EnclosureManager"},
		{"GET", "/redfish/v1/EventService", "reader", "", 200, "ServerSentEventUri"},
		{"GET", "/redfish/v1/Nonsense", "reader", "", 404, "ResourceMissingAtURI"},
		{"POST", "/redfish/v1/Systems/VF0001A01" + reset, "reader", `{"ResetType":"ForceOff"}`, 403, "InsufficientPrivilege"},
		{"POST", "/redfish/v1/Systems/VF0001A01" + reset, "admin", `{"ResetType":"Explode"}`, 400, "ForceRestart"},
		{"POST", "/redfish/v1/Systems/VF0001A01" + reset, "admin", `no`, 400, "MalformedJSON"},
		{"POST", "/redfish/v1/Systems/VF0001A01" + reset, "admin", `{"ResetType":"ForceRestart"}`, 204, ""},
		{"POST", "/redfish/v1/Systems/VF0001A01" + reset, "admin", `{"ResetType":"GracefulShutdown"}`, 204, ""},
		{"POST", "/redfish/v1/Systems/VF0002A01" + reset, "admin", `{"ResetType":"ForceOff"}`, 204, ""},
		{"POST", "/redfish/v1/Systems/VF0002A01" + reset, "admin", `{"ResetType":"ForceRestart"}`, 409, "only On"},
		{"POST", "/redfish/v1/Systems/VF0002A01" + reset, "admin", `{"ResetType":"ForceOff"}`, 204, ""}, // it is off: fine
	} {
		status, body := s.ask(t, c.method, c.path, c.user, c.body)
		if status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s %s %s as %q: %d %s\nwant %d with %s", c.method, c.path, c.body, c.user, status, body, c.status, c.has)
		}
	}
	if diff := cmp.Diff([]string{"reset", "button"}, s.modules[0].did); diff != "" {
		t.Errorf("done to VF0001A01 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"off", "off"}, s.modules[1].did); diff != "" {
		t.Errorf("done to VF0002A01 (-want +got):\n%s", diff)
	}
	if sum := sha256.Sum256(s.managers[0].Certificate()); s.managers[0].Fingerprint() != hex.EncodeToString(sum[:]) {
		t.Error("the fingerprint is not the certificate's")
	}
}

func TestLinkedFramesAnswerForOneAnother(t *testing.T) {
	s := newSite(t, "VF0001", "VF0002", "VF0003")
	if diff := cmp.Diff([]string{"VF0001A01", "VF0002A01", "VF0003A01"}, slices.Sorted(slices.Values(s.members(t, "/redfish/v1/Systems")))); diff != "" {
		t.Errorf("systems (-want +got):\n%s", diff)
	}
	s.managers[1].Close() // its listener too
	if status, body := s.ask(t, "GET", "/redfish/v1/Systems/VF0002A01", "reader", ""); status != 502 || !strings.Contains(body, "frame VF0002") {
		t.Errorf("a system behind a dead manager: %d %s", status, body)
	}
	if diff := cmp.Diff([]string{"VF0001A01", "VF0003A01"}, slices.Sorted(slices.Values(s.members(t, "/redfish/v1/Systems")))); diff != "" {
		t.Errorf("systems with one manager dead (-want +got):\n%s", diff)
	}
}

func TestSessions(t *testing.T) {
	s := newSite(t, "VF0001")
	if status, _ := s.ask(t, "POST", "/redfish/v1/SessionService/Sessions", "", `{"UserName":"admin","Password":"wrong"}`); status != 401 {
		t.Errorf("wrong password: %d", status)
	}
	resp, err := s.clients[0].Post(s.urls[0]+"/redfish/v1/SessionService/Sessions", "application/json", strings.NewReader(`{"UserName":"admin","Password":"secret"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	with := func(method, path string) int {
		req, _ := http.NewRequestWithContext(t.Context(), method, s.urls[0]+path, nil)
		req.Header.Set("X-Auth-Token", resp.Header.Get("X-Auth-Token"))
		r, err := s.clients[0].Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	mine := resp.Header.Get("Location")
	got := []int{resp.StatusCode, with("GET", "/redfish/v1/Chassis"), with("GET", mine), with("DELETE", mine), with("GET", "/redfish/v1/Chassis")}
	if diff := cmp.Diff([]int{201, 200, 200, 204, 401}, got); diff != "" {
		t.Errorf("log-in, use, look, log-out, use (-want +got):\n%s", diff)
	}
}

// stream opens the first manager's event stream.
func (s *site) stream(t *testing.T, last string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", s.urls[0]+"/redfish/v1/EventService/SSE", nil)
	req.SetBasicAuth("reader", "secret")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := s.clients[0].Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	return bufio.NewScanner(resp.Body)
}

// next returns the next event's message id and origin.
func next(t *testing.T, s *bufio.Scanner) string {
	t.Helper()
	for s.Scan() {
		data, ok := strings.CutPrefix(s.Text(), "data: ")
		if !ok {
			continue
		}
		var in struct{ Events []Event }
		if err := json.Unmarshal([]byte(data), &in); err != nil || len(in.Events) != 1 {
			t.Fatalf("event %q: %v", data, err)
		}
		origin, _ := in.Events[0].Origin["@odata.id"].(string)
		return strings.TrimPrefix(in.Events[0].MessageID, registry) + " " + strings.TrimPrefix(origin, root)
	}
	t.Fatalf("the stream ended: %v", s.Err())
	return ""
}

func TestEvents(t *testing.T) {
	s := newSite(t, "VF0001", "VF0002")
	live := s.stream(t, "")
	live.Scan() // the comment that says that one is connected
	s.managers[0].PowerChanged("appliance bay 1", false)
	if got, want := next(t, live), "ResourcePoweredOff /Systems/VF0001A01"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	// The other manager's events arrive when this one has found it.
	waitListeners(t, s.managers[1])
	s.managers[1].PowerChanged("appliance bay 1", true)
	if got, want := next(t, live), "ResourcePoweredOn /Systems/VF0002A01"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	s.managers[0].Changed("appliance bay 1", "disk 2 inserted")
	if got, want := next(t, live), "ResourceChanged /Chassis/VF0001-appliance-bay-1"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	again := s.stream(t, "1")
	for _, want := range []string{"ResourcePoweredOn /Systems/VF0002A01", "ResourceChanged /Chassis/VF0001-appliance-bay-1"} {
		if got := next(t, again); got != want {
			t.Errorf("missed event %q, want %q", got, want)
		}
	}
	s.managers[1].Close()
	if got, want := next(t, live), "ResourceStatusChangedCritical /Managers/VF0002"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
}

// waitListeners waits until a linked manager listens.
func waitListeners(t *testing.T, m *Manager) {
	t.Helper()
	for {
		m.events.mu.Lock()
		n := len(m.events.listeners)
		m.events.mu.Unlock()
		if n > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
