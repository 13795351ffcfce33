package rest

import (
	"net/http"

	"baystream/daemon/domain"
)

// modules is the list of the domain's modules and of those that announce
// themselves.
type modules struct {
	Total   int             `json:"total"`
	Members []domain.Module `json:"members"`
}

func (s *Server) listModules(w http.ResponseWriter, r *http.Request) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	all, err := m.Modules(r.Context())
	if err != nil {
		return err
	}
	if all == nil {
		all = []domain.Module{}
	}
	return s.ok(w, modules{len(all), all})
}

// claimed is the answer to a claim.
type claimed struct {
	domain.Module
	Warnings []string `json:"warnings"`
}

func (s *Server) claimModule(w http.ResponseWriter, r *http.Request) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	var req domain.ClaimRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if _, ok, err := m.Domain(r.Context()); err != nil || !ok {
		if err == nil {
			err = domain.Errorf(domain.Conflict, "claim", "there is no domain yet that a module could join").
				Fix("Create it with bayctl domain create NAME.")
		}
		return err
	}
	mod, warnings, err := m.Claim(r.Context(), req, owner(r))
	if err != nil {
		s.Log.Warn("audit: claim refused", "module", req.ID, "address", req.Address, "by", owner(r), "source", source(r), "err", err)
		return err
	}
	s.Log.Info("audit: module claimed", "module", mod.ID, "role", mod.Role, "by", owner(r), "source", source(r))
	if warnings == nil {
		warnings = []string{}
	}
	s.encode(w, http.StatusAccepted, claimed{mod, warnings})
	return nil
}

func (s *Server) removeModule(w http.ResponseWriter, r *http.Request) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	if err := m.RemoveModule(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	s.Log.Info("audit: module removed", "module", r.PathValue("id"), "by", owner(r), "source", source(r))
	w.WriteHeader(http.StatusNoContent)
	return nil
}
