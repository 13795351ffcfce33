package library

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
)

// present is what the domain holds when a bundle is extracted.
type present struct {
	scripts  []domain.PlanScript
	builds   []domain.BuildPlan
	plans    []domain.DeploymentPlan
	goldens  []domain.GoldenImage
	profiles []domain.ServerProfile
}

// extraction is what extracting a bundle will write. Each entity has its id:
// that of the artifact it replaces, else the bundle's own if it is free.
type extraction struct {
	scripts []domain.PlanScript
	builds  []domain.BuildPlan
	plans   []domain.DeploymentPlan
	goldens []goldenPart
}

// goldenPart is an image of the bundle and the row it becomes.
type goldenPart struct {
	from artifact.GoldenImage
	row  domain.GoldenImage
}

// planExtraction decides what extracting b writes, without I/O. In a bundle
// names link things; here they become uris. Without force an artifact whose
// name is taken is a Conflict that lists all of them (spec section 4.6); with
// it the bundle's wins, except over what a server profile uses. A reference to
// something neither in the bundle nor in the domain is Invalid.
func planExtraction(b *artifact.Bundle, bundle domain.ArtifactBundle, have present, force bool, attrs func(string) string) (extraction, error) {
	var x extraction
	var taken []string
	pick := newPicker(&taken)

	scriptURI := map[string]string{}
	for _, s := range have.scripts {
		pick.add("plan script", s.Name, s.ID)
		scriptURI[s.Name] = s.URI
	}
	for _, s := range b.PlanScripts {
		p := domain.PlanScript{
			Resource: domain.Resource{Name: s.Name, Description: s.Description, Status: domain.StatusOK},
			PlanType: s.PlanType, Content: s.Content, CustomAttributes: attrs(s.Content), HPProvided: s.HPProvided,
			DependentArtifacts: []domain.Dependent{},
		}
		p.SetID(pick.id("plan script", s.Name, s.ID))
		scriptURI[p.Name] = p.URI
		x.scripts = append(x.scripts, p)
	}

	buildURI := map[string]string{}
	pick = newPicker(&taken)
	for _, p := range have.builds {
		pick.add("build plan", p.Name, p.BuildPlanID)
		buildURI[p.Name] = p.URI
	}
	for _, p := range b.BuildPlans {
		row := domain.BuildPlan{
			Resource:        domain.Resource{Name: p.Name, Description: p.Description, Status: domain.StatusOK},
			OEBuildPlanType: p.Type, HPProvided: p.HPProvided, BuildStep: []domain.BuildStep{},
			CustomAttributes: attributes(p.CustomAttributes, false), DependentArtifacts: []domain.Dependent{},
		}
		for _, s := range p.Steps {
			uri, ok := scriptURI[s.PlanScriptName]
			if !ok {
				return x, missing(b, "build plan "+p.Name, "plan script", s.PlanScriptName)
			}
			row.BuildStep = append(row.BuildStep, domain.BuildStep{SerialNumber: s.SerialNumber, PlanScriptName: s.PlanScriptName, PlanScriptURI: uri})
		}
		row.SetID(pick.id("build plan", p.Name, p.ID))
		for _, old := range have.builds { // no password is in a bundle
			if old.BuildPlanID == row.BuildPlanID {
				row.CustomAttributes = domain.KeepSecrets(row.CustomAttributes, old.CustomAttributes)
			}
		}
		buildURI[row.Name] = row.URI
		x.builds = append(x.builds, row)
	}

	goldenURI := map[string]string{}
	pick = newPicker(&taken)
	for _, g := range have.goldens {
		pick.add("golden image", g.Name, g.ID)
		goldenURI[g.Name] = g.URI
	}
	for _, g := range b.GoldenImages {
		row := domain.GoldenImage{
			Resource:           domain.Resource{Name: g.Name, Description: g.Description},
			ReadOnly:           g.ReadOnly,
			ImportedFromBundle: true, BundleName: bundle.Name, BundleURI: bundle.URI, ArtifactBundleCategory: "artifact-bundles",
			DependentArtifacts: []domain.Dependent{},
		}
		row.SetID(pick.id("golden image", g.Name, g.ID))
		goldenURI[row.Name] = row.URI
		x.goldens = append(x.goldens, goldenPart{from: g, row: row})
	}

	pick = newPicker(&taken)
	for _, p := range have.plans {
		pick.add("deployment plan", p.Name, p.ID)
	}
	for _, p := range b.DeploymentPlans {
		row := domain.DeploymentPlan{
			Resource:   domain.Resource{Name: p.Name, Description: p.Description, Status: domain.StatusOK},
			HPProvided: p.HPProvided, CustomAttributes: attributes(p.CustomAttributes, true),
		}
		var ok bool
		if row.OEBuildPlanURI, ok = buildURI[p.BuildPlan]; !ok && p.BuildPlan != "" {
			return x, missing(b, "deployment plan "+p.Name, "build plan", p.BuildPlan)
		}
		if row.GoldenImageURI, ok = goldenURI[p.GoldenImage]; !ok && p.GoldenImage != "" {
			return x, missing(b, "deployment plan "+p.Name, "golden image", p.GoldenImage)
		}
		row.SetID(pick.id("deployment plan", p.Name, p.ID))
		for _, old := range have.plans {
			if old.ID == row.ID {
				row.CustomAttributes = domain.KeepSecrets(row.CustomAttributes, old.CustomAttributes)
			}
		}
		x.plans = append(x.plans, row)
	}

	if len(taken) > 0 && !force {
		sort.Strings(taken)
		return x, domain.Errorf(domain.Conflict, "artifact bundle "+bundle.Name, "these exist already: %s", strings.Join(taken, "; ")).
			Fix("Extract with forceImport=true to replace them.", "Or delete them first.")
	}
	return x, inUse(x, have)
}

