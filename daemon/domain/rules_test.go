package domain

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"x": true, "HPE - RHEL 7.2 (EFI) - 2017-03-24": true, "Ä": true, strings.Repeat("x", 255): true,
		"": false, " x": false, "x ": false, "a\nb": false, "\xff": false, strings.Repeat("x", 256): false,
	} {
		if err := CheckName("plan script", name); (err == nil) != want {
			t.Errorf("CheckName(%q) = %v, want ok %v", name, err, want)
		}
	}
}

// library answers a Lookup.
func library() Lookup {
	none := func(id string) error { return Errorf(NotFound, id, "does not exist") }
	script := func(id, typ string) PlanScript {
		p := PlanScript{Resource: Resource{Name: "script " + id}, PlanType: typ}
		p.SetID(id)
		return p
	}
	return Lookup{
		PlanScript: func(id string) (PlanScript, error) {
			if id == "deploy" || id == "capture" || id == "General" {
				return script(id, id), nil
			}
			return PlanScript{}, none(id)
		},
		BuildPlan: func(id string) (BuildPlan, error) {
			if id != "deploy" && id != "capture" {
				return BuildPlan{}, none(id)
			}
			p := BuildPlan{Resource: Resource{Name: id}, OEBuildPlanType: id,
				CustomAttributes: []Attribute{{Name: "n", Type: "number", Constraints: `{"maximum":"9"}`}}}
			p.SetID(id)
			return p, nil
		},
		GoldenImage: func(id string) (GoldenImage, error) {
			if id == "broken" {
				return GoldenImage{}, errors.New("disk")
			}
			return GoldenImage{}, none(id)
		},
	}
}

func TestCheckBuildPlan(t *testing.T) {
	plan := func(typ string, steps ...string) BuildPlan {
		p := BuildPlan{Resource: Resource{Name: "P"}, OEBuildPlanType: typ}
		for _, s := range steps {
			p.BuildStep = append(p.BuildStep, BuildStep{PlanScriptURI: s})
		}
		return p
	}
	got, err := CheckBuildPlan(plan("Deploy", "/rest/plan-scripts/deploy", "General"), library())
	if err != nil {
		t.Fatal(err)
	}
	want := []BuildStep{
		{SerialNumber: "1", PlanScriptName: "script deploy", PlanScriptURI: "/rest/plan-scripts/deploy"},
		{SerialNumber: "2", PlanScriptName: "script General", PlanScriptURI: "/rest/plan-scripts/General"},
	}
	if diff := cmp.Diff(want, got.BuildStep); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	for want, p := range map[string]BuildPlan{
		"for capture":     plan("deploy", "capture"),
		"does not exist":  plan("deploy", "none"),
		"oeBuildPlanType": plan("both"),
		"planScriptUri":   plan("deploy", "/rest/golden-images/a/b"),
		"serialNumber":    {Resource: Resource{Name: "P"}, OEBuildPlanType: "deploy", BuildStep: []BuildStep{{SerialNumber: "x", PlanScriptURI: "deploy"}}},
	} {
		if _, err := CheckBuildPlan(p, library()); KindOf(err) != Invalid || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckBuildPlan = %v, want Invalid with %q", err, want)
		}
	}
}

func TestCheckDeploymentPlan(t *testing.T) {
	plan := func(build, image string, attrs ...Attribute) DeploymentPlan {
		return DeploymentPlan{Resource: Resource{Name: "P"}, OEBuildPlanURI: build, GoldenImageURI: image, CustomAttributes: attrs}
	}
	got, err := CheckDeploymentPlan(plan("deploy", "", Attribute{Name: "n", Value: "5"}), library())
	if err != nil {
		t.Fatal(err)
	}
	a := got.CustomAttributes[0]
	if a.Type != "number" || a.Constraints != `{"maximum":"9"}` || !*a.Editable || !*a.Visible || a.ID == "" || got.OEBuildPlanURI != "/rest/build-plans/deploy" {
		t.Errorf("CheckDeploymentPlan = %+v", got)
	}
	for want, p := range map[string]DeploymentPlan{
		"for capture":    plan("capture", ""),
		"does not exist": plan("none", ""),
		"golden image":   plan("", "none"),
		"maximum 9":      plan("deploy", "", Attribute{Name: "n", Value: "10"}),
		"twice":          plan("deploy", "", Attribute{Name: "n"}, Attribute{Name: "n"}),
	} {
		if _, err := CheckDeploymentPlan(p, library()); KindOf(err) != Invalid || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckDeploymentPlan = %v, want Invalid with %q", err, want)
		}
	}
	if _, err := CheckDeploymentPlan(plan("", "broken"), library()); KindOf(err) != Internal || err == nil {
		t.Errorf("a fault of the store became %v", err)
	}
}

