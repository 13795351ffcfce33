package rest

import (
	"context"
	"net/http"

	"golang.org/x/sync/errgroup"

	"baystream/daemon/domain"
)

// state reads all that can use an artifact.
func (s *Server) state(ctx context.Context) (domain.State, error) {
	var st domain.State
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { st.BuildPlans, err = s.Store.BuildPlans.List(ctx); return })
	g.Go(func() (err error) { st.DeploymentPlans, err = s.Store.DeploymentPlans.List(ctx); return })
	g.Go(func() (err error) { st.Profiles, err = s.Store.ServerProfiles.List(ctx); return })
	g.Go(func() (err error) { st.Volumes, err = s.Store.OSVolumes.List(ctx); return })
	return st, g.Wait()
}

// lookup finds artifacts for the rules of the domain.
func (s *Server) lookup(ctx context.Context) domain.Lookup {
	return domain.Lookup{
		PlanScript:     func(id string) (domain.PlanScript, error) { return s.Store.PlanScripts.Get(ctx, id) },
		BuildPlan:      func(id string) (domain.BuildPlan, error) { return s.Store.BuildPlans.Get(ctx, id) },
		GoldenImage:    func(id string) (domain.GoldenImage, error) { return s.Store.GoldenImages.Get(ctx, id) },
		DeploymentPlan: func(id string) (domain.DeploymentPlan, error) { return s.Store.DeploymentPlans.Get(ctx, id) },
	}
}

// created answers a new entity.
func (s *Server) created(w http.ResponseWriter, uri string, v any) error {
	w.Header().Set("Location", uri)
	s.encode(w, http.StatusCreated, v)
	return nil
}

func (s *Server) gone(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// eTag is the one that a request wants to change: the header If-Match, else
// the body's.
func eTag(r *http.Request, body string) string {
	if h := r.Header.Get("If-Match"); h != "" {
		return h
	}
	return body
}
