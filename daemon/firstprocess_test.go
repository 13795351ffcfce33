package daemon

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/domain"
	"baystream/daemon/inventory"
)

func TestHealthTellsWhatTheFirstProcessKnows(t *testing.T) {
	for _, tc := range []struct{ name, status, part, want string }{
		{"well", `{"watchdog":{"identity":"IPMI","timeout_sec":60}}`, "watchdog", domain.StatusOK},
		{"no watchdog", `{}`, "watchdog", domain.StatusWarning},
		{"not fed", `{"watchdog":{"identity":"IPMI","starving":"stuck"}}`, "watchdog", domain.StatusCritical},
		{"a crash", `{"crashes":1,"uptime_sec":100}`, "kernel", domain.StatusWarning},
		{"a crash long ago", `{"crashes":1,"uptime_sec":1e6}`, "kernel", ""},
		{"a step failed", `{"steps":[{"name":"s","error":"no"}]}`, "boot step s", domain.StatusCritical},
		{"an optional step failed", `{"steps":[{"name":"s","error":"no","optional":true}]}`, "boot step s", ""},
		{"given up", `{"services":[{"name":"console","state":"maintenance"}]}`, "service console", domain.StatusWarning},
		{"running", `{"services":[{"name":"console","state":"running"}]}`, "service console", ""},
	} {
		var s initStatus
		if err := json.Unmarshal([]byte(tc.status), &s); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, p := range s.parts() {
			if p.Name == tc.part {
				got = p.Status
			}
		}
		if got != tc.want {
			t.Errorf("%s: %s is %q, want %q", tc.name, tc.part, got, tc.want)
		}
	}
}

func TestInventoryTellsTheWatchdog(t *testing.T) {
	for _, tc := range []struct {
		status string
		want   *inventory.Watchdog
	}{
		{`{}`, nil},
		{`{"watchdog":{"identity":"IPMI","device":"/dev/watchdog","timeout_sec":60}}`, &inventory.Watchdog{Kind: "controller", Identity: "IPMI", Device: "/dev/watchdog", TimeoutSeconds: 60, Armed: true}},
		{`{"watchdog":{"identity":"i6300ESB timer","timeout_sec":12,"starving":"stuck"}}`, &inventory.Watchdog{Kind: "chip set", Identity: "i6300ESB timer", TimeoutSeconds: 12, Problem: "stuck"}},
		{`{"watchdog":{"identity":"Software Watchdog"}}`, &inventory.Watchdog{Kind: "kernel", Identity: "Software Watchdog", Armed: true}},
	} {
		var s initStatus
		if err := json.Unmarshal([]byte(tc.status), &s); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, s.watchdog()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.status, diff)
		}
	}
}
