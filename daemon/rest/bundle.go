package rest

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"baystream/daemon/domain"
)

func (s *Server) listBundles(w http.ResponseWriter, r *http.Request) error {
	return s.bundles(w, r, "artifact-bundles", domain.ArtifactBundles, func(b domain.ArtifactBundle) bool { return !b.BackupService })
}

func (s *Server) bundles(w http.ResponseWriter, r *http.Request, category, uri string, want func(domain.ArtifactBundle) bool) error {
	all, err := s.Store.ArtifactBundles.List(r.Context())
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(b domain.ArtifactBundle) bool { return !want(b) })
	return serveList(s, w, r, category, uri, views(all, viewBundle))
}

func (s *Server) getBundle(w http.ResponseWriter, r *http.Request) error {
	b, err := s.Store.ArtifactBundles.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.ok(w, viewBundle(b))
}

// createBundle makes a bundle of artifacts when it gets JSON, and takes an
// upload otherwise.
func (s *Server) createBundle(w http.ResponseWriter, r *http.Request) error {
	if !isJSON(r) {
		return s.receive(w, r, func(u upload) (domain.Task, error) {
			return s.Library.UploadBundle(r.Context(), owner(r), cmp.Or(u.Filename, u.Name), u)
		})
	}
	var req CreateBundleRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if err := domain.CheckName("artifact bundle", req.Name); err != nil {
		return err
	}
	if len(req.PlanScripts)+len(req.BuildPlans)+len(req.DeploymentPlans)+len(req.GoldenImages) == 0 {
		return domain.Errorf(domain.Invalid, "artifact bundle "+req.Name, "would be empty").
			Fix("Name artifacts in planScripts, buildPlans, deploymentPlans or goldenImages.")
	}
	t, err := s.Library.CreateBundle(r.Context(), owner(r), req)
	return s.accepted(w, t, err)
}

// updateBundle extracts or renames. Clients ask for extraction with a query or
// with a text body (spec section 2.4).
func (s *Server) updateBundle(w http.ResponseWriter, r *http.Request) error {
	b, err := s.Store.ArtifactBundles.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	q := r.URL.Query()
	extract, err := truth(q.Get("extract"), "extract")
	if err != nil {
		return err
	}
	force, err := truth(q.Get("forceImport"), "forceImport")
	if err != nil {
		return err
	}
	plain := strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), "text/plain")
	if extract || plain && !q.Has("extract") {
		t, err := s.Library.ExtractBundle(r.Context(), owner(r), b.ArtifactsBundleID, force)
		return s.accepted(w, t, err)
	}
	var sent domain.ArtifactBundle
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	if err := s.Store.ArtifactBundles.CheckETag(b, eTag(r, sent.ETag)); err != nil {
		return err
	}
	if err := domain.MayChangeBundle(b); err != nil {
		return err
	}
	if err := domain.CheckName("artifact bundle", sent.Name); err != nil {
		return err
	}
	t, err := s.Library.RenameBundle(r.Context(), owner(r), b.ArtifactsBundleID, sent.Name, cmp.Or(sent.Description, b.Description))
	return s.accepted(w, t, err)
}

func truth(v, name string) (bool, error) {
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil {
		return false, domain.Errorf(domain.Invalid, "parameter "+name, "%q is not true or false", v)
	}
	return b, nil
}

func (s *Server) deleteBundle(w http.ResponseWriter, r *http.Request) error {
	b, err := s.Store.ArtifactBundles.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := domain.MayChangeBundle(b); err != nil {
		return err
	}
	t, err := s.Library.DeleteBundle(r.Context(), owner(r), b.ArtifactsBundleID)
	return s.accepted(w, t, err)
}

// bundleAction serves /rest/artifact-bundles/{id}/stopArtifactCreate; a literal
// last element would collide with /backups/{id} in the route table. It finds
// nothing to stop: making a bundle cannot be stopped half-way.
func (s *Server) bundleAction(w http.ResponseWriter, r *http.Request) error {
	if r.PathValue("action") != "stopArtifactCreate" {
		return domain.Errorf(domain.NotFound, r.URL.Path, "is not served").Fix("An artifact bundle has the action stopArtifactCreate.")
	}
	b, err := s.Store.ArtifactBundles.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return domain.Errorf(domain.Conflict, "artifact bundle "+b.Name, "is not being made").
		Fix("Wait for the task that makes it, then delete the bundle.")
}

func (s *Server) downloadBundle(w http.ResponseWriter, r *http.Request) error {
	f, name, err := s.Library.OpenBundle(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.send(w, r, f, name, "application/zip")
}

const backupsURI = domain.ArtifactBundles + "/backups"

func (s *Server) listBackups(w http.ResponseWriter, r *http.Request) error {
	return s.bundles(w, r, "artifact-bundles", backupsURI, func(b domain.ArtifactBundle) bool { return b.BackupService })
}

func (s *Server) backup(r *http.Request) (domain.ArtifactBundle, error) {
	b, err := s.Store.ArtifactBundles.Get(r.Context(), r.PathValue("id"))
	if err == nil && !b.BackupService {
		err = domain.Errorf(domain.NotFound, "backup "+b.ArtifactsBundleID, "does not exist: it is an ordinary artifact bundle").
			Fix("List " + backupsURI + ".")
	}
	return b, err
}

func (s *Server) getBackup(w http.ResponseWriter, r *http.Request) error {
	b, err := s.backup(r)
	if err != nil {
		return err
	}
	return s.ok(w, viewBundle(b))
}

func (s *Server) createBackup(w http.ResponseWriter, r *http.Request) error {
	t, err := s.Library.CreateBackup(r.Context(), owner(r))
	return s.accepted(w, t, err)
}

func (s *Server) restoreBackup(w http.ResponseWriter, r *http.Request) error {
	b, err := s.backup(r)
	if err != nil {
		return err
	}
	t, err := s.Library.RestoreBackup(r.Context(), owner(r), b.ArtifactsBundleID)
	return s.accepted(w, t, err)
}

func (s *Server) uploadBackup(w http.ResponseWriter, r *http.Request) error {
	return s.receive(w, r, func(u upload) (domain.Task, error) {
		return s.Library.UploadBackup(r.Context(), owner(r), cmp.Or(u.Filename, u.Name), u)
	})
}

func (s *Server) downloadBackup(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.backup(r); err != nil {
		return err
	}
	return s.downloadBundle(w, r)
}
