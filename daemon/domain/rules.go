package domain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names and descriptions, in characters.
const (
	maxName        = 255
	maxDescription = 8 << 10
	maxScript      = 4 << 20 // bytes of a plan script
	maxSteps       = 500
	maxAttributes  = 1000
)

// CheckName checks the name of a new or renamed resource: 1 to 255 characters,
// none of them a control character, no blank at either end. Names are compared
// without regard to letter case.
func CheckName(kind, name string) error {
	n := utf8.RuneCountInString(name)
	switch {
	case name == "":
		return Errorf(Invalid, kind, "has no name").Fix("Send a name.")
	case n > maxName || !utf8.ValidString(name):
		return Errorf(Invalid, kind, "has a name of %d characters, or one that is not UTF-8", n).
			Fix(fmt.Sprintf("Use at most %d characters.", maxName))
	case strings.ContainsFunc(name, unicode.IsControl):
		return Errorf(Invalid, kind+" "+strconv.Quote(name), "has control characters in its name").Fix("Leave them out.")
	case strings.TrimSpace(name) != name:
		return Errorf(Invalid, kind+" "+strconv.Quote(name), "has a blank at an end of its name").Fix("Leave it out.")
	}
	return nil
}

func checkEnvelope(kind string, r Resource) error {
	if err := CheckName(kind, r.Name); err != nil {
		return err
	}
	if len(r.Description) > maxDescription {
		return Errorf(Invalid, kind+" "+r.Name, "has a description of %d bytes", len(r.Description)).
			Fix(fmt.Sprintf("Use at most %d.", maxDescription))
	}
	return nil
}

// Lookup finds artifacts that others refer to. A missing one is a NotFound.
type Lookup struct {
	PlanScript     func(id string) (PlanScript, error)
	BuildPlan      func(id string) (BuildPlan, error)
	GoldenImage    func(id string) (GoldenImage, error)
	DeploymentPlan func(id string) (DeploymentPlan, error)
}

// CheckPlanScript says whether p can be stored.
func CheckPlanScript(p PlanScript) error {
	if err := checkEnvelope("plan script", p.Resource); err != nil {
		return err
	}
	if !oneOf(p.PlanType, "deploy", "capture", "general") {
		return Errorf(Invalid, "plan script "+p.Name, "has the planType %q", p.PlanType).Fix("Use deploy, capture or general.")
	}
	if len(p.Content) > maxScript || !utf8.ValidString(p.Content) {
		return Errorf(Invalid, "plan script "+p.Name, "has a content of %d bytes, or one that is not UTF-8", len(p.Content)).
			Fix(fmt.Sprintf("Use at most %d MiB.", maxScript>>20))
	}
	return nil
}

func oneOf(s string, all ...string) bool {
	return slices.ContainsFunc(all, func(o string) bool { return strings.EqualFold(s, o) })
}

