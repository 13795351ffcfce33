package rest

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestCollections(t *testing.T) {
	g := readyRig(t)
	for i, name := range []string{"delta", "Alpha", "bravo", "it's", "Charlie (x*)"} {
		g.want(201, "POST", "/rest/plan-scripts", map[string]any{
			"name": name, "planType": []string{"deploy", "capture"}[i%2], "content": fmt.Sprint(i), "description": "about " + name})
	}
	for _, c := range []struct{ query, want string }{
		{"", "Alpha bravo Charlie (x*) delta it's"},
		{"start=0&count=-1", "Alpha bravo Charlie (x*) delta it's"},
		{"start=1&count=2", "bravo Charlie (x*)"},
		{"start=9", ""},
		{"count=0", ""},
		{"sort=name:descending", "it's delta Charlie (x*) bravo Alpha"},
		{"sort=planType:asc,name:desc", "it's Alpha delta Charlie (x*) bravo"},
		{`filter="name='alpha'"`, "Alpha"},           // Python
		{`filter=name matches 'Alpha'`, "Alpha"},     // Go
		{`filter=name matches 'a*'`, "Alpha"},        //
		{`filter=name like '%25a'`, "Alpha delta"},   //
		{`filter=planType=capture`, "Alpha it's"},    // no quotes
		{`filter=name=Charlie (x*)`, "Charlie (x*)"}, //
		{`filter=name matches 'Charlie (x*)'`, "Charlie (x*)"},
		{`filter="name='it's'"`, "it's"}, // an apostrophe that nobody escaped
		{`filter=name='it''s'`, "it's"},
		{`filter=planType='deploy' and name='bravo'`, "bravo"},
		{`filter=planType=deploy and not (name='bravo' or name='delta')`, "Charlie (x*)"},
		{`filter=planType='deploy'&filter=name='bravo'`, "bravo"},
		{`filter=name ne 'bravo' AND planType EQ 'deploy'`, "Charlie (x*) delta"},
		{`filter=name<'b'`, "Alpha"},
		{`query=name EQ 'bravo'`, "bravo"},
		{`filter=hpProvided=true`, ""},
		{`filter=hpProvided=false and name=bravo`, "bravo"},
		{`filter="name='nobody'"`, ""},
		{`filter=status=OK&count=1`, "Alpha"},
		{`view=expand`, "Alpha bravo Charlie (x*) delta it's"},
	} {
		q := strings.ReplaceAll(c.query, " ", "%20")
		a := g.want(200, "GET", "/rest/plan-scripts?"+q, nil)
		if got := a.names(); got != c.want {
			t.Errorf("members of ?%s = %q, want %q", c.query, got, c.want)
		}
	}
	for _, q := range []string{"filter=name", "filter=name=", "filter=name='x", "filter=colour='red'", "filter=(name='x'", "filter=name='x')",
		"filter=and", "filter=" + strings.Repeat("(", 99), "sort=colour", "sort=name:sideways", "start=-1", "count=-2", "count=x"} {
		g.want(400, "GET", "/rest/plan-scripts?"+strings.ReplaceAll(q, " ", "%20"), nil)
	}
	g.refused(400, "GET", "/rest/plan-scripts?filter=colour%3D'red'", nil, "colour='red'", "planType")

	a := g.want(200, "GET", "/rest/plan-scripts?filter=planType%3Ddeploy&start=1&count=1", nil)
	if a.at("total") != 3.0 || a.at("start") != 1.0 || a.at("count") != 1.0 || a.at("category") != "plan-scripts" {
		t.Errorf("page = %s", a.raw)
	}
	next, err := url.Parse(a.str("nextPageUri"))
	if err != nil || next.Path != "/rest/plan-scripts" || next.Query().Get("filter") != "planType=deploy" || next.Query().Get("start") != "2" {
		t.Errorf("nextPageUri = %v, %v", next, err)
	}
	last := g.want(200, "GET", next.String(), nil)
	if last.names() != "delta" || last.at("nextPageUri") != nil || !strings.Contains(last.str("prevPageUri"), "start=1") {
		t.Errorf("last page = %s", last.raw)
	}
	a = g.want(200, "GET", "/rest/plan-scripts?fields=NAME,uri&count=1", nil)
	if m := a.at("members.0").(map[string]any); len(m) != 2 || m["name"] != "Alpha" || m["uri"] == nil {
		t.Errorf("fields = %v", m)
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{`"name='x'"`, "name matches 'x'", "oeBuildPlanType=capture", "not (a=b or c<>d)", `name="x" and`, "((", `'name' = "it's"`} {
		f.Add(s)
	}
	known := []string{"name", "oeBuildPlanType", "a", "c"}
	o := object{"name": "x", "a": 1.5, "c": nil}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseFilter("filter", s, known); err == nil {
			p(o)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{{"abc", "abc", true}, {"abc", "abcd", false}, {"bc", "abc", false}, {"a*", "abc", true}, {"*c", "abc", true}, {"a%c", "abc", true},
		{"*b*", "abc", true}, {"*", "", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "acb", false}, {"", "", true}, {"", "x", false}, {"ab*ba", "aba", false}} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v, want %v", c.pattern, c.s, got, c.want)
		}
	}
}
