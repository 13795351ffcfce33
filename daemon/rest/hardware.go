package rest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
)

func (s *Server) listHardware(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.ServerHardware.List(r.Context())
	if err != nil {
		return err
	}
	profiles, err := s.Store.ServerProfiles.List(r.Context())
	if err != nil {
		return err
	}
	return serveList(s, w, r, "server-hardware", domain.ServerHardwares,
		views(all, func(h domain.ServerHardware) domain.ServerHardware { return s.withPower(viewHardware(h, profiles)) }))
}

func (s *Server) getHardware(w http.ResponseWriter, r *http.Request) error {
	h, err := s.Store.ServerHardware.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.serveHardware(w, r, h, http.StatusOK)
}

// serveHardware answers with one compute module.
func (s *Server) serveHardware(w http.ResponseWriter, r *http.Request, h domain.ServerHardware, status int) error {
	profiles, err := s.Store.ServerProfiles.List(r.Context())
	if err != nil {
		return err
	}
	if status == http.StatusCreated {
		return s.created(w, h.URI, s.withPower(viewHardware(h, profiles)))
	}
	return s.ok(w, s.withPower(viewHardware(h, profiles)))
}

// takeHardware makes what is stored out of what was sent.
func takeHardware(old, sent domain.ServerHardware) (domain.ServerHardware, error) {
	old.SerialNumber, old.Model, old.Description = sent.SerialNumber, sent.Model, sent.Description
	old.Frame, old.Bay, old.Discovered = sent.Frame, sent.Bay, false
	old.Status = domain.StatusOK
	old.MACs = nil
	for _, m := range sent.MACs {
		if !domain.ValidMAC(m) {
			return old, domain.Errorf(domain.Invalid, "server hardware "+old.UUID, "%q in macs is not a MAC address", m).
				Fix("Send the MAC addresses of the ports on the deployment network, such as 02:00:00:00:00:01.")
		}
		m = strings.ToLower(strings.ReplaceAll(m, "-", ":"))
		if !slices.Contains(old.MACs, m) {
			old.MACs = append(old.MACs, m)
		}
	}
	if old.Bay < 0 || old.Bay > 255 {
		return old, domain.Errorf(domain.Invalid, "server hardware "+old.UUID, "position %d is no device bay", old.Bay).
			Fix("Send the number of the bay, or 0 if it is not known.")
	}
	old.Name = sent.Name
	if old.Name == "" {
		old.Name = hardwareName(old)
	}
	return old, domain.CheckName("server hardware", old.Name)
}

func hardwareName(h domain.ServerHardware) string {
	switch {
	case h.Frame != "" && h.Bay > 0:
		return fmt.Sprintf("%s, bay %d", h.Frame, h.Bay)
	case h.SerialNumber != "":
		return h.SerialNumber
	}
	return h.UUID
}

// freePorts refuses MAC addresses that other hardware has: whoever boots from
// one would get the other's OS volume, or none.
func (s *Server) freePorts(ctx context.Context, id string, macs []string) error {
	all, err := s.Store.ServerHardware.List(ctx)
	if err != nil {
		return err
	}
	for _, h := range all {
		for _, m := range macs {
			m = strings.ToLower(strings.ReplaceAll(m, "-", ":"))
			if strings.EqualFold(h.UUID, id) || !slices.Contains(h.MACs, m) {
				continue
			}
			e := domain.Errorf(domain.Conflict, "server hardware "+id, "has the MAC address %s in macs, which %q (%s) has", m, h.Name, h.UUID)
			if h.Discovered {
				return e.Fix("If this is the same module, its UUID is "+h.UUID+": send that.", "Else delete what was discovered, "+h.URI+", first.")
			}
			return e.Fix("Take it away from that hardware first.")
		}
	}
	return nil
}

// createHardware registers a compute module. One that was only discovered on
// the network is taken over with what is known of it.
func (s *Server) createHardware(w http.ResponseWriter, r *http.Request) error {
	var sent domain.ServerHardware
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	if !domain.ValidUUID(sent.UUID) {
		return domain.Errorf(domain.Invalid, "server hardware", "%q is not a UUID", sent.UUID).
			Fix("Send the module's SMBIOS UUID, as its firmware shows it.")
	}
	id := strings.ToLower(sent.UUID)
	if err := s.freePorts(r.Context(), id, sent.MACs); err != nil {
		return err
	}
	var made domain.ServerHardware
	err := cluster.Atomically(r.Context(), s.Store.Client, func(tx *cluster.Txn) error {
		old, err := s.Store.ServerHardware.GetIn(tx, id)
		switch {
		case domain.KindOf(err) == domain.NotFound:
			fresh, err := takeHardware(domain.ServerHardware{UUID: id}, sent)
			if err != nil {
				return err
			}
			made, err = s.Store.ServerHardware.CreateIn(tx, fresh)
			return err
		case err != nil:
			return err
		case !old.Discovered:
			return domain.Errorf(domain.Conflict, "server hardware "+id, "is registered already, as %q", old.Name).
				Fix("Change it with PUT, or delete it first.")
		}
		if len(sent.MACs) == 0 {
			sent.MACs = old.MACs
		}
		sent.SerialNumber, sent.Model = cmp.Or(sent.SerialNumber, old.SerialNumber), cmp.Or(sent.Model, old.Model)
		made, err = s.Store.ServerHardware.UpdateIn(tx, id, func(h *domain.ServerHardware) error {
			var err error
			*h, err = takeHardware(*h, sent)
			return err
		})
		return err
	})
	if err != nil {
		return err
	}
	s.Log.Info("audit: server hardware registered", "uuid", made.UUID, "by", owner(r))
	return s.serveHardware(w, r, made, http.StatusCreated)
}

func (s *Server) updateHardware(w http.ResponseWriter, r *http.Request) error {
	var sent domain.ServerHardware
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	if err := s.freePorts(r.Context(), r.PathValue("id"), sent.MACs); err != nil {
		return err
	}
	h, err := s.Store.ServerHardware.Update(r.Context(), r.PathValue("id"), func(h *domain.ServerHardware) error {
		if err := s.Store.ServerHardware.CheckETag(*h, eTag(r, sent.ETag)); err != nil {
			return err
		}
		changed, err := takeHardware(*h, sent)
		*h = changed
		return err
	})
	if err != nil {
		return err
	}
	return s.serveHardware(w, r, h, http.StatusOK)
}

func (s *Server) deleteHardware(w http.ResponseWriter, r *http.Request) error {
	h, err := s.Store.ServerHardware.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if user, err := s.profileOf(r.Context(), h.UUID, ""); err != nil {
		return err
	} else if user != "" {
		return domain.Errorf(domain.Conflict, "server hardware "+h.Name, "has the server profile %q", user).
			Fix("Delete the profile, or give it other hardware, first.")
	}
	if err := s.Store.ServerHardware.Delete(r.Context(), h.UUID); err != nil {
		return err
	}
	s.Log.Info("audit: server hardware removed", "uuid", h.UUID, "by", owner(r))
	return s.gone(w)
}
