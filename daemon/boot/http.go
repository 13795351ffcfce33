package boot

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"time"
)

func (s *Service) serveHTTP(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      2 * time.Minute, // a boot program is below 1 MB
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	return srv.Serve(l)
}

// handler has all routes.
func (s *Service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /"+scriptName, s.getScript)
	mux.HandleFunc("GET /{file}", s.getFile)
	return mux
}

// getScript answers with the script for the server that asks. Every answer is
// a script, for a firmware's screen is the only place to show an error.
func (s *Service) getScript(w http.ResponseWriter, r *http.Request) {
	if !r.URL.Query().Has("mac") {
		writeScript(w, askScript(s.cfg))
		return
	}
	seen, err := parseQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	s.cfg.Directory.Seen(ctx, seen)
	srv, err := s.cfg.Directory.ByMAC(ctx, seen.MAC)
	if err != nil {
		s.log.Warn("server cannot be looked up", "mac", seen.MAC.String(), "err", err)
		srv = Server{Reason: "the appliance cannot look it up now"}
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	s.tell(seen.MAC.String(), srv, from.Addr())
	writeScript(w, script(srv, seen, from.Addr().Unmap(), s.cfg))
}

// tell logs what a server was told, if that differs from the last time: a server
// that waits asks every two seconds.
func (s *Service) tell(mac string, srv Server, from netip.Addr) {
	level, news := slog.LevelDebug, fmt.Sprint(srv.ID, srv.Ready, srv.Reason, from)
	s.mu.Lock()
	if s.told[mac] != news {
		level = slog.LevelInfo
		if len(s.told) >= maxTold {
			clear(s.told)
		}
		s.told[mac] = news
	}
	s.mu.Unlock()
	attrs := []any{"mac", mac, "server", srv.Name, "from", from, "ready", srv.Ready}
	if !srv.Ready {
		attrs = append(attrs, "reason", srv.Reason)
	}
	s.log.Log(context.Background(), level, "boot script", attrs...)
}

// maxTold bounds what strangers can make us remember.
const maxTold = 1024

func writeScript(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write([]byte(body))
}

// getFile answers with a boot program. UEFI wants the media type (RFC 2046
// would do, UEFI 2.10 section 24.7.3.1 names this one).
func (s *Service) getFile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if !s.cfg.hasFile(name) {
		http.NotFound(w, r)
		return
	}
	if path.Ext(name) == ".efi" {
		w.Header().Set("Content-Type", "application/efi")
	}
	http.ServeFileFS(w, r, s.cfg.Files, name)
}