// CheckBuildPlan says whether p can be stored, and returns it with the names
// of its steps' plan scripts as they are now and the steps numbered.
func CheckBuildPlan(p BuildPlan, look Lookup) (BuildPlan, error) {
	kind := "OS build plan " + p.Name
	if err := checkEnvelope("OS build plan", p.Resource); err != nil {
		return p, err
	}
	if !oneOf(p.OEBuildPlanType, "deploy", "capture") {
		return p, Errorf(Invalid, kind, "has the oeBuildPlanType %q", p.OEBuildPlanType).Fix("Use deploy or capture.")
	}
	if len(p.BuildStep) > maxSteps {
		return p, Errorf(Invalid, kind, "has %d steps", len(p.BuildStep)).Fix(fmt.Sprintf("Use at most %d.", maxSteps))
	}
	p.BuildStep = slices.Clone(p.BuildStep)
	for i := range p.BuildStep {
		step := &p.BuildStep[i]
		if strings.TrimSpace(step.SerialNumber) == "" {
			step.SerialNumber = strconv.Itoa(i + 1)
		}
		if n, err := strconv.Atoi(step.SerialNumber); err != nil || n < 1 {
			return p, Errorf(Invalid, kind, "step %d has the serialNumber %q", i+1, step.SerialNumber).Fix("Number the steps from 1.")
		}
		id, err := IDFromURI(PlanScripts, step.PlanScriptURI)
		if err != nil {
			return p, Errorf(Invalid, kind, "step %s has the planScriptUri %q", step.SerialNumber, step.PlanScriptURI).
				Fix("Name an existing plan script: " + PlanScripts + "/<id>.")
		}
		script, err := look.PlanScript(id)
		if err != nil {
			return p, missing(err, kind, "step "+step.SerialNumber+" names the plan script "+step.PlanScriptURI)
		}
		if !oneOf(script.PlanType, "general", p.OEBuildPlanType) {
			return p, Errorf(Invalid, kind, "is for %s, but step %s is the plan script %q for %s",
				strings.ToLower(p.OEBuildPlanType), step.SerialNumber, script.Name, strings.ToLower(script.PlanType)).
				Fix("Use plan scripts of the same type, or general ones.")
		}
		step.PlanScriptName, step.PlanScriptURI = script.Name, script.URI
	}
	return p, checkAttributes(kind, p.CustomAttributes)
}

