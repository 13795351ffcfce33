package rest

import (
	"encoding/json"
	"net/http"

	"baystream/daemon/domain"
)

// Trouble serves the interface of an appliance that cannot come up: its health,
// as anybody may see it, and for everything else the answer that it is not there.
func Trouble(health func() domain.Health) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rest/baystream/health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, health().Summary())
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body := domain.Explain(domain.Errorf(domain.Unavailable, "appliance", "cannot come up now").
			Fix("See /rest/baystream/health, or the module's serial console, for the reason and what to do."))
		body.ErrorSource, body.Details = r.URL.Path, details(body)
		writeJSON(w, http.StatusServiceUnavailable, body)
	})
	return mux
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
