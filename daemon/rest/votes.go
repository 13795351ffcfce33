package rest

import (
	"context"
	"net/http"

	"baystream/daemon/domain"
)

// Membership is the domain and its modules.
type Membership interface {
	Votes(ctx context.Context) (domain.VotesReport, error)
	Domain(ctx context.Context) (domain.Domain, bool, error)
	CreateDomain(ctx context.Context, name string) (domain.Domain, error)
	Modules(ctx context.Context) ([]domain.Module, error)
	Claim(ctx context.Context, req domain.ClaimRequest, user string) (domain.Module, []string, error)
	RemoveModule(ctx context.Context, id string) error
	HandOver(ctx context.Context, to string) error
	// MoveGroup has a storage group served by a module, or at its home.
	MoveGroup(ctx context.Context, name, to string) (domain.VoteGroup, error)
}

// membership is what the Config has, or an error that says that this appliance
// is none that can be in a domain.
func (s *Server) membership() (Membership, error) {
	if s.Membership == nil {
		return nil, domain.Errorf(domain.Unavailable, "domain", "is not served by this host").
			Fix("Use an appliance in a frame; this host runs the development configuration.")
	}
	return s.Membership, nil
}

func (s *Server) votes(w http.ResponseWriter, r *http.Request) error {
	return s.withVotes(r, func(v domain.VotesReport) error { return s.ok(w, v) })
}

// storageGroups are where the storage groups are.
func (s *Server) storageGroups(w http.ResponseWriter, r *http.Request) error {
	return s.withVotes(r, func(v domain.VotesReport) error { return s.ok(w, v.Groups) })
}

func (s *Server) withVotes(r *http.Request, answer func(domain.VotesReport) error) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	v, err := m.Votes(r.Context())
	if err != nil {
		return err
	}
	return answer(v)
}

// handOver moves management to the other appliance.
func (s *Server) handOver(w http.ResponseWriter, r *http.Request) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	var req struct {
		To string `json:"to"` // id of the module; empty: whoever can
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if err := m.HandOver(r.Context(), req.To); err != nil {
		return err
	}
	s.Log.Info("audit: management handed over", "to", req.To, "by", owner(r), "source", source(r))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// moveGroup has a storage group served by another appliance, as a planned step.
func (s *Server) moveGroup(w http.ResponseWriter, r *http.Request) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	var req struct {
		To string `json:"to"` // id of the module, or "home"
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	name := r.PathValue("name")
	g, err := m.MoveGroup(r.Context(), name, req.To)
	if err != nil {
		return err
	}
	s.Log.Info("audit: storage group moved", "group", name, "to", req.To, "by", owner(r), "source", source(r))
	return s.ok(w, g)
}
