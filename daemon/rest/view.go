package rest

import (
	"slices"
	"strings"

	"baystream/daemon/domain"
)

// The views turn what is stored into what is served: lists are never null,
// passwords never leave, and types have the name of the caller's version.

func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func views[T, V any](all []T, view func(T) V) []V {
	out := make([]V, 0, len(all))
	for _, v := range all {
		out = append(out, view(v))
	}
	return out
}

// maskAttributes empties the values of passwords. An empty value sent back
// means "as it was" (domain.KeepSecrets).
func maskAttributes(attrs []domain.Attribute) []domain.Attribute {
	out := make([]domain.Attribute, 0, len(attrs))
	for _, a := range attrs {
		if domain.IsSecret(a) {
			a.Value = ""
		}
		out = append(out, a)
	}
	return out
}

func taskView(t domain.Task) domain.Task {
	t.ProgressUpdates, t.TaskErrors, t.TaskOutput = list(t.ProgressUpdates), list(t.TaskErrors), list(t.TaskOutput)
	data := map[string]string{}
	for k, v := range t.Data {
		if !strings.HasPrefix(k, "baystream.") {
			data[k] = v
		}
	}
	t.Data = data
	return t
}

// completed makes a Go client content, which takes the answer to a PUT of a
// plan script or build plan for a task and polls it (spec section 2.3).
type completed struct {
	TaskState string `json:"taskState"`
}

const done = domain.TaskCompleted

type planScriptView struct {
	domain.PlanScript
	completed
}

func viewPlanScript(p domain.PlanScript) planScriptView {
	p.DependentArtifacts = list(p.DependentArtifacts)
	return planScriptView{p, completed{done}}
}

type buildPlanView struct {
	domain.BuildPlan
	ETagToo string `json:"etag"`
	completed
}

func viewBuildPlan(p domain.BuildPlan, version int) buildPlanView {
	p.Type = "OeBuildPlanV5"
	if version < version500 {
		p.Type = "OeBuildPlan"
	}
	p.BuildStep, p.DependentArtifacts = list(p.BuildStep), list(p.DependentArtifacts)
	p.CustomAttributes = maskAttributes(p.CustomAttributes)
	return buildPlanView{p, p.ETag, completed{done}}
}

func viewDeploymentPlan(p domain.DeploymentPlan, version int) domain.DeploymentPlan {
	p.Type = "OEDeploymentPlanV5"
	if version < version500 {
		p.Type = "OEDeploymentPlan"
	}
	p.CustomAttributes = maskAttributes(p.CustomAttributes)
	return p
}

func viewGoldenImage(g domain.GoldenImage) domain.GoldenImage {
	g.DependentArtifacts, g.Presence = list(g.DependentArtifacts), list(g.Presence)
	return g
}

func viewBundle(b domain.ArtifactBundle) domain.ArtifactBundle {
	b.BuildPlans, b.DeploymentPlans = list(b.BuildPlans), list(b.DeploymentPlans)
	b.GoldenImage, b.PlanScripts = list(b.GoldenImage), list(b.PlanScripts)
	return b
}

func viewVolume(v domain.OSVolume) domain.OSVolume {
	v.DependentArtifacts = list(v.DependentArtifacts)
	return v
}

// viewHardware says with OneView's words what became of the server's profile.
func viewHardware(h domain.ServerHardware, profiles []domain.ServerProfile) domain.ServerHardware {
	h.MACs = list(h.MACs)
	h.State = domain.NoProfileApplied
	i := slices.IndexFunc(profiles, func(p domain.ServerProfile) bool { return h.ServerProfile != "" && p.URI == h.ServerProfile })
	if i >= 0 {
		h.State = domain.HardwareState(profiles[i].State)
	}
	return h
}

// viewProfile needs the deployment plan's attributes, for only they say which
// of the profile's values are passwords; without them all values are hidden.
func viewProfile(p domain.ServerProfile, plan []domain.Attribute, known bool) domain.ServerProfile {
	if p.OSDeploymentSettings == nil {
		return p
	}
	secret := map[string]bool{}
	for _, a := range plan {
		secret[a.Name] = domain.IsSecret(a)
	}
	settings := *p.OSDeploymentSettings
	settings.OSCustomAttributes = maskAttributes(settings.OSCustomAttributes)
	for i, a := range settings.OSCustomAttributes {
		if secret[a.Name] || !known {
			settings.OSCustomAttributes[i].Value = ""
		}
	}
	p.OSDeploymentSettings = &settings
	return p
}

func viewOSDP(p domain.DeploymentPlan, image domain.GoldenImage, info Info) domain.OSDeploymentPlan {
	o := domain.OSDeploymentPlan{
		Resource: domain.Resource{
			Name: p.Name, Description: p.Description, ETag: p.ETag, Created: p.Created,
			Modified: p.Modified, Status: p.Status, State: p.State,
		},
		Architecture: "", DeploymentAppliance: info.Name, DeploymentApplianceIPv4: info.Management,
		DeploymentType: "i3s", OSDPSize: mib(image.SizeBytes), NativePlanURI: p.URI,
		AdditionalParameters: []domain.AdditionalParameter{},
	}
	o.SetID(p.ID)
	for _, a := range maskAttributes(p.CustomAttributes) {
		if a.Visible != nil && !*a.Visible {
			continue
		}
		o.AdditionalParameters = append(o.AdditionalParameters, domain.AdditionalParameter{
			Name: a.Name, Value: a.Value, Description: a.Description, CAID: a.ID, CAType: a.Type,
			CAConstraints: a.Constraints, CAEditable: a.Editable == nil || *a.Editable,
		})
	}
	return o
}