// inUse refuses to replace what a profile uses: its deployment plan, and a
// build plan or plan script below it that would become another.
func inUse(x extraction, have present) error {
	st := domain.State{BuildPlans: have.builds, DeploymentPlans: have.plans, Profiles: have.profiles}
	for _, p := range x.plans {
		if slices.ContainsFunc(have.plans, func(old domain.DeploymentPlan) bool { return samePlan(old, p) }) {
			continue
		}
		p.HPProvided = false // a newer bundle may replace what came read-only
		if err := domain.MayChangeDeploymentPlan(p, st); err != nil {
			return err
		}
	}
	for _, old := range have.builds {
		i := slices.IndexFunc(x.builds, func(p domain.BuildPlan) bool { return p.BuildPlanID == old.BuildPlanID })
		if i < 0 || sameBuild(old, x.builds[i]) {
			continue
		}
		old.HPProvided = false
		if err := domain.MayChangeBuildPlan(old, st); err != nil {
			return err
		}
	}
	for _, old := range have.scripts {
		i := slices.IndexFunc(x.scripts, func(s domain.PlanScript) bool { return s.ID == old.ID })
		if i < 0 || old.Content == x.scripts[i].Content {
			continue
		}
		old.HPProvided = false
		if err := domain.MayChangePlanScript(old, st); err != nil {
			return err
		}
	}
	return nil
}

// samePlan says whether two rows are the same deployment plan.
func samePlan(a, b domain.DeploymentPlan) bool {
	plain := func(p domain.DeploymentPlan) string {
		return encode([]any{p.ID, p.OEBuildPlanURI, p.GoldenImageURI, plainAttributes(p.CustomAttributes)})
	}
	return plain(a) == plain(b)
}

// plainAttributes has one form for what means the same.
func plainAttributes(in []domain.Attribute) []domain.Attribute {
	out := []domain.Attribute{}
	for _, a := range in {
		editable, visible := a.Editable == nil || *a.Editable, a.Visible == nil || *a.Visible
		a.Editable, a.Visible = &editable, &visible
		out = append(out, a)
	}
	return out
}

