package plan

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAttributesOfAScript(t *testing.T) {
	script := `# for @Host@
echo @Host:web@ @Host:later@ @NIC.mac@ @NIC.vlanid:0@ @_Initiator1.ip@
pvcreate @Disk:/dev/sda@1 -L@Size:16@G
<Proxy>@Address@:@Port@</Proxy>
for u in "${array[@]}" $@ a@b.org x@y "$@" @ @@ @@NoAttribute@@ @9lives@ @echo off
@Half:default`
	var got []string
	for _, a := range Attributes(script) {
		s := a.Name + "/" + a.Base + "/" + a.Part
		if a.HasDefault {
			s += "=" + a.Default
		}
		if a.Reserved {
			s += " reserved"
		}
		got = append(got, s)
	}
	want := []string{"Host/Host/=web", "NIC.mac/NIC/mac", "NIC.vlanid/NIC/vlanid=0", "_Initiator1.ip/_Initiator1/ip reserved",
		"Disk/Disk/=/dev/sda", "Size/Size/=16", "Address/Address/", "Port/Port/"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Attributes (-want +got):\n%s", diff)
	}
}

func TestSubstitute(t *testing.T) {
	values := map[string]string{"A": "1", "B.C": "", "NIC.mac": "aa:bb", "Tricky": "@A@ @@ $x"}
	for _, tt := range []struct{ in, want string }{
		{"x", "x"},
		{"@A@", "1"},
		{"@A@@A@.@A:9@", "11.1"},
		{"-L@A@G", "-L1G"},
		{"@N:d e/f (g)@!", "d e/f (g)!"},
		{"@N@ # default below\n@N:5@", "5 # default below\n5"},
		{"@N:@|", "|"},
		{"[@B.C@]", "[]"},
		{"[@NIC.gateway@]", "[]"}, // a part of an attribute that has others
		{"@@A@@ a@@b", "@A@ a@b"},
		{`"${array[@]}" $@ a@b.org "$@"`, `"${array[@]}" $@ a@b.org "$@"`},
		{"@A\n@", "@A\n@"},
		{"@A:x\ny@", "@A:x\ny@"},
		{"@", "@"},
		{"@A", "@A"},
		{"@Tricky@", "@A@ @@ $x"}, // values are not looked through again
	} {
		got, _, err := Substitute(tt.in, values)
		if err != nil || got != tt.want {
			t.Errorf("Substitute(%q) = %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}

func TestExpandNamesWhatHasNoValue(t *testing.T) {
	_, err := Expand(Script{Name: "set host", Text: "a\n@Host@\n\n@Other.part@ @Host@"}, nil)
	want := "plan script set host: no value for @Host@ in line 2, @Other.part@ in line 4, @Host@ in line 4: set it in the server profile or the deployment plan, or write @Host:default@"
	var ue *UnknownError
	if !errors.As(err, &ue) || err.Error() != want {
		t.Errorf("Expand = %v, want %s", err, want)
	}
	_, unknowns, _ := Substitute("a\n@Host@", nil)
	if diff := cmp.Diff([]Unknown{{Name: "Host", Line: 2}}, unknowns); diff != "" {
		t.Errorf("unknowns (-want +got):\n%s", diff)
	}
}

func TestExpandMasksSecretsOnly(t *testing.T) {
	e, err := Expand(Script{Name: "s", Text: "echo @Pw@ @User@ x"}, map[string]Value{"Pw": {"x", true}, "User": {"me", false}})
	want := Expanded{Script: "s", Text: "echo x me x", Masked: "echo ******** me x"}
	if err != nil || e != want {
		t.Errorf("Expand = %+v, %v, want %+v", e, err, want)
	}
}

func TestExpandRefusesLineBreaksAndFloods(t *testing.T) {
	if _, err := Expand(Script{Name: "s", Text: "@A@"}, map[string]Value{"A": {Text: "x\n!rm -rf /"}}); err == nil || !strings.Contains(err.Error(), "attribute A") {
		t.Errorf("Expand with a line break in a value = %v", err)
	}
	big := map[string]Value{"A": {Text: strings.Repeat("x", 1<<20)}}
	if _, err := Expand(Script{Name: "s", Text: strings.Repeat("@A@", 100)}, big); err == nil {
		t.Error("Expand to 100 MiB succeeded")
	}
}

func TestMaskerSeesSecretsAcrossWrites(t *testing.T) {
	for _, tt := range []struct {
		secrets []string
		writes  []string
		want    string
	}{
		{[]string{"secret"}, []string{"a sec", "ret b"}, "a ******** b"},
		{[]string{"secret"}, []string{"a sec"}, "a sec"},
		{[]string{"secret", "secrets!"}, []string{"secrets", " secrets! secret"}, "********s ******** ********"},
		{[]string{"", "aa"}, []string{"aaa"}, "********a"},
		{nil, []string{"x"}, "x"},
	} {
		var b strings.Builder
		m := newMasker(&b, tt.secrets)
		for _, w := range tt.writes {
			if n, err := m.Write([]byte(w)); n != len(w) || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
		}
		if err := m.Close(); err != nil || b.String() != tt.want {
			t.Errorf("%q through mask of %q = %q, %v, want %q", tt.writes, tt.secrets, b.String(), err, tt.want)
		}
	}
}

func FuzzSubstitute(f *testing.F) {
	f.Add("echo @A@ @B:x@ @@ ${a[@]}", "value")
	f.Fuzz(func(t *testing.T, script, value string) {
		attrs := Attributes(script)
		values := map[string]string{}
		for _, a := range attrs {
			values[a.Name] = value
		}
		out, unknowns, err := Substitute(script, values)
		if err != nil && (len(unknowns) > 0 || !strings.ContainsAny(value, "\n\r\x00") && len(script)*(len(value)+1) < maxExpanded) {
			t.Errorf("with a value for each of %v: %v", attrs, err)
		}
		if err == nil && strings.Count(out, "\n") != strings.Count(script, "\n") {
			t.Error("line numbers changed")
		}
		if !strings.Contains(script, "@") && err == nil && out != script {
			t.Errorf("a script without attributes changed: %q", out)
		}
	})
}
