package rest

import "net/http"

// restoreRequest says whose a volume in the trash becomes.
type restoreRequest struct {
	ServerProfileURI string `json:"serverProfileUri"` // empty: nobody's
	Force            bool   `json:"force"`            // the profile's present volume goes to the trash
}

func (s *Server) restoreVolume(w http.ResponseWriter, r *http.Request) error {
	var req restoreRequest
	if r.ContentLength != 0 {
		if err := decode(w, r, &req); err != nil {
			return err
		}
	}
	t, err := s.Deployer.RestoreVolume(r.Context(), owner(r), r.PathValue("id"), req.ServerProfileURI, req.Force)
	return s.accepted(w, t, err)
}
