package rest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"baystream/daemon/domain"
)

// profileView masks the passwords in a profile.
func (s *Server) profileView(ctx context.Context, p domain.ServerProfile) (domain.ServerProfile, error) {
	if p.OSDeploymentSettings == nil {
		return p, nil
	}
	attrs, known, err := s.planAttributes(ctx, p.OSDeploymentSettings.OSDeploymentPlanURI)
	return viewProfile(p, attrs, known), err
}

// planAttributes are those of a deployment plan and its build plan; known is
// false when one of them is gone.
func (s *Server) planAttributes(ctx context.Context, uri string) (attrs []domain.Attribute, known bool, err error) {
	pl, err := s.plan(ctx, uri)
	switch domain.KindOf(err) {
	case domain.NotFound, domain.Invalid:
		if err != nil {
			return nil, false, nil
		}
	}
	return append(slices.Clone(pl.build.CustomAttributes), pl.deployment.CustomAttributes...), err == nil, err
}

func (s *Server) listProfiles(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.ServerProfiles.List(r.Context())
	if err != nil {
		return err
	}
	for i, p := range all {
		if all[i], err = s.profileView(r.Context(), p); err != nil {
			return err
		}
	}
	return serveList(s, w, r, "server-profiles", domain.ServerProfiles, all)
}

func (s *Server) getProfile(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.ServerProfiles.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if p, err = s.profileView(r.Context(), p); err != nil {
		return err
	}
	return s.ok(w, p)
}

// target is a server that could be given a profile, as OneView lists it.
type target struct {
	ServerHardwareURI  string `json:"serverHardwareUri"`
	ServerHardwareName string `json:"serverHardwareName"`
	EnclosureName      string `json:"enclosureName"`
	EnclosureBay       int    `json:"enclosureBay"`
}

// availableTargets lists the servers without a profile. HPE's Go client creates
// profiles for no others.
func (s *Server) availableTargets(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.ServerHardware.List(r.Context())
	if err != nil {
		return err
	}
	targets := []target{}
	for _, h := range all {
		if h.ServerProfile == "" {
			targets = append(targets, target{h.URI, h.Name, h.Frame, h.Bay})
		}
	}
	return s.ok(w, struct {
		Type    string   `json:"type"`
		Targets []target `json:"targets"`
	}{"AvailableTargets", targets})
}