func TestWhoUsesWhat(t *testing.T) {
	script := PlanScript{ID: "s", Resource: Resource{Name: "S"}}
	build := BuildPlan{BuildPlanID: "b", Resource: Resource{Name: "B"}, BuildStep: []BuildStep{{PlanScriptURI: "/rest/plan-scripts/s"}}}
	plan := DeploymentPlan{ID: "d", Resource: Resource{Name: "D"}, OEBuildPlanURI: "/rest/build-plans/b", GoldenImageURI: "/rest/golden-images/g"}
	image := GoldenImage{ID: "g", Resource: Resource{Name: "G"}}
	profile := ServerProfile{ID: "p", Resource: Resource{Name: "P"}, OSDeploymentSettings: &OSDeploymentSettings{OSDeploymentPlanURI: "/rest/os-deployment-plans/d"}}
	volume := OSVolume{Resource: Resource{Name: "V"}, GoldenVolumeURI: "/rest/golden-images/g"}
	nobody := State{}
	plans := State{BuildPlans: []BuildPlan{build}, DeploymentPlans: []DeploymentPlan{plan}}
	all := plans
	all.Profiles, all.Volumes = []ServerProfile{profile, {ID: "bare"}}, []OSVolume{volume}
	for _, c := range []struct {
		name  string
		check func(State) error
		want  [3]string // in the error, for nobody, plans, all; "" means allowed
	}{
		{"change script", func(s State) error { return MayChangePlanScript(script, s) }, [3]string{"", "", `server profile "P"`}},
		{"delete script", func(s State) error { return MayDeletePlanScript(script, s) }, [3]string{"", `OS build plan "B"`, `server profile "P"`}},
		{"change build plan", func(s State) error { return MayChangeBuildPlan(build, s) }, [3]string{"", "", `server profile "P"`}},
		{"delete build plan", func(s State) error { return MayDeleteBuildPlan(build, s) }, [3]string{"", `deployment plan "D"`, `server profile "P"`}},
		{"change deployment plan", func(s State) error { return MayChangeDeploymentPlan(plan, s) }, [3]string{"", "", `server profile "P"`}},
		{"delete image", func(s State) error { return MayDeleteGoldenImage(image, s) }, [3]string{"", `deployment plan "D"`, `OS volume "V"`}},
	} {
		for i, s := range []State{nobody, plans, all} {
			err := c.check(s)
			if (err == nil) != (c.want[i] == "") || err != nil && (KindOf(err) != Conflict || !strings.Contains(err.Error(), c.want[i])) {
				t.Errorf("%s in state %d = %v, want %q", c.name, i, err, c.want[i])
			}
		}
	}
	script.HPProvided, build.HPProvided, plan.HPProvided, image.ReadOnly = true, true, true, true
	for _, err := range []error{MayChangePlanScript(script, nobody), MayChangeBuildPlan(build, nobody), MayChangeDeploymentPlan(plan, nobody),
		MayDeleteGoldenImage(image, nobody), MayChangeBundle(ArtifactBundle{ReadOnly: true})} {
		if KindOf(err) != Forbidden || err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("change of something read-only = %v, want Forbidden", err)
		}
	}
}

func TestNamesOnTheWire(t *testing.T) {
	id := "0B7C9D5E-1234-4ABC-8DEF-001122334455"
	for _, c := range []struct{ what, got, want string }{
		{"TargetIQN", TargetIQN(id), "iqn.2026-11.org.baystream:0b7c9d5e-1234-4abc-8def-001122334455"},
		{"InitiatorIQN", InitiatorIQN(id), "iqn.2026-11.org.baystream.server:0b7c9d5e-1234-4abc-8def-001122334455"},
		{"Serial", Serial(id), "0b7c9d5e-1234-4abc-8def-001122334455"},
		{"NAA", NAA(id), "60014050b7c9d5e12344abc8def00112"},
	} {
		if c.got != c.want {
			t.Errorf("%s = %s, want %s", c.what, c.got, c.want)
		}
	}
	for uri, want := range map[string]string{
		"/rest/deployment-plans/x": "x", "/rest/os-deployment-plans/x/": "x", "x": "x", "/rest/plan-scripts/x": "", "": "",
	} {
		if id, err := DeploymentPlanID(uri); id != want || (err == nil) != (want != "") {
			t.Errorf("DeploymentPlanID(%q) = %q, %v, want %q", uri, id, err, want)
		}
	}
}

func TestExplain(t *testing.T) {
	one := Errorf(Conflict, "plan script x", "exists already").Fix("Choose another.")
	te := Explain(fmt.Errorf("step 1: %w", one))
	if te.ErrorCode != "BAYSTREAM_RESOURCE_CONFLICT" || te.ErrorSource != "plan script x" || te.Message != "step 1: plan script x: exists already" ||
		len(te.RecommendedActions) != 1 || te.NestedErrors == nil || te.Data == nil {
		t.Errorf("Explain = %+v", te)
	}
	if te := Explain(errors.Join(errors.New("a"), one)); len(te.NestedErrors) != 2 || te.NestedErrors[1].ErrorSource != "plan script x" {
		t.Errorf("Explain(joined) = %+v", te)
	}
	for k := Internal; k <= Unsupported; k++ {
		if codes[k] == "" {
			t.Errorf("kind %d has no code", k)
		}
	}
}

func TestAPlanIsInUseHoweverAProfileSpellsIt(t *testing.T) {
	p := DeploymentPlan{Resource: Resource{Name: "D"}}
	p.SetID("aaaaaaaa-0000-0000-0000-00000000000f")
	for _, uri := range []string{p.URI, OSDeploymentPlans + "/" + p.ID, OSDeploymentPlans + "/" + strings.ToUpper(p.ID), p.URI + "/"} {
		profile := ServerProfile{OSDeploymentSettings: &OSDeploymentSettings{OSDeploymentPlanURI: uri}}
		if err := MayChangeDeploymentPlan(p, State{Profiles: []ServerProfile{profile}}); KindOf(err) != Conflict {
			t.Errorf("plan named as %s = %v, want Conflict", uri, err)
		}
	}
}
