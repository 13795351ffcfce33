package rest

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"baystream/daemon/domain"
	"baystream/daemon/journal"
)

type version struct {
	CurrentVersion int `json:"currentVersion"`
	MinimumVersion int `json:"minimumVersion"`
}

func (s *Server) version(w http.ResponseWriter, r *http.Request) error {
	return s.ok(w, version{currentVersion, minVersion})
}

func (s *Server) listTasks(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.Tasks.List(r.Context())
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b domain.Task) int { // the newest first
		switch {
		case a.Created > b.Created:
			return -1
		case a.Created < b.Created:
			return 1
		}
		return 0
	})
	return serveList(s, w, r, "tasks", domain.Tasks, views(all, taskView))
}

func (s *Server) getTask(w http.ResponseWriter, r *http.Request) error {
	t, err := s.Store.Tasks.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.ok(w, taskView(t))
}

func (s *Server) listGroups(w http.ResponseWriter, r *http.Request) error {
	return serveList(s, w, r, "deployment-groups", domain.DeploymentGroups, []domain.DeploymentGroup{domain.TheDeploymentGroup()})
}

func (s *Server) getGroup(w http.ResponseWriter, r *http.Request) error {
	if r.PathValue("id") != domain.DeploymentGroupID {
		return domain.Errorf(domain.NotFound, "deployment group "+r.PathValue("id"), "does not exist").
			Fix("There is one, " + domain.DeploymentGroupID + ".")
	}
	return s.ok(w, domain.TheDeploymentGroup())
}

// deploymentServer is all appliances as OneView sees them.
func (s *Server) deploymentServer() domain.DeploymentServer {
	info := s.Info()
	d := domain.DeploymentServer{
		Resource:         domain.Resource{Name: "Baystream", Description: "OS deployment server", Status: domain.StatusOK, State: "Connected"},
		DeplManagersType: "Image Streamer", PrimaryClusterName: info.Name, PrimaryIPv4: info.Management,
	}
	d.SetID(domain.DeploymentServerID)
	d.ApplianceURI = s.applianceView().ApplianceURI
	d.PrimaryActiveAppliance = d.ApplianceURI
	return d
}

func (s *Server) applianceView() domain.ApplianceView {
	info := s.Info()
	a := domain.ApplianceView{
		Resource:              domain.Resource{Name: info.Name, Status: domain.StatusOK, State: "Connected"},
		ApplianceSerialNumber: info.Serial, ApplianceUUID: info.UUID, ApplianceIPv6Address: info.IPv6,
		AtlasVersion: info.Version, ImageStreamerVersion: info.Version,
		CIMBay: info.Bay, CIMEnclosureName: info.Frame, ClusterIPv4Address: info.Management,
		DataIPv4Address: info.Portal, MgmtIPv4Address: info.Management, ClaimedByOV: true,
	}
	a.SetID(info.UUID)
	return a
}

func (s *Server) listDeploymentServers(w http.ResponseWriter, r *http.Request) error {
	return serveList(s, w, r, "deployment-managers", domain.DeploymentServers, []domain.DeploymentServer{s.deploymentServer()})
}

func (s *Server) getDeploymentServer(w http.ResponseWriter, r *http.Request) error {
	if r.PathValue("id") != domain.DeploymentServerID {
		return domain.Errorf(domain.NotFound, "deployment server "+r.PathValue("id"), "does not exist").
			Fix("There is one, " + domain.DeploymentServerID + ".")
	}
	return s.ok(w, s.deploymentServer())
}

// The deployment server is there from the first boot and stays: there is no
// OneView that could add or remove it, and no second pair to make primary.

func (s *Server) createDeploymentServer(w http.ResponseWriter, r *http.Request) error {
	return domain.Errorf(domain.Conflict, "deployment server", "exists already; there is one in every domain").
		Fix("Read " + domain.DeploymentServers + ".")
}

func (s *Server) updateDeploymentServer(w http.ResponseWriter, r *http.Request) error {
	var sent domain.DeploymentServer
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	if r.PathValue("id") != domain.DeploymentServerID {
		return s.getDeploymentServer(w, r)
	}
	have := s.deploymentServer()
	if p := sent.PrimaryActiveAppliance; p != "" && p != have.PrimaryActiveAppliance {
		return domain.Errorf(domain.Invalid, "deployment server", "%q is not an appliance of this domain", p).
			Fix("Name one of " + domain.ImageStreamerAppliances + ".")
	}
	if sent.Name != "" && sent.Name != have.Name || sent.Description != "" && sent.Description != have.Description {
		return domain.Errorf(domain.Unsupported, "deployment server", "cannot be renamed in this version").Fix("Send its name as it is.")
	}
	return s.ok(w, have)
}

func (s *Server) deleteDeploymentServer(w http.ResponseWriter, r *http.Request) error {
	if r.PathValue("id") != domain.DeploymentServerID {
		return s.getDeploymentServer(w, r)
	}
	return domain.Errorf(domain.Conflict, "deployment server", "cannot be removed: it is this appliance").
		Fix("A factory reset erases it.")
}