// profileOf names the profile that has the hardware, other than the one with
// the id except.
func (s *Server) profileOf(ctx context.Context, uuid, except string) (string, error) {
	all, err := s.Store.ServerProfiles.List(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range all {
		if id, err := domain.IDFromURI(domain.ServerHardwares, p.ServerHardwareURI); err == nil && strings.EqualFold(id, uuid) && p.ID != except {
			return p.Name, nil
		}
	}
	return "", nil
}

// plans are what a deployment runs.
type plans struct {
	deployment domain.DeploymentPlan
	build      domain.BuildPlan
	scripts    []domain.ScriptAttribute
}

// plan gathers a deployment plan, its build plan and the attributes that the
// plan scripts ask for, in the order of the steps.
func (s *Server) plan(ctx context.Context, uri string) (plans, error) {
	var pl plans
	id, err := domain.DeploymentPlanID(uri)
	if err != nil {
		return pl, err
	}
	if pl.deployment, err = s.Store.DeploymentPlans.Get(ctx, id); err != nil {
		return pl, err
	}
	if pl.deployment.OEBuildPlanURI == "" {
		return pl, nil
	}
	if id, err = domain.IDFromURI(domain.BuildPlans, pl.deployment.OEBuildPlanURI); err != nil {
		return pl, err
	}
	if pl.build, err = s.Store.BuildPlans.Get(ctx, id); err != nil {
		return pl, err
	}
	steps := slices.Clone(pl.build.BuildStep)
	slices.SortStableFunc(steps, func(a, b domain.BuildStep) int { return stepNumber(a) - stepNumber(b) })
	for _, step := range steps {
		id, err := domain.IDFromURI(domain.PlanScripts, step.PlanScriptURI)
		if err != nil {
			return pl, err
		}
		script, err := s.Store.PlanScripts.Get(ctx, id)
		if err != nil {
			return pl, err
		}
		attrs, err := s.Attributes(script.Content)
		if err != nil {
			return pl, fmt.Errorf("plan script %s: %w", script.Name, err)
		}
		pl.scripts = append(pl.scripts, attrs...)
	}
	return pl, nil
}

func stepNumber(b domain.BuildStep) int {
	n, err := strconv.Atoi(b.SerialNumber)
	if err != nil {
		return 1 << 30
	}
	return n
}

// checkProfile says whether p can be deployed, as far as that shows without
// doing it.
func (s *Server) checkProfile(ctx context.Context, p domain.ServerProfile) error {
	kind := "server profile " + p.Name
	if err := domain.CheckName("server profile", p.Name); err != nil {
		return err
	}
	if p.ServerHardwareURI != "" {
		id, err := domain.IDFromURI(domain.ServerHardwares, p.ServerHardwareURI)
		if err == nil {
			_, err = s.Store.ServerHardware.Get(ctx, id)
		}
		if k := domain.KindOf(err); err != nil && (k == domain.NotFound || k == domain.Invalid) {
			return domain.Errorf(domain.Invalid, kind, "names the server hardware %q, which does not exist", p.ServerHardwareURI).
				Fix("Register it with POST " + domain.ServerHardwares + ", or let it boot once on the deployment network.")
		}
		if err != nil {
			return err
		}
		other, err := s.profileOf(ctx, id, p.ID)
		if err != nil {
			return err
		}
		if other != "" {
			return domain.Errorf(domain.Conflict, "server hardware "+id, "has the server profile %q already", other).
				Fix("Take it away from that profile first.")
		}
	}
	settings := p.OSDeploymentSettings
	if settings == nil || settings.OSDeploymentPlanURI == "" {
		if settings != nil && len(settings.OSCustomAttributes) > 0 {
			return domain.Errorf(domain.Invalid, kind, "has attributes but no osDeploymentPlanUri").Fix("Name a deployment plan, or leave the attributes out.")
		}
		return nil
	}
	pl, err := s.plan(ctx, settings.OSDeploymentPlanURI)
	if k := domain.KindOf(err); err != nil && (k == domain.NotFound || k == domain.Invalid) {
		return &domain.Error{Kind: domain.Invalid, Object: kind, Message: "cannot use the deployment plan " + strconv.Quote(settings.OSDeploymentPlanURI),
			Remedy: []string{"Name an existing deployment plan whose build plan and plan scripts exist."}, Err: err}
	}
	if err != nil {
		return err
	}
	values, _, err := domain.MergeAttributes(pl.scripts, pl.build, pl.deployment, settings.OSCustomAttributes)
	if err != nil {
		return err
	}
	if pl.deployment.GoldenImageURI != "" {
		return nil
	}
	if _, ok, err := domain.VolumeSizeMiB(values); err != nil || !ok {
		if err == nil {
			err = domain.Errorf(domain.Invalid, kind, "has no size for its OS volume: the deployment plan %q has no golden image", pl.deployment.Name).
				Fix("Set the attribute VolumeSize, in MiB.")
		}
		return err
	}
	return nil
}

// takeProfile makes what is asked of the Deployer out of what was sent.
func takeProfile(old, sent domain.ServerProfile, attrs []domain.Attribute) domain.ServerProfile {
	had := old.OSDeploymentSettings
	old.Name, old.Description, old.ServerHardwareURI = sent.Name, sent.Description, sent.ServerHardwareURI
	if sent.OSDeploymentSettings == nil {
		old.OSDeploymentSettings = nil
		return old
	}
	settings := *sent.OSDeploymentSettings
	settings.OSVolumeURI = "" // ours to say
	if had != nil {
		settings.OSVolumeURI = had.OSVolumeURI
		if samePlan(had.OSDeploymentPlanURI, settings.OSDeploymentPlanURI) {
			settings.OSCustomAttributes = domain.KeepSecrets(
				typed(settings.OSCustomAttributes, attrs), typed(had.OSCustomAttributes, attrs))
		}
	}
	old.OSDeploymentSettings = &settings
	return old
}

func samePlan(a, b string) bool {
	x, err1 := domain.DeploymentPlanID(a)
	y, err2 := domain.DeploymentPlanID(b)
	return err1 == nil && err2 == nil && x == y
}

// typed gives attributes of a profile the types that the plan says they have.
func typed(attrs, plan []domain.Attribute) []domain.Attribute {
	types := map[string]string{}
	for _, a := range plan {
		types[a.Name] = a.Type
	}
	out := slices.Clone(attrs)
	for i := range out {
		if t := types[out[i].Name]; t != "" {
			out[i].Type = t
		}
	}
	return out
}

func (s *Server) createProfile(w http.ResponseWriter, r *http.Request) error {
	var sent domain.ServerProfile
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	p := takeProfile(domain.ServerProfile{}, sent, nil)
	p.SetID(domain.NewID())
	if err := s.checkProfile(r.Context(), p); err != nil {
		return err
	}
	if _, err := s.Store.ServerProfiles.ByName(r.Context(), p.Name); domain.KindOf(err) != domain.NotFound {
		if err == nil {
			err = domain.Errorf(domain.Conflict, "server profile "+p.Name, "exists already").Fix("Choose another name.")
		}
		return err
	}
	t, err := s.Deployer.CreateProfile(r.Context(), owner(r), p)
	return s.accepted(w, t, err)
}

func (s *Server) updateProfile(w http.ResponseWriter, r *http.Request) error {
	var sent domain.ServerProfile
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	old, err := s.Store.ServerProfiles.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := s.Store.ServerProfiles.CheckETag(old, eTag(r, sent.ETag)); err != nil {
		return err
	}
	var attrs []domain.Attribute
	if sent.OSDeploymentSettings != nil {
		if attrs, _, err = s.planAttributes(r.Context(), sent.OSDeploymentSettings.OSDeploymentPlanURI); err != nil {
			return err
		}
	}
	p := takeProfile(old, sent, attrs)
	if err := s.checkProfile(r.Context(), p); err != nil {
		return err
	}
	t, err := s.Deployer.UpdateProfile(r.Context(), owner(r), p)
	return s.accepted(w, t, err)
}

func (s *Server) deleteProfile(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.ServerProfiles.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	t, err := s.Deployer.DeleteProfile(r.Context(), owner(r), p.ID)
	return s.accepted(w, t, err)
}