func checkAttributes(kind string, attrs []Attribute) error {
	if len(attrs) > maxAttributes {
		return Errorf(Invalid, kind, "has %d attributes", len(attrs)).Fix(fmt.Sprintf("Use at most %d.", maxAttributes))
	}
	seen := map[string]bool{}
	for _, a := range attrs {
		if seen[a.Name] {
			return Errorf(Invalid, kind, "has the attribute %s twice", a.Name).Fix("Leave one out.")
		}
		seen[a.Name] = true
		if err := ValidateAttribute(a); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// CheckDeploymentPlan says whether p can be stored, and returns it with the
// uris of what it refers to in full.
func CheckDeploymentPlan(p DeploymentPlan, look Lookup) (DeploymentPlan, error) {
	kind := "deployment plan " + p.Name
	if err := checkEnvelope("deployment plan", p.Resource); err != nil {
		return p, err
	}
	var bp BuildPlan
	if p.OEBuildPlanURI != "" {
		id, err := IDFromURI(BuildPlans, p.OEBuildPlanURI)
		if err == nil {
			bp, err = look.BuildPlan(id)
		}
		if err != nil {
			return p, missing(err, kind, "names the OS build plan "+p.OEBuildPlanURI)
		}
		if !oneOf(bp.OEBuildPlanType, "deploy") {
			return p, Errorf(Invalid, kind, "names the OS build plan %q, which is for capture", bp.Name).
				Fix("Use an OS build plan for deploy.")
		}
		p.OEBuildPlanURI = bp.URI
	}
	if p.GoldenImageURI != "" {
		id, err := IDFromURI(GoldenImages, p.GoldenImageURI)
		var g GoldenImage
		if err == nil {
			g, err = look.GoldenImage(id)
		}
		if err != nil {
			return p, missing(err, kind, "names the golden image "+p.GoldenImageURI)
		}
		p.GoldenImageURI = g.URI
	}
	// A deployment plan often repeats only names and values: type and
	// constraints then are the build plan's.
	attrs := slices.Clone(p.CustomAttributes)
	for i := range attrs {
		if def := attributeOf(bp.CustomAttributes, attrs[i].Name); def != nil {
			if attrs[i].Type == "" {
				attrs[i].Type = def.Type
			}
			if attrs[i].Constraints == "" {
				attrs[i].Constraints = def.Constraints
			}
		}
		if attrs[i].ID == "" {
			attrs[i].ID = NewID()
		}
		attrs[i].Editable, attrs[i].Visible = orTrue(attrs[i].Editable), orTrue(attrs[i].Visible)
	}
	p.CustomAttributes = attrs
	return p, checkAttributes(kind, attrs)
}

func attributeOf(attrs []Attribute, name string) *Attribute {
	for i := range attrs {
		if attrs[i].Name == name {
			return &attrs[i]
		}
	}
	return nil
}

func orTrue(b *bool) *bool {
	if b == nil {
		yes := true
		return &yes
	}
	return b
}

// missing turns the NotFound of something referred to into the Invalid of what
// refers to it.
func missing(err error, kind, what string) error {
	if k := KindOf(err); k != NotFound && k != Invalid {
		return err
	}
	return Errorf(Invalid, kind, "%s, which does not exist", what).Fix("Create it first, or name another.")
}

// State is all of a domain that can use an artifact.
type State struct {
	BuildPlans      []BuildPlan
	DeploymentPlans []DeploymentPlan
	Profiles        []ServerProfile
	Volumes         []OSVolume
}

// BuildPlansUsing lists the build plans with a step that runs the plan script.
func (s State) BuildPlansUsing(scriptID string) []BuildPlan {
	var out []BuildPlan
	for _, p := range s.BuildPlans {
		if slices.ContainsFunc(p.BuildStep, func(b BuildStep) bool { return refers(b.PlanScriptURI, scriptID) }) {
			out = append(out, p)
		}
	}
	return out
}

// DeploymentPlansOf lists the deployment plans with the build plan.
func (s State) DeploymentPlansOf(buildPlanID string) []DeploymentPlan {
	return keep(s.DeploymentPlans, func(p DeploymentPlan) bool { return refers(p.OEBuildPlanURI, buildPlanID) })
}

// DeploymentPlansWith lists the deployment plans with the golden image.
func (s State) DeploymentPlansWith(imageID string) []DeploymentPlan {
	return keep(s.DeploymentPlans, func(p DeploymentPlan) bool { return refers(p.GoldenImageURI, imageID) })
}

// VolumesOf lists the OS volumes cloned from the golden image.
func (s State) VolumesOf(imageID string) []OSVolume {
	return keep(s.Volumes, func(v OSVolume) bool { return refers(v.GoldenVolumeURI, imageID) })
}

// ProfilesWith lists the server profiles that use the deployment plan.
func (s State) ProfilesWith(planID string) []ServerProfile {
	return keep(s.Profiles, func(p ServerProfile) bool {
		return p.OSDeploymentSettings != nil && refers(p.OSDeploymentSettings.OSDeploymentPlanURI, planID)
	})
}

func keep[T any](all []T, want func(T) bool) []T {
	var out []T
	for _, v := range all {
		if want(v) {
			out = append(out, v)
		}
	}
	return out
}

// refers says whether uri names the id, in whatever collection: a profile may
// name a deployment plan as one of OneView's, and its id in capitals.
func refers(uri, id string) bool {
	uri = strings.TrimSuffix(uri, "/")
	return id != "" && strings.EqualFold(uri[strings.LastIndexByte(uri, '/')+1:], id)
}

// DeploymentPlanID returns the id in a uri of a deployment plan, in its own
// collection or in OneView's.
func DeploymentPlanID(uri string) (string, error) {
	if strings.HasPrefix(uri, OSDeploymentPlans+"/") {
		return IDFromURI(OSDeploymentPlans, uri)
	}
	return IDFromURI(DeploymentPlans, uri)
}

// inUse is the Conflict of changing or deleting what a profile depends on.
func inUse(what, name string, users []string) error {
	return Errorf(Conflict, what+" "+strconv.Quote(name), "is used by %s", strings.Join(users, ", ")).
		Fix("Change or delete what uses it first, or make a copy under another name.")
}

// profilesOf names the profiles behind plans.
func (s State) profilesOf(plans []DeploymentPlan) []string {
	var out []string
	for _, p := range plans {
		for _, u := range s.ProfilesWith(p.ID) {
			out = append(out, "server profile "+strconv.Quote(u.Name))
		}
	}
	return out
}

// errHPProvided refuses to change what came read-only.
func errHPProvided(what, name string) error {
	return Errorf(Forbidden, what+" "+strconv.Quote(name), "is read-only").
		Fix("Make a copy under another name and change that.")
}

// MayChangePlanScript returns nil unless p is read-only or a profile depends on it.
func MayChangePlanScript(p PlanScript, s State) error {
	if p.HPProvided {
		return errHPProvided("plan script", p.Name)
	}
	var plans []DeploymentPlan
	for _, b := range s.BuildPlansUsing(p.ID) {
		plans = append(plans, s.DeploymentPlansOf(b.BuildPlanID)...)
	}
	if users := s.profilesOf(plans); users != nil {
		return inUse("plan script", p.Name, users)
	}
	return nil
}

// MayDeletePlanScript is MayChangePlanScript, and no build plan has it.
func MayDeletePlanScript(p PlanScript, s State) error {
	if err := MayChangePlanScript(p, s); err != nil {
		return err
	}
	var users []string
	for _, b := range s.BuildPlansUsing(p.ID) {
		users = append(users, "OS build plan "+strconv.Quote(b.Name))
	}
	if users != nil {
		return inUse("plan script", p.Name, users)
	}
	return nil
}

// MayChangeBuildPlan returns nil unless p is read-only or a profile depends on it.
func MayChangeBuildPlan(p BuildPlan, s State) error {
	if p.HPProvided {
		return errHPProvided("OS build plan", p.Name)
	}
	if users := s.profilesOf(s.DeploymentPlansOf(p.BuildPlanID)); users != nil {
		return inUse("OS build plan", p.Name, users)
	}
	return nil
}

// MayDeleteBuildPlan is MayChangeBuildPlan, and no deployment plan has it.
func MayDeleteBuildPlan(p BuildPlan, s State) error {
	if err := MayChangeBuildPlan(p, s); err != nil {
		return err
	}
	if users := planNames(s.DeploymentPlansOf(p.BuildPlanID)); users != nil {
		return inUse("OS build plan", p.Name, users)
	}
	return nil
}

func planNames(plans []DeploymentPlan) []string {
	var out []string
	for _, p := range plans {
		out = append(out, "deployment plan "+strconv.Quote(p.Name))
	}
	return out
}

// MayChangeDeploymentPlan returns nil unless p is read-only or a profile has
// it; the same holds for deleting.
func MayChangeDeploymentPlan(p DeploymentPlan, s State) error {
	if p.HPProvided {
		return errHPProvided("deployment plan", p.Name)
	}
	if users := s.profilesOf([]DeploymentPlan{p}); users != nil {
		return inUse("deployment plan", p.Name, users)
	}
	return nil
}

// MayDeleteGoldenImage returns nil unless g is read-only, or a deployment plan
// or an OS volume uses it.
func MayDeleteGoldenImage(g GoldenImage, s State) error {
	if g.ReadOnly {
		return errHPProvided("golden image", g.Name)
	}
	users := planNames(s.DeploymentPlansWith(g.ID))
	for _, v := range s.VolumesOf(g.ID) {
		users = append(users, "OS volume "+strconv.Quote(v.Name))
	}
	if users != nil {
		return inUse("golden image", g.Name, users)
	}
	return nil
}

// MayChangeBundle returns nil unless b is read-only. A public client looks for
// the phrase in the message.
func MayChangeBundle(b ArtifactBundle) error {
	if b.ReadOnly {
		return Errorf(Forbidden, "artifact bundle "+strconv.Quote(b.Name), "is read-only: the artifact bundle is not allowed to be modified").
			Fix("Make a bundle of your own from its artifacts.")
	}
	return nil
}

// Serial is the unit serial number of a volume (SPC-4 7.8.15): its id.
func Serial(volumeID string) string { return strings.ToLower(volumeID) }

// NAA is the designator that the kernel's target makes of Serial (SPC-4
// 7.8.6.6.5, NAA format 6 under the target's company id 001405h): 32
// hexadecimal digits.
func NAA(volumeID string) string {
	return "6001405" + strings.ReplaceAll(Serial(volumeID), "-", "")[:25]
}
