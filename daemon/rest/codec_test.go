package rest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBooleansMayBeQuoted(t *testing.T) {
	type inner struct {
		Visible *bool  `json:"visible"`
		Value   string `json:"value"`
	}
	type body struct {
		HPProvided bool    `json:"hpProvided"`
		Name       string  `json:"name"`
		Attributes []inner `json:"attributes"`
	}
	yes := true
	var got body
	err := unmarshal([]byte(`{"hpProvided": "false", "attributes": [{"visible":"true","value":"true"}], "name":"false"}`), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := body{Name: "false", Attributes: []inner{{Visible: &yes, Value: "true"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{
		`{"hpProvided":"perhaps"}`,
		`{"hpProvided":1}`,
		`{"attributes":[` + strings.Repeat(`{"visible":"true"},`, quotedBools+1) + `{}]}`,
	} {
		if err := unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%.40s: taken", bad)
		}
	}
}
