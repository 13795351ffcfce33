package rest

import (
	"encoding/json"
	"strings"
	"testing"

	"baystream/daemon/domain"
)

const uuid1 = "aaaaaaaa-0000-0000-0000-000000000001"

func TestServerHardware(t *testing.T) {
	g := readyRig(t)
	a := g.want(201, "POST", "/rest/server-hardware", map[string]any{
		"uuid": strings.ToUpper(uuid1), "serialNumber": "S1", "macs": []string{"02-00-00-00-00-01", "02:00:00:00:00:01"}, "frame": "CZ1", "position": 3})
	uri := a.str("uri")
	for path, want := range map[string]any{"uuid": uuid1, "name": "CZ1, bay 3", "macs.0": "02:00:00:00:00:01", "macs.1": nil, "category": "server-hardware"} {
		if got := a.at(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	g.refused(409, "POST", "/rest/server-hardware", map[string]any{"uuid": uuid1}, "registered already")
	g.refused(400, "POST", "/rest/server-hardware", map[string]any{"uuid": "1234"}, "UUID")
	g.refused(400, "PUT", uri, map[string]any{"macs": []string{"02:00"}}, "02:00", "MAC")
	if a := g.want(200, "PUT", "/rest/server-hardware/"+strings.ToUpper(uuid1), map[string]any{"name": "Blade", "serialNumber": "S2"}); a.at("name") != "Blade" {
		t.Errorf("PUT = %s", a.raw)
	}
	if _, err := g.store.ServerHardware.Create(t.Context(), domain.ServerHardware{UUID: "bbbbbbbb-0000-0000-0000-000000000002", Discovered: true, MACs: []string{"02:00:00:00:00:02"}}); err != nil {
		t.Fatal(err)
	}
	a = g.want(201, "POST", "/rest/server-hardware", map[string]any{"uuid": "bbbbbbbb-0000-0000-0000-000000000002", "serialNumber": "S3"})
	if a.at("discovered") != false || a.at("macs.0") != "02:00:00:00:00:02" || a.at("name") != "S3" {
		t.Errorf("a discovered module registered = %s", a.raw)
	}
	// What the firmware said of itself stays known, and a port has one owner.
	const uuid3 = "cccccccc-0000-0000-0000-000000000003"
	if _, err := g.store.ServerHardware.Create(t.Context(), domain.ServerHardware{UUID: uuid3, Discovered: true, SerialNumber: "S9", Model: "M", MACs: []string{"02:00:00:00:00:03"}}); err != nil {
		t.Fatal(err)
	}
	g.refused(409, "PUT", uri, map[string]any{"macs": []string{"02-00-00-00-00-03"}}, "02:00:00:00:00:03", uuid3)
	g.refused(409, "POST", "/rest/server-hardware", map[string]any{"uuid": "dddddddd-0000-0000-0000-000000000004", "macs": []string{"02:00:00:00:00:03"}}, uuid3, "same module")
	a = g.want(201, "POST", "/rest/server-hardware", map[string]any{"uuid": uuid3, "frame": "CZ1", "position": 4, "macs": []string{"02:00:00:00:00:03"}})
	if a.at("serialNumber") != "S9" || a.at("model") != "M" || a.at("name") != "CZ1, bay 4" {
		t.Errorf("a discovered module registered = %s", a.raw)
	}
	g.want(204, "DELETE", uri, nil)
	g.want(404, "GET", uri, nil)
}

func TestServerProfiles(t *testing.T) {
	g := readyRig(t)
	bp := g.buildPlan("B", g.script("S", "@HostName@ @pw@ @VolumeSize@ @Net.ipaddress@ @_Initiator1.mac@"),
		map[string]any{"name": "HostName", "type": "hostname"}, map[string]any{"name": "pw", "type": "password"},
		map[string]any{"name": "Net", "type": "nic"},
		map[string]any{"name": "VolumeSize", "type": "number", "value": "100", "constraints": `{"maximum":"51200"}`})
	plan := g.deploymentPlan("D", bp)
	hw := g.want(201, "POST", "/rest/server-hardware", map[string]any{"uuid": uuid1}).str("uri")
	attr := func(name, value string) map[string]string { return map[string]string{"name": name, "value": value} }
	profile := func(name string, attrs ...map[string]string) map[string]any {
		return map[string]any{"name": name, "serverHardwareUri": hw, "osDeploymentSettings": map[string]any{
			"osDeploymentPlanUri": "/rest/os-deployment-plans/" + plan, "osCustomAttributes": attrs}}
	}
	good := []map[string]string{attr("HostName", "web1"), attr("pw", "secret!"), attr("Net.ipaddress", "192.0.2.7")}

	for _, c := range []struct {
		attr  map[string]string
		texts []string
	}{
		{attr("Colour", "red"), []string{"attribute Colour", "HostName, Net.*, VolumeSize, pw"}},
		{attr("HostName", "a.b"), []string{"attribute HostName", "a.b", "no dot"}},
		{attr("VolumeSize", "99999"), []string{"attribute VolumeSize", "99999", "maximum 51200"}},
		{attr("Net.ipaddress", "300.1.1.1"), []string{"attribute Net.ipaddress", "300.1.1.1"}},
		{attr("Net.colour", "1"), []string{"no part", "ipaddress"}},
	} {
		g.refused(400, "POST", "/rest/server-profiles", profile("P", append(good[:3:3], c.attr)...), c.texts...)
	}
	g.refused(400, "POST", "/rest/server-profiles", profile("P"), "attribute HostName", "has no value")
	missing := profile("P", good...)
	missing["serverHardwareUri"] = "/rest/server-hardware/none"
	g.refused(400, "POST", "/rest/server-profiles", missing, "server hardware", "Register it")
	missing = profile("P", good...)
	missing["osDeploymentSettings"].(map[string]any)["osDeploymentPlanUri"] = "/rest/os-deployment-plans/none"
	g.refused(400, "POST", "/rest/server-profiles", missing, "deployment plan", "none")
	if g.fake.last() != "" {
		t.Errorf("the deployer was asked %q for bad profiles", g.fake.last())
	}

	a := g.want(202, "POST", "/rest/server-profiles", profile("P", good...))
	if got, want := g.fake.last(), "Create profile P by Administrator"; got != want {
		t.Errorf("deployer was asked %q, want %q", got, want)
	}
	uri := a.str("associatedResource.resourceUri")
	if got := g.want(200, "GET", uri, nil); strings.Contains(got.raw, "secret!") || !strings.Contains(got.raw, "web1") {
		t.Errorf("profile = %s, want the password hidden", got.raw)
	}
	if got := g.want(200, "GET", "/rest/server-profiles", nil); strings.Contains(got.raw, "secret!") {
		t.Errorf("profiles = %s, want the password hidden", got.raw)
	}
	g.refused(409, "POST", "/rest/server-profiles", profile("P2", good...), "server profile", "P")
	g.refused(409, "DELETE", hw, nil, `server profile \"P\"`)
	g.refused(409, "PUT", "/rest/deployment-plans/"+plan, map[string]any{"name": "D"}, "is used by")
	g.refused(409, "DELETE", "/rest/deployment-plans/"+plan, nil, "is used by")
	g.refused(409, "PUT", "/rest/build-plans/"+bp, map[string]any{"name": "B"}, "is used by")
	if a := g.want(200, "GET", "/rest/deployment-plans/"+plan+"/usedby", nil); a.at("members.0.name") != "P" {
		t.Errorf("usedby = %s", a.raw)
	}
	id := uri[strings.LastIndex(uri, "/")+1:]
	if a := g.want(200, "GET", "/rest/stateless-servers/"+id, nil); a.at("serverProfileName") != "P" {
		t.Errorf("stateless server = %s", a.raw)
	}

	// A client reads, changes, and sends the whole back, password masked.
	var body map[string]any
	if err := json.Unmarshal([]byte(g.want(200, "GET", uri, nil).raw), &body); err != nil {
		t.Fatal(err)
	}
	body["description"] = "changed"
	g.want(202, "PUT", uri, body)
	p, err := g.store.ServerProfiles.Get(t.Context(), id)
	if err != nil || p.OSDeploymentSettings.OSCustomAttributes[1].Value != "secret!" || p.Description != "changed" {
		t.Errorf("after PUT: %+v, %v", p.OSDeploymentSettings, err)
	}
	g.want(412, "PUT", uri, body)
	g.want(202, "DELETE", uri, "{}")
	g.want(404, "DELETE", uri, "{}")
	g.want(202, "POST", "/rest/server-profiles", map[string]any{"name": "bare"})
}

func TestOSVolumes(t *testing.T) {
	g := readyRig(t)
	v, err := g.store.OSVolumes.Create(t.Context(), domain.OSVolume{Resource: domain.Resource{Name: "vol1"}, OEVolumeIP: "198.51.100.3",
		StatelessServerURI: "/rest/stateless-servers/x", ServerProfileName: "gone profile"})
	if err != nil {
		t.Fatal(err)
	}
	a := g.want(200, "GET", "/rest/os-volumes/", nil, "Content-Type", "application/json")
	for path, want := range map[string]any{"members.0.type": "OeVolume", "members.0.oeVolumeId": v.OEVolumeID, "members.0.oeVolumeIQN": v.OEVolumeIQN, "members.0.category": "os-volumes"} {
		if got := a.at(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	g.want(200, "GET", v.URI, nil)
	for _, id := range []string{v.OEVolumeID, "VOL1"} {
		a := g.want(200, "GET", "/rest/os-volumes/archive/"+id, nil, "Accept", "application/octetstream;q=0.8, application/json")
		if a.raw != "part 1 of "+v.OEVolumeID {
			t.Errorf("log = %q", a.raw)
		}
	}
	if a := g.want(200, "GET", v.URI+"/storage", nil); a.at("provisionedBytes") != float64(1) {
		t.Errorf("storage = %s", a.raw)
	}
	if a := g.want(200, "GET", "/rest/stateless-servers/x", nil); a.at("serverProfileName") != "gone profile" {
		t.Errorf("stateless server = %s", a.raw)
	}
	g.want(404, "GET", "/rest/os-volumes/archive/none", nil)
	g.want(404, "GET", v.URI+"/colour", nil)
	g.want(409, "DELETE", v.URI+"?purge=true", nil)
	g.want(202, "DELETE", v.URI, nil)
	if _, err := g.store.OSVolumes.Update(t.Context(), v.OEVolumeID, func(v *domain.OSVolume) error { v.State = domain.VolumeTrash; return nil }); err != nil {
		t.Fatal(err)
	}
	g.want(409, "DELETE", v.URI, nil)
	g.want(202, "DELETE", v.URI+"?purge=true", nil)
}

func TestTheRestOfTheInterface(t *testing.T) {
	g := readyRig(t)
	for target, want := range map[string]map[string]any{
		"/rest/deployment-groups":                                     {"total": 1.0, "members.0.name": "OSS"},
		"/rest/deployment-groups/" + domain.DeploymentGroupID:         {"id": domain.DeploymentGroupID},
		"/rest/deployment-servers":                                    {"category": "deployment-managers", "members.0.state": "Connected"},
		"/rest/deployment-servers/" + domain.DeploymentServerID:       {"deplManagersType": "Image Streamer", "primaryIPV4": "192.0.2.10"},
		"/rest/deployment-servers/network":                            {"managementIpv4Address": "192.0.2.10"},
		"/rest/deployment-servers/image-streamer-appliances":          {"members.0.name": "CZ1, appliance 1", "members.0.cimBay": 1.0},
		"/rest/deployment-servers/image-streamer-appliances/" + uuid0: {"applianceUri": "/rest/image-streamer-appliances/" + uuid0},
		"/rest/tasks":              {"category": "tasks", "total": 0.0},
		"/rest/baystream/hw":       {"part": "hw"},
		"/rest/baystream/net":      {"part": "net"},
		"/rest/baystream/storage":  {"part": "storage"},
		"/rest/baystream/cluster":  {"part": "cluster"},
		"/rest/baystream/health":   {"status": "Warning", "appliance.name": "CZ1, appliance 1", "parts.2.detail": "OS volume of Alice: stuck"},
		"/rest/stateless-servers/": {"total": 0.0},
	} {
		a := g.want(200, "GET", target, nil)
		for path, v := range want {
			if got := a.at(path); got != v {
				t.Errorf("GET %s: %s = %v, want %v", target, path, got, v)
			}
		}
	}
	if a := g.want(200, "GET", "/rest/baystream/support-dump?limit=100000", nil); a.raw != "PK dump of 100000" || !strings.Contains(a.header.Get("Content-Disposition"), "baystream-CZ1__appliance_1-") {
		t.Errorf("support dump = %q %v", a.raw, a.header)
	}
	g.want(400, "GET", "/rest/baystream/support-dump?limit=all", nil)
	if a := g.want(200, "GET", "/rest/baystream/logs?follow=true&format=json", nil); a.raw != `{"lines":1000,"follow":true}` {
		t.Errorf("logs = %q", a.raw)
	}
	g.want(400, "GET", "/rest/baystream/logs?format=xml", nil)
	g.refused(400, "PUT", "/rest/baystream/syslog", map[string]string{"server": "log.example", "level": "loud"}, "level")
	g.want(200, "PUT", "/rest/baystream/syslog", map[string]string{"server": "log.example"})
	if a := g.want(200, "GET", "/rest/baystream/syslog", nil); a.at("server") != "log.example:6514" || a.at("level") != "INFO" {
		t.Errorf("syslog = %s", a.raw)
	}
	if a := g.want(200, "GET", "/rest/baystream/logs?lines=5", nil); a.raw != "5 lines\n" {
		t.Errorf("logs = %q", a.raw)
	}
	g.want(400, "GET", "/rest/baystream/logs?lines=many", nil)
	g.want(404, "GET", "/rest/deployment-groups/none", nil)
	g.want(404, "GET", "/rest/deployment-servers/none", nil)
	g.want(404, "GET", "/rest/deployment-servers/image-streamer-appliances/none", nil)
	server := "/rest/deployment-servers/" + domain.DeploymentServerID
	g.want(409, "POST", "/rest/deployment-servers", map[string]string{"name": "x"})
	g.want(409, "DELETE", server+"?force=true", nil)
	g.want(200, "PUT", server, map[string]string{"primaryActiveAppliance": "/rest/image-streamer-appliances/" + uuid0})
	g.want(400, "PUT", server, map[string]string{"primaryActiveAppliance": "/rest/image-streamer-appliances/other"})

	g.refused(404, "GET", "/rest/nothing", nil, "/rest/nothing", "not served")
	if a := g.want(405, "PATCH", "/rest/plan-scripts", nil); !strings.Contains(a.header.Get("Allow"), "POST") {
		t.Errorf("Allow = %q", a.header.Get("Allow"))
	}
	g.want(405, "POST", "/rest/os-volumes", nil)
}

const uuid0 = "11111111-2222-3333-4444-555555555555"

func TestTasksAreServedWithoutTheirInsides(t *testing.T) {
	g := readyRig(t)
	a := g.want(202, "POST", "/rest/server-profiles", map[string]any{"name": "bare"})
	got := g.want(200, "GET", a.header.Get("Location"), nil)
	for path, want := range map[string]any{"data.shown": "yes", "data.baystream": nil, "type": "TaskResourceV2", "category": "tasks", "taskState": "Completed"} {
		if v := got.at(path); v != want {
			t.Errorf("%s = %v, want %v", path, v, want)
		}
	}
	for _, l := range []string{"progressUpdates", "taskErrors", "taskOutput"} {
		if _, ok := got.at(l).([]any); !ok {
			t.Errorf("%s is no list: %s", l, got.raw)
		}
	}
	if strings.Contains(got.raw, "baystream.kind") {
		t.Errorf("task shows its insides: %s", got.raw)
	}
}
