package rest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"baystream/daemon/domain"
)

// script stores a plan script and returns its id.
func (g *rig) script(name, content string) string {
	g.t.Helper()
	return g.want(201, "POST", "/rest/plan-scripts", map[string]any{
		"type": "PlanScript", "name": name, "planType": "deploy", "content": content,
	}).str("id")
}

func (g *rig) buildPlan(name, scriptID string, attrs ...map[string]any) string {
	g.t.Helper()
	return g.want(201, "POST", "/rest/build-plans", map[string]any{
		"type": "OeBuildPlanV5", "name": name, "oeBuildPlanType": "Deploy", "customAttributes": attrs,
		"buildStep": []any{map[string]any{"serialNumber": "1", "parameters": nil, "planScriptName": "x", "planScriptUri": "/rest/plan-scripts/" + scriptID}},
	}).str("buildPlanid")
}

func (g *rig) deploymentPlan(name, buildPlanID string, attrs ...map[string]any) string {
	g.t.Helper()
	return g.want(201, "POST", "/rest/deployment-plans", map[string]any{
		"type": "OEDeploymentPlanV5", "name": name, "oeBuildPlanURI": "/rest/build-plans/" + buildPlanID, "customAttributes": attrs,
	}).str("id")
}

func TestPlanScripts(t *testing.T) {
	g := readyRig(t)
	made := g.want(201, "POST", "/rest/plan-scripts", map[string]any{
		"type": "PlanScript", "name": "Set name", "planType": "deploy", "content": "echo @DomainName@ @Size:10@",
		"customAttributes": "[]", "id": "ignored", "hpProvided": true,
	})
	id := made.str("id")
	uri := "/rest/plan-scripts/" + id
	for path, want := range map[string]any{
		"type": "PlanScript", "uri": uri, "category": "plan-scripts", "name": "Set name", "hpProvided": false, "taskState": "Completed",
		"customAttributes": `[{"name":"DomainName","value":""},{"name":"Size","value":"10"}]`, "status": "OK", "planType": "deploy",
	} {
		if got := made.at(path); got != want {
			t.Errorf("created %s = %v, want %v", path, got, want)
		}
	}
	if made.header.Get("Location") != uri {
		t.Errorf("Location = %q", made.header.Get("Location"))
	}
	g.refused(409, "POST", "/rest/plan-scripts", map[string]any{"name": "set NAME", "planType": "deploy"}, "set NAME", "exists already")
	g.refused(400, "POST", "/rest/plan-scripts", map[string]any{"name": "", "planType": "deploy"}, "no name")
	g.refused(400, "POST", "/rest/plan-scripts", map[string]any{"name": "x", "planType": "both"}, "both", "general")
	g.refused(400, "POST", "/rest/plan-scripts", map[string]any{"name": 7}, "name", "number")
	g.refused(400, "POST", "/rest/plan-scripts", "not json", "not JSON")

	// A client reads, changes, and sends the whole back.
	var body map[string]any
	if err := json.Unmarshal([]byte(g.want(200, "GET", uri+"/", nil).raw), &body); err != nil {
		t.Fatal(err)
	}
	body["description"] = "changed"
	if a := g.want(200, "PUT", uri, body); a.at("description") != "changed" || a.at("taskState") != "Completed" {
		t.Errorf("PUT = %s", a.raw)
	}
	g.refused(412, "PUT", uri, body, "eTag", "Read the resource again")
	g.want(200, "PUT", uri, body, "If-Match", "*")
	g.want(404, "GET", "/rest/plan-scripts/none", nil)
	g.want(404, "PUT", "/rest/plan-scripts/none", body)

	for _, c := range []struct{ contentType, body, want string }{
		{"application/json", `"echo @DomainName:x@ @New@"`, `{"caAdded":["New"],"caRemoved":["Size"],"contentChanged":true,"defaultValueChanged":[{"name":"DomainName","oldValue":"","newValue":"x"}]}`},
		{"", "", `{"caAdded":[],"caRemoved":[],"contentChanged":false,"defaultValueChanged":[]}`},
		{"text/plain", "echo", `{"caAdded":[],"caRemoved":["DomainName","Size"],"contentChanged":true,"defaultValueChanged":[]}`},
	} {
		a := g.want(200, "POST", "/rest/plan-scripts/differences/"+id, c.body, "Content-Type", c.contentType)
		if got := strings.TrimSpace(a.raw); got != c.want {
			t.Errorf("differences of %q = %s, want %s", c.body, got, c.want)
		}
	}

	if a := g.want(200, "GET", uri+"/usedby/readonly", nil); strings.TrimSpace(a.raw) != "[]" {
		t.Errorf("usedby of an unused script = %s", a.raw)
	}
	g.buildPlan("Plan", id)
	if a := g.want(200, "GET", uri+"/usedby/readonly", nil); a.at("0.name") != "Plan" {
		t.Errorf("usedby = %s", a.raw)
	}
	if a := g.want(200, "GET", uri, nil); a.at("dependentArtifacts.0.name") != "Plan" {
		t.Errorf("dependentArtifacts: %s", a.raw)
	}
	g.refused(409, "DELETE", uri, "{}", "used by", "Plan")
	body["name"], body["eTag"] = "Renamed", ""
	g.want(200, "PUT", uri, body)
	if a := g.want(200, "GET", "/rest/build-plans", nil); a.at("members.0.buildStep.0.planScriptName") != "Renamed" {
		t.Errorf("build plan does not know the script's new name: %s", a.raw)
	}
	other := g.script("Other", "")
	g.want(204, "DELETE", "/rest/plan-scripts/"+other, "{}")
	g.refused(404, "DELETE", "/rest/plan-scripts/"+other, "{}", "plan script "+other)
}

