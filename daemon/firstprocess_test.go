package daemon

import (
	"encoding/json"
	"testing"

	"baystream/daemon/domain"
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
