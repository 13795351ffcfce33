package domain

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func no() *bool { b := false; return &b }

func attr(name, typ, value string) Attribute { return Attribute{Name: name, Type: typ, Value: value} }

func TestMergeAttributes(t *testing.T) {
	scripts := []ScriptAttribute{
		{Name: "Host"}, {Name: "Domain", Value: "script.org"}, {Name: "Size"}, {Name: "Note"}, {Name: "Secret"},
		{Name: "Net.mac"}, {Name: "Net.ipaddress"}, {Name: "Net.netmask"}, {Name: "Net.vlanid", Value: "0"}, {Name: "_Initiator1.mac"},
		{Name: "Loose"}, {Name: "Loose", Value: "elsewhere"}, {Name: "Blank", HasDefault: true},
	}
	bp := BuildPlan{CustomAttributes: []Attribute{
		attr("Host", "hostname", "built"), attr("Domain", "fqdn", ""), attr("Note", "String", ""), attr("Secret", "password", ""), attr("Net", "nic", ""),
		{Name: "Size", Type: "number", Value: "5", Constraints: `{"minimum":"1","maximum":"10"}`},
	}}
	dp := DeploymentPlan{CustomAttributes: []Attribute{
		attr("Host", "hostname", "planned"), {Name: "Size", Value: "6", Editable: no(), Constraints: "{}"}, attr("Secret", "", "s3cret"),
	}}
	base := map[string]string{"Host": "planned", "Size": "6", "Note": "", "Secret": "s3cret"}
	with := func(more ...string) map[string]string {
		m := maps.Clone(base)
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name    string
		profile []Attribute
		want    map[string]string
		fails   string
	}{
		{"defaults", nil, base, ""},
		{"profile wins", []Attribute{attr("Host", "", "mine"), attr("Domain", "", "my.org"), attr("Loose", "", "x")}, with("Host", "mine", "Domain", "my.org", "Loose", "x"), ""},
		{"masked password stays", []Attribute{attr("Secret", "", "")}, base, ""},
		{"empty string is a value", []Attribute{attr("Note", "", "")}, base, ""},
		{"network", []Attribute{attr("Net.ipaddress", "", "192.0.2.1"), attr("Net.netmask", "", "255.255.255.0"), attr("Net.dhcp", "", "false"), attr("Net", "nic", "")},
			with("Net.ipaddress", "192.0.2.1", "Net.netmask", "255.255.255.0", "Net.dhcp", "false"), ""},
		{"same value of a fixed attribute", []Attribute{attr("Size", "", "6")}, base, ""},
		{"unknown", []Attribute{attr("host", "", "x")}, nil, "attribute host: is not one of the plan's|Blank, Domain, Host, Loose, Net.*, Note, Secret, Size"},
		{"reserved", []Attribute{attr("_Initiator1.mac", "", "x")}, nil, "not one of the plan's"},
		{"fixed", []Attribute{attr("Size", "", "7")}, nil, "attribute Size|not editable"},
		{"bad value", []Attribute{attr("Host", "", "a.b")}, nil, `attribute Host: "a.b"`},
		{"bad part", []Attribute{attr("Net.speed", "", "1")}, nil, `no part "speed"|ipaddress`},
		{"bad address", []Attribute{attr("Net.gateway", "", "1.2.3")}, nil, `attribute Net.gateway: "1.2.3"`},
		{"bad vlan", []Attribute{attr("Net.vlanid", "", "4095")}, nil, "0 to 4094"},
		{"no netmask", []Attribute{attr("Net.ipaddress", "", "192.0.2.1")}, nil, "Net.netmask: is missing"},
		{"value for a network", []Attribute{attr("Net", "", "x")}, nil, "takes no value itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, secrets, err := MergeAttributes(scripts, bp, dp, c.profile)
			if c.fails != "" {
				if KindOf(err) != Invalid || err == nil {
					t.Fatalf("MergeAttributes = %v, want Invalid", err)
				}
				all := err.Error() + " " + strings.Join(err.(*Error).Remedy, " ")
				for _, want := range strings.Split(c.fails, "|") {
					if !strings.Contains(all, want) {
						t.Errorf("MergeAttributes = %q, want %q in it", all, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]bool{"Secret": true}, secrets); diff != "" {
				t.Errorf("secrets (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeAttributesWantsValues(t *testing.T) {
	for _, c := range []struct {
		def  Attribute
		want bool
	}{{attr("A", "string", ""), true}, {attr("A", "password", ""), true}, {attr("A", "number", ""), false}, {attr("A", "ipv4", ""), false},
		{attr("A", "option", ""), false}, {Attribute{Name: "A", Type: "password", Constraints: `{"minlen":"1"}`}, false},
		{Attribute{Name: "A", Type: "string", Constraints: `{"regex":".+"}`}, false}, {attr("Other", "string", "x"), false}} {
		_, _, err := MergeAttributes([]ScriptAttribute{{Name: "A"}}, BuildPlan{CustomAttributes: []Attribute{c.def}}, DeploymentPlan{}, nil)
		if (err == nil) != c.want {
			t.Errorf("MergeAttributes without a value for %+v = %v, want ok %v", c.def, err, c.want)
		}
	}
	// What no script asks for may stay open.
	if _, _, err := MergeAttributes(nil, BuildPlan{CustomAttributes: []Attribute{attr("A", "number", "")}}, DeploymentPlan{}, nil); err != nil {
		t.Errorf("MergeAttributes of an unused attribute = %v", err)
	}
}

func TestNetworkConstraints(t *testing.T) {
	for _, c := range []struct{ constraints, part, value, want string }{
		{`{"ipv4dhcp":false}`, "dhcp", "true", "DHCP"},
		{`{"ipv4dhcp":false}`, "constraint", "dhcp", "DHCP"},
		{`{"ipv4disable":false}`, "ipv4disable", "true", "without IPv4"},
		{`{"ipv4static":false}`, "ipaddress", "192.0.2.1", "static"},
		{`{"ipv4static":true}`, "ipaddress", "192.0.2.1", ""},
		{`{}`, "dhcp", "true", ""},
	} {
		bp := BuildPlan{CustomAttributes: []Attribute{{Name: "N", Type: "nic", Constraints: c.constraints}}}
		_, _, err := MergeAttributes(nil, bp, DeploymentPlan{}, []Attribute{attr("N."+c.part, "", c.value)})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("N.%s=%s under %s = %v, want %q", c.part, c.value, c.constraints, err, c.want)
		}
	}
}

func TestVolumeSize(t *testing.T) {
	for _, c := range []struct {
		value string
		mib   int64
		good  bool
	}{{"1", 1, true}, {"51200", 51200, true}, {"0", 0, false}, {"-1", 0, false}, {"1.5", 0, false}, {"99999999999", 0, false}, {"x", 0, false}} {
		mib, ok, err := VolumeSizeMiB(map[string]string{"volumesize": c.value})
		if !ok || (err == nil) != c.good || mib != c.mib {
			t.Errorf("VolumeSizeMiB(%s) = %d, %v, %v", c.value, mib, ok, err)
		}
	}
	if _, ok, err := VolumeSizeMiB(nil); ok || err != nil {
		t.Errorf("VolumeSizeMiB(none) = %v, %v", ok, err)
	}
}

func TestKeepSecrets(t *testing.T) {
	had := []Attribute{attr("p", "password", "old"), attr("s", "string", "old"), attr("q", "password", "old")}
	got := KeepSecrets([]Attribute{attr("p", "Password", ""), attr("s", "string", ""), attr("q", "password", "new"), attr("p2", "password", "")}, had)
	want := []Attribute{attr("p", "Password", "old"), attr("s", "string", ""), attr("q", "password", "new"), attr("p2", "password", "")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("KeepSecrets (-want +got):\n%s", diff)
	}
}

func TestAssignMACs(t *testing.T) {
	values := map[string]string{"B.connectionid": "1", "A.ipaddress": "192.0.2.1", "C.mac": "02:00:00:00:00:0C", "C.dhcp": "true", "Plain": "x", "D.vlanid": "0"}
	AssignMACs(values, []string{"02:00:00:00:00:01", "02:00:00:00:00:02"})
	var got []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if strings.HasSuffix(k, ".mac") {
			got = append(got, k+"="+values[k])
		}
	}
	if want := "A.mac=02:00:00:00:00:02 B.mac=02:00:00:00:00:01 C.mac=02:00:00:00:00:0C"; strings.Join(got, " ") != want {
		t.Errorf("AssignMACs = %v, want %s", got, want)
	}
}