// sameBuild says whether two build plans do the same.
func sameBuild(a, b domain.BuildPlan) bool {
	plain := func(p domain.BuildPlan) string {
		return encode([]any{strings.ToLower(p.OEBuildPlanType), append([]domain.BuildStep{}, p.BuildStep...), plainAttributes(p.CustomAttributes)})
	}
	return plain(a) == plain(b)
}

func missing(b *artifact.Bundle, object, kind, name string) error {
	return domain.Errorf(domain.Invalid, "artifact bundle "+b.Name, "%s refers to %s %q, which is neither in the bundle nor in the domain", object, kind, name).
		Fix(fmt.Sprintf("Create or extract the %s first.", kind))
}

// picker gives each artifact of a bundle its id.
type picker struct {
	byName map[string]string
	ids    map[string]bool
	taken  *[]string
}

func newPicker(taken *[]string) *picker {
	return &picker{byName: map[string]string{}, ids: map[string]bool{}, taken: taken}
}

func (p *picker) add(_, name, id string) {
	p.byName[strings.ToLower(name)] = id
	p.ids[id] = true
}

func (p *picker) id(kind, name, own string) string {
	if id, ok := p.byName[strings.ToLower(name)]; ok {
		*p.taken = append(*p.taken, kind+" "+name)
		return id
	}
	if !domain.ValidUUID(own) || p.ids[own] {
		own = domain.NewID()
	}
	p.ids[own] = true
	return own
}

func attributes(in []artifact.CustomAttribute, plan bool) []domain.Attribute {
	out := []domain.Attribute{}
	for _, a := range in {
		d := domain.Attribute{Name: a.Name, Description: a.Description, Type: a.Type, Value: a.Value, Constraints: a.Constraints}
		if plan {
			d.ID = a.ID
			if d.ID == "" {
				d.ID = domain.NewID()
			}
			d.Editable, d.Visible = &a.Editable, &a.Visible
		}
		out = append(out, d)
	}
	return out
}

// members lists a bundle's contents as the interface shows them.
func members(b *artifact.Bundle, row *domain.ArtifactBundle) {
	row.PlanScripts, row.BuildPlans = []domain.BundleMember{}, []domain.BundleMember{}
	row.DeploymentPlans, row.GoldenImage = []domain.BundleMember{}, []domain.BundleMember{}
	for _, s := range b.PlanScripts {
		row.PlanScripts = append(row.PlanScripts, domain.BundleMember{PsID: s.ID, PlanScriptName: s.Name, Description: s.Description, ReadOnly: s.HPProvided})
	}
	for _, p := range b.BuildPlans {
		var names []string
		for _, s := range p.Steps {
			names = append(names, s.PlanScriptName)
		}
		row.BuildPlans = append(row.BuildPlans, domain.BundleMember{BpID: p.ID, BuildPlanName: p.Name, PlanScriptName: strings.Join(names, ", "), Description: p.Description, ReadOnly: p.HPProvided})
	}
	for _, p := range b.DeploymentPlans {
		row.DeploymentPlans = append(row.DeploymentPlans, domain.BundleMember{DpID: p.ID, DeploymentPlanName: p.Name, GoldenImageName: p.GoldenImage, OebpName: p.BuildPlan, Description: p.Description, ReadOnly: p.HPProvided})
	}
	for _, g := range b.GoldenImages {
		row.GoldenImage = append(row.GoldenImage, domain.BundleMember{GiID: g.ID, GoldenimageName: g.Name, Description: g.Description, ReadOnly: g.ReadOnly})
	}
	row.ArtifactsCount = len(b.PlanScripts) + len(b.BuildPlans) + len(b.DeploymentPlans) + len(b.GoldenImages)
	row.ReadOnly = b.ReadOnly
	if row.Description == "" {
		row.Description = b.Description
	}
}
