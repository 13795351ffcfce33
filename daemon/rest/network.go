package rest

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"time"

	"baystream/daemon/domain"
)

// Network changes the appliance's own network.
type Network interface {
	NetworkSettings() domain.NetSettings
	// ChangeNetwork puts other management settings on trial.
	ChangeNetwork(context.Context, domain.NetChange) (domain.NetTrial, error)
	// ConfirmNetwork ends a trial: at is the appliance's address that the request
	// came in on, connected when its connection was made.
	ConfirmNetwork(at netip.Addr, connected time.Time) error
}

// connectedKey holds when a connection was made, in its requests' contexts.
type connectedKey struct{}

func connContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectedKey{}, time.Now())
}

func (s *Server) network() (Network, error) {
	if s.Network == nil {
		return nil, domain.Errorf(domain.Unsupported, "network", "of this host is not the appliance's to change").
			Fix("Change it with the tools of the host.")
	}
	return s.Network, nil
}

func (s *Server) networkSettings(w http.ResponseWriter, r *http.Request) error {
	n, err := s.network()
	if err != nil {
		return err
	}
	return s.ok(w, n.NetworkSettings())
}

func (s *Server) changeNetwork(w http.ResponseWriter, r *http.Request) error {
	n, err := s.network()
	if err != nil {
		return err
	}
	var c domain.NetChange
	if err := decode(w, r, &c); err != nil {
		return err
	}
	trial, err := n.ChangeNetwork(r.Context(), c)
	if err != nil {
		return err
	}
	w.Header().Set("Connection", "close") // the address may be gone for the next request
	s.encode(w, http.StatusAccepted, trial)
	return nil
}

// confirmNetwork ends a trial, if the request shows that the appliance can be
// reached as it is set now.
func (s *Server) confirmNetwork(w http.ResponseWriter, r *http.Request) error {
	n, err := s.network()
	if err != nil {
		return err
	}
	var at netip.Addr
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		at = a.AddrPort().Addr()
	}
	connected, _ := r.Context().Value(connectedKey{}).(time.Time)
	if err := n.ConfirmNetwork(at, connected); err != nil {
		return err
	}
	return s.ok(w, n.NetworkSettings())
}
