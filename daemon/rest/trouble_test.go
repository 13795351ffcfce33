package rest

import (
	"net/http/httptest"
	"strings"
	"testing"

	"baystream/daemon/domain"
)

func TestApplianceInTroubleSaysWhatToDo(t *testing.T) {
	h := Trouble(func() domain.Health {
		return domain.Health{Status: "Critical", Parts: []domain.HealthPart{{Name: "data disk", Status: "OK"}, {Name: "domain state", Status: "Critical", Detail: "wal of x: broken", Remedy: "Restore it."}}}
	})
	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"/rest/baystream/health": {200, `{"status":"Critical","parts":[{"name":"domain state","status":"Critical","detail":"","remedy":"Restore it."}]}`},
		"/rest/os-volumes":       {503, "/rest/baystream/health"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want.status || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("GET %s = %d %s, want %d with %s", path, w.Code, w.Body, want.status, want.text)
		}
	}
}