type network struct {
	ManagementIPv4 string `json:"managementIpv4Address"`
	DeploymentIPv4 string `json:"deploymentIpv4Address"`
}

func (s *Server) deploymentServerNetwork(w http.ResponseWriter, r *http.Request) error {
	info := s.Info()
	return s.ok(w, network{info.Management, info.Portal})
}

func (s *Server) listAppliances(w http.ResponseWriter, r *http.Request) error {
	return serveList(s, w, r, "image-streamer-appliances", domain.ImageStreamerAppliances, []domain.ApplianceView{s.applianceView()})
}

func (s *Server) getAppliance(w http.ResponseWriter, r *http.Request) error {
	a := s.applianceView()
	if r.PathValue("id") != a.ID {
		return domain.Errorf(domain.NotFound, "appliance "+r.PathValue("id"), "does not exist").
			Fix("List " + domain.ImageStreamerAppliances + ".")
	}
	return s.ok(w, a)
}

func (s *Server) ca(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, err := w.Write(s.CA)
	if err != nil {
		s.Log.Debug("answer not sent", "err", err)
	}
	return nil
}

type setupState struct {
	SetUp bool `json:"setUp"`
}

func (s *Server) setupState(w http.ResponseWriter, r *http.Request) error {
	_, ok, err := s.setupMark.Get(r.Context())
	if err != nil {
		return err
	}
	return s.ok(w, setupState{ok})
}

// health tells users all, and others what a module in trouble must say. Who
// cannot be identified for want of the domain state is one of the others: then
// it matters most that there is an answer.
func (s *Server) health(w http.ResponseWriter, r *http.Request) error {
	h := s.Appliance.Health(r.Context())
	if _, _, err := s.identify(r); err != nil {
		return s.ok(w, h.Summary())
	}
	return s.ok(w, h)
}

// report serves what the appliance says of itself.
func (s *Server) report(ask func(Appliance, context.Context) any) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.ok(w, ask(s.Appliance, r.Context()))
	}
}

// supportDump serves a dump; the parameter limit asks for a smaller one.
func (s *Server) supportDump(w http.ResponseWriter, r *http.Request) error {
	limit := int64(0)
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1<<16 || n > 1<<30 {
			return domain.Errorf(domain.Invalid, "parameter limit", "%q is not a number of bytes from 65536 to 1073741824", v)
		}
		limit = n
	}
	pr, pw := io.Pipe()
	defer pr.Close() // ends the writer if the client has gone
	go func() { pw.CloseWithError(s.Appliance.SupportDump(r.Context(), pw, limit)) }()
	s.Log.Info("audit: support dump", "by", owner(r), "source", source(r))
	name := "baystream-" + strings.Map(fileSafe, s.Info().Name) + s.Now().UTC().Format("-20060102T150405Z") + ".zip"
	return s.send(w, r, pr, name, "application/zip")
}

func fileSafe(r rune) rune {
	if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
		return r
	}
	return '_'
}

const (
	someLines = 1000
	maxLines  = 100_000
)

func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	lines := someLines
	if v := r.URL.Query().Get("lines"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxLines {
			return domain.Errorf(domain.Invalid, "parameter lines", "%q is not a number from 1 to %d", v, maxLines)
		}
		lines = n
	}
	follow, err := truth(r.URL.Query().Get("follow"), "follow")
	if err != nil {
		return err
	}
	format := r.URL.Query().Get("format")
	if format != "" && format != "text" && format != "json" {
		return domain.Errorf(domain.Invalid, "parameter format", "%q is neither text nor json", format)
	}
	f, err := s.Appliance.Logs(r.Context(), LogQuery{Lines: lines, Follow: follow, JSON: format == "json"})
	if err != nil {
		return err
	}
	contentType := "text/plain; charset=utf-8"
	if format == "json" {
		contentType = "application/jsonl"
	}
	if follow {
		return s.sendLive(w, r, f, contentType)
	}
	return s.send(w, r, f, "", contentType)
}

// syslog serves where the log is sent.
func (s *Server) syslog(w http.ResponseWriter, r *http.Request) error {
	set, err := s.Appliance.Syslog(r.Context())
	if err != nil {
		return err
	}
	return s.ok(w, set)
}

func (s *Server) setSyslog(w http.ResponseWriter, r *http.Request) error {
	var set journal.Settings
	if err := decode(w, r, &set); err != nil {
		return err
	}
	if err := set.Check(); err != nil {
		return (&domain.Error{Kind: domain.Invalid, Object: "syslog", Err: err}).Fix("Send server as HOST or HOST:PORT, ca as PEM, level as DEBUG, INFO, WARN or ERROR; an empty server ends it.")
	}
	if err := s.Appliance.SetSyslog(r.Context(), set); err != nil {
		return err
	}
	s.Log.Info("audit: syslog set", "server", set.Server, "by", owner(r), "source", source(r))
	return s.ok(w, set)
}
