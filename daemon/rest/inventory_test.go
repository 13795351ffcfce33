package rest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"baystream/daemon/domain"
)

// frame is a Hardware that notes what it is asked.
type frame struct {
	asked []string
}

func (*frame) Schema() []byte                           { return []byte(`{"type":"object"}`) }
func (*frame) TPM() any                                 { return map[string]bool{"present": true} }
func (*frame) Events(context.Context) (any, error)      { return []string{"an event"}, nil }
func (*frame) PowerState(uuid, _ string) (string, bool) { return "On", uuid == hardwareUUID }
func (f *frame) SwitchPower(_ context.Context, owner string, h domain.ServerHardware, how PowerChange) (domain.Task, error) {
	f.asked = append(f.asked, owner+" "+h.UUID+" "+string(how))
	var t domain.Task
	t.SetID("t1")
	return t, nil
}

const hardwareUUID = "22222222-3333-4444-5555-666666666666"

func TestHardwareOfAnApplianceWithoutFrame(t *testing.T) {
	g := readyRig(t)
	for _, path := range []string{"/rest/baystream/hw/schema", "/rest/baystream/hw/tpm", "/rest/baystream/hw/events", "/metrics"} {
		g.want(503, "GET", path, nil)
	}
}

func TestHardwareAndPower(t *testing.T) {
	g := readyRig(t)
	f := &frame{}
	g.srv.Hardware = f
	g.want(200, "GET", "/rest/baystream/hw/schema", nil)
	g.want(200, "GET", "/rest/baystream/hw/tpm", nil)
	g.want(200, "GET", "/rest/baystream/hw/events", nil)
	uri := "/rest/server-hardware/" + hardwareUUID
	g.want(201, "POST", "/rest/server-hardware", map[string]any{"uuid": hardwareUUID, "name": "one"})
	if got := g.want(200, "GET", uri, nil).str("powerState"); got != "On" {
		t.Errorf("powerState %q", got)
	}
	for _, tc := range []struct{ state, control, want string }{
		{"On", "MomentaryPress", "On"}, {"On", "", "On"}, {"On", "Reset", "ForceRestart"}, {"On", "ColdBoot", "ForceRestart"},
		{"Off", "MomentaryPress", "GracefulShutdown"}, {"Off", "PressAndHold", "ForceOff"},
	} {
		g.want(202, "PUT", uri+"/powerState", map[string]string{"powerState": tc.state, "powerControl": tc.control})
		if want := rigUser + " " + hardwareUUID + " " + tc.want; f.asked[len(f.asked)-1] != want {
			t.Errorf("%s with %s asks for %q, want %q", tc.state, tc.control, f.asked[len(f.asked)-1], want)
		}
	}
	n := len(f.asked)
	g.want(400, "PUT", uri+"/powerState", map[string]string{"powerState": "Off", "powerControl": "Reset"})
	g.want(404, "PUT", "/rest/server-hardware/none/powerState", map[string]string{"powerState": "On"})
	if len(f.asked) != n {
		t.Errorf("a request that was refused asks for %q", f.asked[n:])
	}
}

func TestMetricsNeedAUser(t *testing.T) {
	g := readyRig(t)
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "baystream_test", Help: "A test."}, func() float64 { return 7 }))
	g.srv.Metrics = r
	g.srv.handler = g.srv.guard(g.srv.routes())
	scrape := func(set func(*http.Request)) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil)
		set(req)
		w := httptest.NewRecorder()
		g.srv.Handler().ServeHTTP(w, req)
		return w
	}
	basic := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("scraper", password) }
	}
	const password = "a long password"
	g.want(201, "POST", "/rest/baystream/users", map[string]string{"userName": "scraper", "password": password, "role": domain.RoleReadOnly})
	check := func(what string, want int, set func(*http.Request)) {
		t.Helper()
		w := scrape(set)
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", what, w.Code, want)
		}
		if good := strings.Contains(w.Body.String(), "baystream_test 7"); good != (want == 200) {
			t.Errorf("%s: %s", what, w.Body)
		}
	}
	check("nobody", 401, func(*http.Request) {})
	check("wrong password", 401, basic("wrong password"))
	check("token", 200, func(r *http.Request) { r.Header.Set("auth", g.token) })
	check("token as bearer", 200, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+g.token) })
	check("wrong token", 401, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") })
	check("password", 200, basic(password))
	check("password, remembered", 200, basic(password))
	if n := strings.Count(g.logged(), `audit: logged in" user=scraper`); n != 1 {
		t.Errorf("%d log-ins of two scrapes", n)
	}
	g.want(204, "DELETE", "/rest/baystream/users/scraper", nil)
	check("a user who is gone", 401, basic(password))
	g.want(201, "POST", "/rest/baystream/users", map[string]string{"userName": "scraper", "password": password + "!", "role": domain.RoleReadOnly})
	check("the old password", 401, basic(password))
	g.advance(2 * time.Minute) // failures are forgotten
	check("the new password", 200, basic(password+"!"))
}
