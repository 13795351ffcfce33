package member

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// ServicePort is where modules call each other (TCP): claims of an unclaimed
// module, and everything between the modules of a domain.
const ServicePort = 7973

// Paths of the calls.
const (
	pathIdentity    = "/member/v1/identity"
	pathRequest     = "/member/v1/request"
	pathJoin        = "/member/v1/join"
	pathRejoin      = "/member/v1/rejoin"
	pathCertificate = "/member/v1/certificate"
	pathAuthority   = "/member/v1/authority"
)

const (
	maxBody  = 1 << 20 // bytes of one call
	callTime = 10 * time.Second
)

// Ticket is what a claimed module gets from its domain.
type Ticket struct {
	Domain      domain.Domain  `json:"domain"`
	Role        string         `json:"role"`
	Certificate []byte         `json:"certificate"` // PEM
	CAs         []byte         `json:"cas"`         // PEM
	Peers       []cluster.Peer `json:"peers"`       // all members, the new one included
}

// Unclaimed is the module's side of a claim.
type Unclaimed struct {
	Module *pki.Module
	Dir    string               // of State
	Self   func() domain.Module // as announced
	// Free says why the module cannot be claimed now, such as that it is set up
	// as a domain of its own; nil: it can.
	Free func(context.Context) error
	Log  *slog.Logger

	mu     sync.Mutex
	joined chan Ticket
	once   sync.Once
}

// Joined delivers the ticket of the claim that succeeded, once; the module
// should then start anew as a member.
func (u *Unclaimed) Joined() <-chan Ticket {
	u.once.Do(func() { u.joined = make(chan Ticket, 1) })
	return u.joined
}

// Handler answers the calls of a domain that claims this module. It belongs
// behind pki.Module.UnclaimedTLS.
func (u *Unclaimed) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathIdentity, answer(func(*http.Request) (any, error) { return u.Self(), nil }))
	mux.HandleFunc("POST "+pathRequest, answer(func(r *http.Request) (any, error) {
		if err := u.Free(r.Context()); err != nil {
			return nil, err
		}
		return u.Module.Request()
	}))
	mux.HandleFunc("POST "+pathJoin, answer(u.join))
	return mux
}

// join makes the module a member. The domain it belongs to is on disk before
// anything else, so that a crash leaves a module that refuses all others.
func (u *Unclaimed) join(r *http.Request) (any, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.Free(r.Context()); err != nil {
		return nil, err
	}
	var t Ticket
	if err := decodeBody(r.Body, &t); err != nil {
		return nil, err
	}
	if t.Domain.ID == "" || len(t.Peers) == 0 {
		return nil, domain.Errorf(domain.Invalid, "ticket", "names no domain or no members")
	}
	have, err := Load(u.Dir)
	if err != nil {
		return nil, err
	}
	if have.Domain != "" && have.Domain != t.Domain.ID {
		return nil, domain.Errorf(domain.Conflict, "module "+u.Self().ID, "belongs to domain %s", have.Name).
			Fix("Reset it to its factory state at its console first.")
	}
	if err := (State{Domain: t.Domain.ID, Name: t.Domain.Name, Role: t.Role, Claimed: true, Peers: t.Peers}).Save(u.Dir); err != nil {
		return nil, err
	}
	if err := u.Module.Install(t.Certificate, t.CAs); err != nil {
		return nil, err
	}
	u.Log.Info("claimed", "domain", t.Domain.Name, "role", t.Role)
	u.Joined()
	select {
	case u.joined <- t:
	default: // of an earlier call, whose answer was lost
	}
	return struct{}{}, nil
}

// answer makes a handler of a call: JSON out, or an error that the caller can
// show.
func answer(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		v, err := do(r)
		status := http.StatusOK
		if err != nil {
			status = map[domain.Kind]int{
				domain.Invalid: http.StatusBadRequest, domain.Forbidden: http.StatusForbidden, domain.NotFound: http.StatusNotFound,
				domain.Conflict: http.StatusConflict, domain.Unavailable: http.StatusServiceUnavailable,
			}[domain.KindOf(err)]
			if status == 0 {
				status = http.StatusInternalServerError
			}
			v = domain.Explain(err)
		}
		b, merr := json.Marshal(v)
		if merr != nil {
			status, b = http.StatusInternalServerError, []byte("{}")
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(b) // a caller that is gone asks again
	}
}

func decodeBody(r io.Reader, into any) error {
	if err := json.NewDecoder(r).Decode(into); err != nil {
		return domain.Errorf(domain.Invalid, "request", "%v", err)
	}
	return nil
}

// call sends one request to a module and decodes the answer.
func call(ctx context.Context, config *tls.Config, address, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return fmt.Errorf("member: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+address+path, &body)
	if err != nil {
		return fmt.Errorf("member: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return &domain.Error{Kind: domain.Unavailable, Object: "module at " + address, Message: "does not answer", Err: err,
			Remedy: []string{"Check its power and its management network."}}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("member: module at %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		var te domain.TaskError
		_ = json.Unmarshal(b, &te) // else the status has to do
		kind := domain.Internal
		switch resp.StatusCode {
		case http.StatusConflict:
			kind = domain.Conflict
		case http.StatusServiceUnavailable:
			kind = domain.Unavailable
		case http.StatusNotFound:
			kind = domain.NotFound
		case http.StatusForbidden:
			kind = domain.Forbidden
		}
		return &domain.Error{Kind: kind, Object: "module at " + address, Message: fmt.Sprintf("refused (%d): %s", resp.StatusCode, te.Message), Remedy: te.RecommendedActions}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// Serve answers calls on ln with h until ctx ends. It closes ln.
func Serve(ctx context.Context, ln net.Listener, config *tls.Config, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{Handler: h, TLSConfig: config, ReadHeaderTimeout: callTime, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true) // raft's streams are made for it
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("member: serve %s: %w", ln.Addr(), err)
	}
	return nil
}
