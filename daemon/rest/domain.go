package rest

import (
	"net/http"
	"strconv"

	"baystream/daemon/domain"
)

func (s *Server) getDomain(w http.ResponseWriter, r *http.Request) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	d, ok, err := m.Domain(r.Context())
	if err != nil {
		return err
	}
	if !ok {
		return domain.Errorf(domain.NotFound, "domain", "was not created: this appliance stands alone").
			Fix("Create it with bayctl domain create NAME.")
	}
	return s.ok(w, d)
}

// createDomain makes this appliance the first of a domain, which others can
// then be claimed for.
func (s *Server) createDomain(w http.ResponseWriter, r *http.Request) error {
	m, err := s.membership()
	if err != nil {
		return err
	}
	var req struct {
		Name string `json:"name"`
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if err := domain.CheckName("domain", req.Name); err != nil {
		return err
	}
	have, ok, err := m.Domain(r.Context())
	if err != nil {
		return err
	}
	if ok {
		return domain.Errorf(domain.Conflict, "domain "+strconv.Quote(have.Name), "exists already; this appliance belongs to it").
			Fix("Go on with bayctl appliance claim.")
	}
	d, err := m.CreateDomain(r.Context(), req.Name)
	if err != nil {
		return err
	}
	s.Log.Info("audit: domain created", "domain", d.Name, "by", owner(r), "source", source(r))
	s.encode(w, http.StatusCreated, d)
	return nil
}
