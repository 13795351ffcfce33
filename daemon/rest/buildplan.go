package rest

import (
	"net/http"

	"baystream/daemon/domain"
)

func (s *Server) buildPlan(r *http.Request, st domain.State) func(domain.BuildPlan) buildPlanView {
	return func(p domain.BuildPlan) buildPlanView {
		p.DependentArtifacts = dependents(st.DeploymentPlansOf(p.BuildPlanID), func(d domain.DeploymentPlan) domain.Resource { return d.Resource })
		return viewBuildPlan(p, callerOf(r).version)
	}
}

func (s *Server) listBuildPlans(w http.ResponseWriter, r *http.Request) error {
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	return serveList(s, w, r, "build-plans", domain.BuildPlans, views(st.BuildPlans, s.buildPlan(r, st)))
}

func (s *Server) getBuildPlan(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.BuildPlans.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.showBuildPlan(w, r, p)
}

func (s *Server) showBuildPlan(w http.ResponseWriter, r *http.Request, p domain.BuildPlan) error {
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	return s.ok(w, s.buildPlan(r, st)(p))
}

// takeBuildPlan makes what is stored out of what was sent.
func (s *Server) takeBuildPlan(r *http.Request, old, sent domain.BuildPlan) (domain.BuildPlan, error) {
	had := old.CustomAttributes
	old.Name, old.Description, old.OEBuildPlanType = sent.Name, sent.Description, sent.OEBuildPlanType
	old.BuildStep = sent.BuildStep
	old.CustomAttributes = domain.KeepSecrets(sent.CustomAttributes, had)
	return domain.CheckBuildPlan(old, s.lookup(r.Context()))
}

func (s *Server) createBuildPlan(w http.ResponseWriter, r *http.Request) error {
	var sent domain.BuildPlan
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	p, err := s.takeBuildPlan(r, domain.BuildPlan{Resource: domain.Resource{Status: domain.StatusOK}}, sent)
	if err != nil {
		return err
	}
	if p, err = s.Store.BuildPlans.Create(r.Context(), p); err != nil {
		return err
	}
	return s.created(w, p.URI, viewBuildPlan(p, callerOf(r).version))
}

func (s *Server) updateBuildPlan(w http.ResponseWriter, r *http.Request) error {
	var sent domain.BuildPlan
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	p, err := s.Store.BuildPlans.Update(r.Context(), r.PathValue("id"), func(p *domain.BuildPlan) error {
		if err := s.Store.BuildPlans.CheckETag(*p, eTag(r, sent.ETag)); err != nil {
			return err
		}
		if err := domain.MayChangeBuildPlan(*p, st); err != nil {
			return err
		}
		changed, err := s.takeBuildPlan(r, *p, sent)
		*p = changed
		return err
	})
	if err != nil {
		return err
	}
	return s.showBuildPlan(w, r, p)
}

func (s *Server) deleteBuildPlan(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.BuildPlans.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	if err := domain.MayDeleteBuildPlan(p, st); err != nil {
		return err
	}
	if err := s.Store.BuildPlans.Delete(r.Context(), p.BuildPlanID); err != nil {
		return err
	}
	return s.gone(w)
}