func TestReadOnlyArtifactsStay(t *testing.T) {
	g := readyRig(t)
	p, err := g.store.PlanScripts.Create(t.Context(), domain.PlanScript{
		Resource: domain.Resource{Name: "HPE"}, PlanType: "deploy", HPProvided: true})
	if err != nil {
		t.Fatal(err)
	}
	g.refused(403, "PUT", p.URI, map[string]any{"name": "Mine", "planType": "deploy"}, "read-only")
	g.refused(403, "DELETE", p.URI, nil, "read-only")
	b, err := g.store.ArtifactBundles.Create(t.Context(), domain.ArtifactBundle{
		Resource: domain.Resource{Name: "HPE bundle"}, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	g.refused(403, "PUT", b.URI, map[string]any{"name": "Mine"}, "the artifact bundle is not allowed to be modified")
	g.refused(403, "DELETE", b.URI, nil, "read-only")
	g.want(202, "PUT", b.URI+"?extract=true", nil)
}

func TestBuildPlans(t *testing.T) {
	g := readyRig(t)
	id := g.buildPlan("Plan", g.script("S", "@a@"),
		map[string]any{"name": "a", "type": "String", "value": "x", "constraints": "{}"},
		map[string]any{"name": "pw", "type": "password", "value": "hidden", "constraints": "{}"})
	uri := "/rest/build-plans/" + id
	a := g.want(200, "GET", uri, nil)
	for path, want := range map[string]any{
		"type": "OeBuildPlanV5", "oeBuildPlanType": "Deploy", "buildStep.0.planScriptName": "S", "buildStep.0.parameters": nil,
		"customAttributes.0.type": "String", "customAttributes.0.value": "x", "customAttributes.1.value": "", "etag": a.at("eTag"),
	} {
		if got := a.at(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	if a := g.want(200, "GET", uri, nil, "X-API-Version", "300"); a.at("type") != "OeBuildPlan" {
		t.Errorf("type in version 300 = %v", a.at("type"))
	}
	g.want(200, "PUT", uri, a.raw)
	stored, err := g.store.BuildPlans.Get(t.Context(), id)
	if err != nil || stored.CustomAttributes[1].Value != "hidden" {
		t.Errorf("a masked password sent back became %q, %v", stored.CustomAttributes[1].Value, err)
	}
	bad := func(text string, plan map[string]any) {
		t.Helper()
		plan["name"] = "bad"
		if plan["oeBuildPlanType"] == nil {
			plan["oeBuildPlanType"] = "deploy"
		}
		g.refused(400, "POST", "/rest/build-plans", plan, text)
	}
	step := func(uri string) []any {
		return []any{map[string]any{"serialNumber": "1", "planScriptUri": uri}}
	}
	bad("does not exist", map[string]any{"buildStep": step("/rest/plan-scripts/none")})
	bad("for capture", map[string]any{"buildStep": step(domain.PlanScripts + "/" + g.want(201, "POST", "/rest/plan-scripts", map[string]any{"name": "cap", "planType": "capture"}).str("id"))})
	bad("wipe", map[string]any{"oeBuildPlanType": "wipe"})
	bad("twice", map[string]any{"customAttributes": []any{map[string]any{"name": "a"}, map[string]any{"name": "a"}}})
	bad("maximum 5", map[string]any{"customAttributes": []any{map[string]any{"name": "a", "type": "number", "value": "6", "constraints": `{"maximum":"5"}`}}})
	dp := g.deploymentPlan("D", id)
	g.refused(409, "DELETE", uri, nil, `deployment plan \"D\"`)
	g.want(204, "DELETE", "/rest/deployment-plans/"+dp, nil)
	g.want(204, "DELETE", uri, "{}")
}

func TestDeploymentPlans(t *testing.T) {
	g := readyRig(t)
	bp := g.buildPlan("B", g.script("S", "@a@ @pw@"),
		map[string]any{"name": "a", "type": "string"}, map[string]any{"name": "pw", "type": "password"})
	id := g.deploymentPlan("D", bp,
		map[string]any{"name": "a", "value": "x", "description": "An a"},
		map[string]any{"name": "pw", "value": "hidden", "visible": false})
	uri := "/rest/deployment-plans/" + id
	a := g.want(200, "GET", uri, nil)
	for path, want := range map[string]any{
		"type": "OEDeploymentPlanV5", "oeBuildPlanURI": "/rest/build-plans/" + bp, "goldenImageURI": "", "customAttributes.0.type": "string",
		"customAttributes.0.editable": true, "customAttributes.1.visible": false, "customAttributes.1.value": "", "customAttributes.1.type": "password",
	} {
		if got := a.at(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	if a := g.want(200, "GET", uri, nil, "X-API-Version", "300"); a.at("type") != "OEDeploymentPlan" {
		t.Errorf("type in version 300 = %v", a.at("type"))
	}
	g.want(200, "PUT", uri, a.raw)
	if p, err := g.store.DeploymentPlans.Get(t.Context(), id); err != nil || p.CustomAttributes[1].Value != "hidden" {
		t.Errorf("a masked password sent back became %q, %v", p.CustomAttributes[1].Value, err)
	}
	for _, u := range []string{uri + "/osdp/", "/rest/os-deployment-plans/" + id} {
		a = g.want(200, "GET", u, nil)
		for path, want := range map[string]any{
			"type": "Osdp", "category": "os-deployment-plans", "deploymentType": "i3s", "nativePlanUri": uri, "uri": "/rest/os-deployment-plans/" + id,
			"additionalParameters.0.name": "a", "additionalParameters.0.caType": "string", "additionalParameters.0.caEditable": true, "additionalParameters.1": nil,
		} {
			if got := a.at(path); got != want {
				t.Errorf("%s %s = %v, want %v", u, path, got, want)
			}
		}
	}
	if a := g.want(200, "GET", "/rest/os-deployment-plans/", nil); a.at("total") != float64(1) {
		t.Errorf("os-deployment-plans = %s", a.raw)
	}
	if a := g.want(200, "GET", uri+"/usedby", nil); a.at("total") != float64(0) {
		t.Errorf("usedby = %s", a.raw)
	}
	g.refused(400, "POST", "/rest/deployment-plans", map[string]any{"name": "X", "oeBuildPlanURI": "/rest/build-plans/none"}, "does not exist")
	g.refused(400, "POST", "/rest/deployment-plans", map[string]any{"name": "X", "goldenImageURI": "/rest/golden-images/none"}, "does not exist")
}

// form is an upload as the Python client sends it: a boundary that needs no
// quotes but looks as if, and an extra line break behind.
func form(filename, content string, fields ...string) (body, contentType string) {
	const b = "----------ThIs_Is_tHe_bouNdaRY_$"
	var s strings.Builder
	for i := 0; i+1 < len(fields); i += 2 {
		fmt.Fprintf(&s, "--%s\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", b, fields[i], fields[i+1])
	}
	fmt.Fprintf(&s, "--%s\r\nContent-Disposition: form-data; name=\"file\"; filename=%q\r\nContent-Type: application/octet-stream\r\n\r\n%s\r\n--%s--\r\n\r\n", b, filename, content, b)
	return s.String(), "multipart/form-data; boundary=" + b
}

func TestGoldenImages(t *testing.T) {
	g := readyRig(t)
	body, ct := form("image.zip", "bytes of an image")
	a := g.want(202, "POST", "/rest/golden-images?name=First%20image&description=d", body, "Content-Type", ct, "uploadfilename", "image.zip")
	if got, want := g.fake.last(), "Upload First image|d|image.zip|17"; got != want {
		t.Errorf("library was asked %q, want %q", got, want)
	}
	if a.header.Get("Location") != a.str("uri") || a.at("category") != "tasks" || a.at("type") != "TaskResourceV2" {
		t.Errorf("202 with Location %q: %s", a.header.Get("Location"), a.raw)
	}
	uri := a.str("associatedResource.resourceUri")
	body, ct = form("image.zip", "x", "name", "Second", "description", "by Ruby")
	g.want(202, "POST", "/rest/golden-images", body, "Content-Type", ct)
	if got, want := g.fake.last(), "Upload Second|by Ruby|image.zip|1"; got != want {
		t.Errorf("library was asked %q, want %q", got, want)
	}
	g.want(202, "POST", "/rest/golden-images?name=Third", "raw bytes", "Content-Type", "application/octet-stream")
	if got, want := g.fake.last(), "Upload Third||Third|9"; got != want {
		t.Errorf("library was asked %q, want %q", got, want)
	}
	body, ct = form("image.zip", "x")
	g.want(409, "POST", "/rest/golden-images?name=third", body, "Content-Type", ct)
	g.want(400, "POST", "/rest/golden-images?name=cut", body[:120], "Content-Type", ct)
	g.want(400, "POST", "/rest/golden-images?name=none", "--"+strings.TrimPrefix(ct, "multipart/form-data; boundary=")+"--\r\n", "Content-Type", ct)
	g.want(400, "POST", "/rest/golden-images", "x", "Content-Type", "application/octet-stream")
	g.want(400, "POST", "/rest/golden-images", "x", "Content-Type", "multipart/form-data")

	g.refused(400, "POST", "/rest/golden-images", map[string]any{"name": "c"}, "no source")
	g.want(404, "POST", "/rest/golden-images", map[string]any{"name": "c", "imageCapture": "true", "osVolumeURI": "/rest/os-volumes/none"})
	v, err := g.store.OSVolumes.Create(t.Context(), domain.OSVolume{Resource: domain.Resource{Name: "v"}, GoldenVolumeURI: uri})
	if err != nil {
		t.Fatal(err)
	}
	for _, capture := range []any{true, "true"} {
		g.want(202, "POST", "/rest/golden-images", map[string]any{"type": "GoldenImage", "name": "c", "imageCapture": capture, "osVolumeURI": v.URI})
	}
	if a := g.want(200, "GET", uri, nil); a.at("dependentArtifacts.0.name") != "v" {
		t.Errorf("dependentArtifacts: %s", a.raw)
	}
	g.refused(409, "DELETE", uri, "{}", `OS volume \"v\"`)
	if err := g.store.OSVolumes.Delete(t.Context(), v.OEVolumeID); err != nil {
		t.Fatal(err)
	}
	id := uri[strings.LastIndex(uri, "/")+1:]
	a = g.want(200, "GET", "/rest/golden-images/download/"+id, nil, "Accept", "application/octetstream;q=0.8, application/json")
	if a.raw != "PK image" || a.header.Get("Content-Disposition") != "attachment; filename*=utf-8''image%20%C3%BC.zip" {
		t.Errorf("download = %q, %q", a.raw, a.header.Get("Content-Disposition"))
	}
	g.want(404, "GET", "/rest/golden-images/download/none", nil)
	g.want(404, "GET", "/rest/golden-images/archive/"+id, nil)
	g.want(202, "PUT", uri, map[string]any{"name": "New name"})
	g.want(202, "DELETE", uri, "{}")
	g.want(404, "GET", uri, nil) // with a body, which Ruby parses
}

func TestArtifactBundles(t *testing.T) {
	g := readyRig(t)
	body, ct := form("HPE-Bundle.zip", "PK")
	a := g.want(202, "POST", "/rest/artifact-bundles", body, "Content-Type", ct, "Accept", "", "uploadfilename", "HPE-Bundle.zip")
	if got, want := g.fake.last(), "Upload Administrator HPE-Bundle.zip 2"; got != want {
		t.Errorf("library was asked %q, want %q", got, want)
	}
	uri := a.str("associatedResource.resourceUri")
	id := uri[strings.LastIndex(uri, "/")+1:]
	for _, c := range []struct{ query, contentType, body, want string }{
		{"?extract=true&forceImport=true", "text/plain;charset=UTF-8", "null", "Extract true"}, // Python
		{"?extract=true", "application/json", "", "Extract false"},                             // Ruby
		{"", "text/plain;charset=UTF-8", "", "Extract false"},                                  // Java
		{"", "application/json", `{"name":"Other","type":"ArtifactsBundle"}`, "Rename Other "},
	} {
		g.want(202, "PUT", uri+c.query, c.body, "Content-Type", c.contentType)
		if got := g.fake.last(); got != c.want {
			t.Errorf("PUT %s %s: library was asked %q, want %q", c.query, c.contentType, got, c.want)
		}
	}
	g.want(400, "PUT", uri+"?extract=maybe", "")
	g.want(400, "PUT", uri, "", "Content-Type", "application/json")
	g.refused(409, "PUT", uri+"/stopArtifactCreate", map[string]string{"taskUri": "x"}, "not being made")
	if a := g.want(200, "GET", uri, nil); a.at("downloadURI") != "/rest/artifact-bundles/download/"+id || a.at("buildPlans") == nil {
		t.Errorf("bundle = %s", a.raw)
	}
	if a := g.want(200, "GET", "/rest/artifact-bundles/download/"+id, nil); a.raw != "PK zip" || a.header.Get("Content-Type") != "application/zip" {
		t.Errorf("download = %q %v", a.raw, a.header)
	}
	g.want(202, "POST", "/rest/artifact-bundles", map[string]any{"name": "Made", "planScripts": []any{map[string]any{"resourceUri": "/rest/plan-scripts/1", "readOnly": false}}})
	g.refused(400, "POST", "/rest/artifact-bundles", map[string]any{"name": "Made"}, "empty")
	if a := g.want(200, "GET", "/rest/artifact-bundles/backups", nil); a.at("total") != float64(0) {
		t.Errorf("backups = %s", a.raw)
	}
	g.want(202, "POST", "/rest/artifact-bundles/backups/archive?deploymentGrpUri=x", body, "Content-Type", ct, "uploadfilename", "b.zip")
	if got, want := g.fake.last(), "Add backup Administrator HPE-Bundle.zip"; got != want {
		t.Errorf("library was asked %q, want %q", got, want)
	}
	group := map[string]any{"deploymentGroupURI": "/rest/deployment-groups/x"}
	backup := g.want(202, "POST", "/rest/artifact-bundles/backups", group).str("associatedResource.resourceUri")
	if a := g.want(200, "GET", backup, nil); a.at("backupService") != true {
		t.Errorf("backup = %s", a.raw)
	}
	if a := g.want(200, "GET", "/rest/artifact-bundles/backups", nil); a.at("total") != 2.0 {
		t.Errorf("backups = %s", a.raw)
	}
	if a := g.want(200, "GET", strings.Replace(backup, "/backups/", "/backups/archive/", 1), nil); a.raw != "PK zip" {
		t.Errorf("backup's archive = %q", a.raw)
	}
	g.want(202, "PUT", backup, group)
	g.want(404, "PUT", "/rest/artifact-bundles/backups/"+id, group)
	g.want(404, "GET", "/rest/artifact-bundles/backups/"+id, nil)
	g.want(404, "GET", "/rest/artifact-bundles/backups/archive/"+id, nil)
	g.want(202, "DELETE", uri, "{}")
}
