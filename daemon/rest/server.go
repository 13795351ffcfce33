// Package rest serves the appliance's interface over HTTPS: the one of the
// Image Streamer and the part of OneView that its clients need, so that
// existing automation works unchanged, and below /rest/baystream what is ours.
// docs/api.md in this repository describes it.
//
// A request passes, in this order: limits and panic guard, path clean-up, the
// route table (routes.go), the version header, the token, the role; then a
// handler decodes it, calls one method of the store, the Library, the Deployer
// or the Appliance, and encodes the answer. Errors travel as domain.Errors and
// become a status and the interface's error body in one place (errors.go).
//
// Rest owns users and sessions; everything else belongs to who it calls. A
// Server is safe for concurrent use.
package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
)

// Config is what a Server stands on. Every field is needed but Network, Hardware, Metrics, SetupCode, Now and UsersChanged.
type Config struct {
	Store     *cluster.Store
	Library   Library
	Deployer  Deployer
	Appliance Appliance
	Network   Network             // nil where the network is not the appliance's to change
	Hardware  Hardware            // nil where there is no frame
	Metrics   prometheus.Gatherer // nil: none are served
	Info      func() Info
	// Attributes extracts the custom attributes from a plan script's text.
	Attributes func(content string) ([]domain.ScriptAttribute, error)
	CA         []byte // the domain's CA certificate, PEM; served to anybody
	// Membership is the domain and its modules; nil on a host that can be in none.
	Membership Membership
	Lead       func() Leadership // nil: this appliance is always the active one
	SetupCode  string            // makes the first administrator; void once there is one; empty: no set-up over REST
	Log        *slog.Logger
	Now        func() time.Time // time.Now if nil
	// UsersChanged, if not nil, is called after each change of users.
	UsersChanged func()
}

// Server serves the interface.
type Server struct {
	Config
	handler    http.Handler
	sessions   *sessions
	hasher     *hasher
	scrapers   *scrapers
	logins     *limiter
	setups     *limiter
	setupMark  *cluster.Value[setupDone]
	userChange sync.Mutex // held while users are deleted
	patience   time.Duration
}

// New makes a Server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.UsersChanged == nil {
		cfg.UsersChanged = func() {}
	}
	s := &Server{
		Config: cfg, sessions: newSessions(cfg.Store, cfg.Now), hasher: newHasher(), scrapers: newScrapers(cfg.Now),
		logins: newLimiter(cfg.Now), setups: newLimiter(cfg.Now),
		setupMark: cluster.NewValue[setupDone](cfg.Store.Client, "setup"), patience: leadPatience,
	}
	s.handler = s.guard(s.standby(s.routes()))
	return s
}

// Handler returns the whole interface.
func (s *Server) Handler() http.Handler { return s.handler }

// Limits of one connection. Streams have their own deadlines (stream.go).
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10 // bytes
	closeTimeout  = 5 * time.Second
)

// Serve answers on ln with TLS until ctx ends, then lets requests under way
// finish for a few seconds. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener, config *tls.Config) error {
	config = config.Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12) // the final clients pin exactly 1.2
	return s.serve(ctx, ln, config)
}

// ServeLocal answers on ln in clear until ctx ends: for this machine's own
// console.
func (s *Server) ServeLocal(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, nil)
}

func (s *Server) serve(ctx context.Context, ln net.Listener, config *tls.Config) error {
	srv := &http.Server{
		Handler:           s.handler,
		TLSConfig:         config,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(logWriter{s.Log}, "", 0),
		ConnContext:       connContext,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	fresh := newcomers{conns: map[net.Conn]bool{}}
	srv.ConnState = fresh.note
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	done, served := make(chan error, 1), make(chan struct{})
	go func() {
		<-ctx.Done()
		ln.Close() // who comes now waits for the next daemon
		<-served
		fresh.wait()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			done <- srv.Close()
			return
		}
		done <- nil
	}()
	serve := srv.Serve
	if config != nil {
		serve = func(ln net.Listener) error { return srv.ServeTLS(ln, "", "") }
	}
	err := serve(ln)
	close(served)
	if !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		return fmt.Errorf("rest: serve %s: %w", ln.Addr(), err)
	}
	return <-done
}

// newcomers are connections that have not asked anything yet. Package net/http
// drops them when it shuts down; but the next daemon may be on its way, and who
// got through is to be answered by one of the two.
type newcomers struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
}

// newcomerTime is how long one may take for its handshake and its request.
const newcomerTime = 3 * time.Second

// note is a http.Server's ConnState.
func (n *newcomers) note(c net.Conn, state http.ConnState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if state == http.StateNew {
		n.conns[c] = true
		return
	}
	delete(n.conns, c)
}

// wait waits until none is left.
func (n *newcomers) wait() {
	left := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.conns)
	}
	for end := time.Now().Add(newcomerTime); left() > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}

// logWriter takes what net/http says about broken connections.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("http server", "msg", string(p))
	return len(p), nil
}
