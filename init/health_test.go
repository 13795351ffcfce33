package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	well := Reply{OK: true, Services: []ServiceStatus{{Name: "a", State: stateRunning}}, Watchdog: &WatchdogStatus{Identity: "IPMI"}}
	for _, tc := range []struct {
		name   string
		change func(*Reply)
		err    error
		status string
		what   string // of the problem
	}{
		{"well", func(*Reply) {}, nil, "OK", ""},
		{"an optional step failed", func(r *Reply) { r.Steps = []StepStatus{{Name: "s", Optional: true, Error: "no"}} }, nil, "OK", ""},
		{"a step failed", func(r *Reply) { r.Steps = []StepStatus{{Name: "s", Error: "no", Remedy: "do"}} }, nil, "Maintenance", "boot step s"},
		{"a service starts", func(r *Reply) { r.Services[0].State = stateStarting }, nil, "Starting", "service a"},
		{"a service was given up", func(r *Reply) { r.Services[0].State = stateMaintenance }, nil, "Maintenance", "service a"},
		{"part of a service fails", func(r *Reply) { r.Services[0].Problems = []Problem{{"data disk", "none", "insert one"}} }, nil, "Critical", "data disk"},
		{"it starts and part of it fails", func(r *Reply) {
			r.Services[0].State, r.Services[0].Problems = stateStarting, []Problem{{"data disk", "none", "insert one"}}
		}, nil, "Starting", "service a"},
		{"not fed", func(r *Reply) { r.Watchdog = &WatchdogStatus{Starving: "ill"} }, nil, "Maintenance", "watchdog"},
		{"nobody answers", func(*Reply) {}, errors.New("does not answer"), "Maintenance", "first process"},
	} {
		r := well
		r.Services = append([]ServiceStatus(nil), well.Services...)
		tc.change(&r)
		h := healthOf(r, tc.err)
		what := ""
		if len(h.Problems) > 0 {
			what = h.Problems[0].What
		}
		if h.Status != tc.status || what != tc.what {
			t.Errorf("%s: %+v, want %s %q", tc.name, h, tc.status, tc.what)
		}
	}
}

func TestHealthOverHTTP(t *testing.T) {
	ask := func() (Reply, error) {
		return Reply{OK: true, Services: []ServiceStatus{{Name: "a", State: stateMaintenance}}}, nil
	}
	for _, tc := range []struct{ request, want string }{
		{"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 503 "},
		{"HEAD /health HTTP/1.1\r\n\r\n", "HTTP/1.1 503 "},
		{"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 404 "},
		{"POST /health HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "},
		{"GET /health HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 10000) + "\r\n", ""}, // too much
		{strings.Repeat("x", 2*healthHead), ""},
		{"\n\n", "HTTP/1.1 405 "},
	} {
		here, there := net.Pipe()
		go func() {
			answerHealth(there, ask)
			there.Close()
		}()
		go io.WriteString(here, tc.request)
		b, _ := io.ReadAll(here)
		got := string(b)
		if tc.want == "" && got != "" || !strings.HasPrefix(got, tc.want) {
			t.Errorf("%.40q: %.60q, want %q", tc.request, got, tc.want)
		}
		if _, body, _ := strings.Cut(got, "\r\n\r\n"); strings.HasPrefix(tc.request, "GET /health") && tc.want != "" {
			var h Health
			if err := json.Unmarshal([]byte(body), &h); err != nil || h.Status != "Maintenance" {
				t.Errorf("body %q: %v", body, err)
			}
		}
		here.Close()
	}
}
