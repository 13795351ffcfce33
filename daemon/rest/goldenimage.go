package rest

import (
	"cmp"
	"net/http"

	"baystream/daemon/domain"
)

func (s *Server) goldenImage(st domain.State) func(domain.GoldenImage) domain.GoldenImage {
	return func(g domain.GoldenImage) domain.GoldenImage {
		g.DependentArtifacts = dependents(st.DeploymentPlansWith(g.ID), func(p domain.DeploymentPlan) domain.Resource { return p.Resource })
		for _, v := range st.VolumesOf(g.ID) {
			g.DependentArtifacts = append(g.DependentArtifacts, domain.Dependent{Name: v.Name, URI: v.URI, ServerIQN: v.InitiatorIQN})
		}
		return viewGoldenImage(g)
	}
}

func (s *Server) listGoldenImages(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.GoldenImages.List(r.Context())
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	return serveList(s, w, r, "golden-images", domain.GoldenImages, views(all, s.goldenImage(st)))
}

func (s *Server) getGoldenImage(w http.ResponseWriter, r *http.Request) error {
	g, err := s.Store.GoldenImages.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	return s.ok(w, s.goldenImage(st)(g))
}

// createGoldenImage captures when it gets JSON, and takes an upload otherwise.
func (s *Server) createGoldenImage(w http.ResponseWriter, r *http.Request) error {
	if isJSON(r) {
		return s.captureGoldenImage(w, r)
	}
	return s.receive(w, r, func(u upload) (domain.Task, error) {
		name := cmp.Or(u.Name, u.Filename)
		if err := domain.CheckName("golden image", name); err != nil {
			return domain.Task{}, err
		}
		if _, err := s.Store.GoldenImages.ByName(r.Context(), name); domain.KindOf(err) != domain.NotFound {
			if err == nil {
				err = domain.Errorf(domain.Conflict, "golden image "+name, "exists already").
					Fix("Choose another name, or delete the existing one.")
			}
			return domain.Task{}, err
		}
		return s.Library.UploadGoldenImage(r.Context(), owner(r), name, u.Description, cmp.Or(u.Filename, name), u)
	})
}

func (s *Server) captureGoldenImage(w http.ResponseWriter, r *http.Request) error {
	var sent struct {
		Name, Description string
		ImageCapture      bool
		OSVolumeURI       string `json:"osVolumeURI"`
		BuildPlanURI      string `json:"buildPlanUri"`
	}
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	if !sent.ImageCapture || sent.OSVolumeURI == "" {
		return domain.Errorf(domain.Invalid, "golden image "+sent.Name, "has no source").
			Fix("Send imageCapture true and an osVolumeURI, or upload a file as multipart/form-data.")
	}
	if err := domain.CheckName("golden image", sent.Name); err != nil {
		return err
	}
	id, err := domain.IDFromURI(domain.OSVolumes, sent.OSVolumeURI)
	if err != nil {
		return err
	}
	if _, err := s.Store.OSVolumes.Get(r.Context(), id); err != nil {
		return err
	}
	if sent.BuildPlanURI != "" {
		id, err := domain.IDFromURI(domain.BuildPlans, sent.BuildPlanURI)
		if err != nil {
			return err
		}
		if _, err := s.Store.BuildPlans.Get(r.Context(), id); err != nil {
			return err
		}
	}
	t, err := s.Library.CaptureGoldenImage(r.Context(), owner(r), CaptureRequest{
		Name: sent.Name, Description: sent.Description, OSVolumeURI: sent.OSVolumeURI, BuildPlanURI: sent.BuildPlanURI,
	})
	return s.accepted(w, t, err)
}

func (s *Server) updateGoldenImage(w http.ResponseWriter, r *http.Request) error {
	var sent domain.GoldenImage
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	g, err := s.Store.GoldenImages.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := s.Store.GoldenImages.CheckETag(g, eTag(r, sent.ETag)); err != nil {
		return err
	}
	if g.ReadOnly {
		return domain.Errorf(domain.Forbidden, "golden image "+g.Name, "is read-only").Fix("Upload a copy under another name.")
	}
	g.Name, g.Description = sent.Name, sent.Description
	if err := domain.CheckName("golden image", g.Name); err != nil {
		return err
	}
	t, err := s.Library.UpdateGoldenImage(r.Context(), owner(r), g)
	return s.accepted(w, t, err)
}

func (s *Server) deleteGoldenImage(w http.ResponseWriter, r *http.Request) error {
	g, err := s.Store.GoldenImages.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	if err := domain.MayDeleteGoldenImage(g, st); err != nil {
		return err
	}
	t, err := s.Library.DeleteGoldenImage(r.Context(), owner(r), g.ID)
	return s.accepted(w, t, err)
}

func (s *Server) downloadGoldenImage(w http.ResponseWriter, r *http.Request) error {
	f, name, err := s.Library.OpenGoldenImage(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, f, name, "application/zip")
}

func (s *Server) goldenImageLog(w http.ResponseWriter, r *http.Request) error {
	g, err := s.Store.GoldenImages.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	logs, ok := s.Library.(CaptureLogs)
	if !ok || !g.ImageCapture {
		return domain.Errorf(domain.NotFound, "capture log of golden image "+g.Name, "does not exist").
			Fix("Only an image captured from an OS volume has one.")
	}
	f, err := logs.CaptureLog(r.Context(), g.ID)
	if err != nil {
		return err
	}
	return s.send(w, r, f, g.ID+".log", "text/plain; charset=utf-8")
}
