package rest

import (
	"cmp"
	"context"
	"net/http"
	"strings"

	"baystream/daemon/domain"
)

func (s *Server) listVolumes(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.OSVolumes.List(r.Context())
	if err != nil {
		return err
	}
	return serveList(s, w, r, "os-volumes", domain.OSVolumes, views(all, viewVolume))
}

func (s *Server) getVolume(w http.ResponseWriter, r *http.Request) error {
	v, err := s.Store.OSVolumes.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.ok(w, viewVolume(v))
}

func (s *Server) deleteVolume(w http.ResponseWriter, r *http.Request) error {
	v, err := s.Store.OSVolumes.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	purge, err := truth(r.URL.Query().Get("purge"), "purge")
	if err != nil {
		return err
	}
	if inTrash := v.State == domain.VolumeTrash; purge != inTrash {
		if purge {
			return domain.Errorf(domain.Conflict, "OS volume "+v.Name, "is not in the trash").
				Fix("Delete it without purge first; that moves it to the trash.")
		}
		return domain.Errorf(domain.Conflict, "OS volume "+v.Name, "is in the trash until %s", v.Expires).
			Fix("Delete it with purge=true to destroy it now.")
	}
	t, err := s.Deployer.DeleteVolume(r.Context(), owner(r), v.OEVolumeID)
	return s.accepted(w, t, err)
}

// volumeByName finds a volume by id or by name.
func (s *Server) volumeByName(ctx context.Context, id string) (domain.OSVolume, error) {
	v, err := s.Store.OSVolumes.Get(ctx, id)
	if domain.KindOf(err) != domain.NotFound {
		return v, err
	}
	all, e := s.Store.OSVolumes.List(ctx)
	if e != nil {
		return v, e
	}
	for _, v := range all {
		if strings.EqualFold(v.Name, id) {
			return v, nil
		}
	}
	return v, err
}

func (s *Server) volumeLog(w http.ResponseWriter, r *http.Request) error {
	key := r.PathValue("id")
	f, err := s.Deployer.VolumeLog(r.Context(), key) // a failed deployment has a log and no volume
	if err != nil {
		return err
	}
	return s.send(w, r, f, key+".log", "text/plain; charset=utf-8")
}

// volumePart serves /rest/os-volumes/{id}/storage; a literal last element would
// collide with /archive/{id} in the route table.
func (s *Server) volumePart(w http.ResponseWriter, r *http.Request) error {
	if r.PathValue("part") != "storage" {
		return domain.Errorf(domain.NotFound, r.URL.Path, "is not served").Fix("An OS volume has the part storage.")
	}
	v, err := s.volumeByName(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	storage, err := s.Deployer.VolumeStorage(r.Context(), v.OEVolumeID)
	if err != nil {
		return err
	}
	return s.ok(w, storage)
}

// statelessServer is the inner side of a server profile (spec section 2.4).
type statelessServer struct {
	domain.Resource
	ID                string `json:"id"`
	ServerProfileName string `json:"serverProfileName"`
	ServerProfileURI  string `json:"serverProfileUri"`
	ServerHardwareURI string `json:"serverHardwareUri"`
	OSVolumeURI       string `json:"osVolumeUri"`
}

func viewStatelessServer(p domain.ServerProfile) statelessServer {
	v := statelessServer{Resource: p.Resource, ID: p.ID, ServerProfileName: p.Name, ServerProfileURI: p.URI, ServerHardwareURI: p.ServerHardwareURI}
	v.Type, v.Category, v.URI = "StatelessServer", "stateless-servers", domain.StatelessServers+"/"+p.ID
	if p.OSDeploymentSettings != nil {
		v.OSVolumeURI = p.OSDeploymentSettings.OSVolumeURI
	}
	return v
}

func (s *Server) listStatelessServers(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.ServerProfiles.List(r.Context())
	if err != nil {
		return err
	}
	return serveList(s, w, r, "stateless-servers", domain.StatelessServers, views(all, viewStatelessServer))
}

// getStatelessServer takes the id of a profile; volumes whose profile is gone
// still name it, so the name comes from them then.
func (s *Server) getStatelessServer(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.ServerProfiles.Get(r.Context(), r.PathValue("id"))
	if err == nil {
		return s.ok(w, viewStatelessServer(p))
	}
	if domain.KindOf(err) != domain.NotFound {
		return err
	}
	all, e := s.Store.OSVolumes.List(r.Context())
	if e != nil {
		return e
	}
	uri := domain.StatelessServers + "/" + r.PathValue("id")
	for _, v := range all {
		if v.StatelessServerURI == uri && v.ServerProfileName != "" {
			gone := domain.ServerProfile{Resource: domain.Resource{Name: v.ServerProfileName, State: "Unassigned"}, ID: r.PathValue("id")}
			gone.URI = cmp.Or(v.ServerProfileURI, domain.ServerProfiles+"/"+gone.ID)
			view := viewStatelessServer(gone)
			view.OSVolumeURI = v.URI
			return s.ok(w, view)
		}
	}
	return err
}
