package rest

import (
	"context"
	"net/http"
	"strconv"

	"baystream/daemon/domain"
)

func (s *Server) listDeploymentPlans(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.DeploymentPlans.List(r.Context())
	if err != nil {
		return err
	}
	return serveList(s, w, r, "deployment-plans", domain.DeploymentPlans, views(all, func(p domain.DeploymentPlan) domain.DeploymentPlan {
		return viewDeploymentPlan(p, callerOf(r).version)
	}))
}

func (s *Server) getDeploymentPlan(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.DeploymentPlans.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.ok(w, viewDeploymentPlan(p, callerOf(r).version))
}

// takeDeploymentPlan makes what is stored out of what was sent.
func (s *Server) takeDeploymentPlan(r *http.Request, old, sent domain.DeploymentPlan) (domain.DeploymentPlan, error) {
	had := old.CustomAttributes
	old.Name, old.Description = sent.Name, sent.Description
	old.GoldenImageURI, old.OEBuildPlanURI = sent.GoldenImageURI, sent.OEBuildPlanURI
	old.CustomAttributes = domain.KeepSecrets(sent.CustomAttributes, had)
	return domain.CheckDeploymentPlan(old, s.lookup(r.Context()))
}

func (s *Server) createDeploymentPlan(w http.ResponseWriter, r *http.Request) error {
	var sent domain.DeploymentPlan
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	p, err := s.takeDeploymentPlan(r, domain.DeploymentPlan{Resource: domain.Resource{Status: domain.StatusOK}}, sent)
	if err != nil {
		return err
	}
	if p, err = s.Store.DeploymentPlans.Create(r.Context(), p); err != nil {
		return err
	}
	return s.created(w, p.URI, viewDeploymentPlan(p, callerOf(r).version))
}

func (s *Server) updateDeploymentPlan(w http.ResponseWriter, r *http.Request) error {
	var sent domain.DeploymentPlan
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	p, err := s.Store.DeploymentPlans.Update(r.Context(), r.PathValue("id"), func(p *domain.DeploymentPlan) error {
		if err := s.Store.DeploymentPlans.CheckETag(*p, eTag(r, sent.ETag)); err != nil {
			return err
		}
		if err := domain.MayChangeDeploymentPlan(*p, st); err != nil {
			return err
		}
		changed, err := s.takeDeploymentPlan(r, *p, sent)
		*p = changed
		return err
	})
	if err != nil {
		return err
	}
	return s.ok(w, viewDeploymentPlan(p, callerOf(r).version))
}

func (s *Server) deleteDeploymentPlan(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.DeploymentPlans.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	if err := domain.MayChangeDeploymentPlan(p, st); err != nil {
		return err
	}
	if err := s.Store.DeploymentPlans.Delete(r.Context(), p.ID); err != nil {
		return err
	}
	return s.gone(w)
}

// usedBy is who uses a deployment plan.
type usedBy struct {
	Category string             `json:"category"`
	URI      string             `json:"uri"`
	Count    int                `json:"count"`
	Total    int                `json:"total"`
	Members  []domain.Dependent `json:"members"`
}

func (s *Server) deploymentPlanUsedBy(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.DeploymentPlans.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	users := dependents(st.ProfilesWith(p.ID), func(p domain.ServerProfile) domain.Resource { return p.Resource })
	return s.ok(w, usedBy{"server-profiles", p.URI + "/usedby", len(users), len(users), users})
}

// mib renders bytes as whole MiB, rounded up.
func mib(bytes int64) string { return strconv.FormatInt((bytes+1<<20-1)>>20, 10) }

// osdp is a deployment plan as OneView sees it.
func (s *Server) osdp(ctx context.Context, p domain.DeploymentPlan) (domain.OSDeploymentPlan, error) {
	var image domain.GoldenImage
	if p.GoldenImageURI != "" {
		id, err := domain.IDFromURI(domain.GoldenImages, p.GoldenImageURI)
		if err == nil {
			image, err = s.Store.GoldenImages.Get(ctx, id)
		}
		if err != nil && domain.KindOf(err) != domain.NotFound {
			return domain.OSDeploymentPlan{}, err
		}
	}
	return viewOSDP(p, image, s.Info()), nil
}

func (s *Server) getOSDP(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.DeploymentPlans.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	o, err := s.osdp(r.Context(), p)
	if err != nil {
		return err
	}
	return s.ok(w, o)
}

func (s *Server) listOSDPs(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.DeploymentPlans.List(r.Context())
	if err != nil {
		return err
	}
	out := make([]domain.OSDeploymentPlan, 0, len(all))
	for _, p := range all {
		o, err := s.osdp(r.Context(), p)
		if err != nil {
			return err
		}
		out = append(out, o)
	}
	return serveList(s, w, r, "os-deployment-plans", domain.OSDeploymentPlans, out)
}
