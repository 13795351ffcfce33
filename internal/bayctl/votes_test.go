package bayctl

import (
	"strings"
	"testing"
)

const threeVotes = `{"status":"OK","verdict":"3 votes: any one may be lost","active":"VF1, appliance 1","voters":3,"healthy":3,"needed":2,"members":[
 {"name":"SA","title":"VF1, appliance 1","role":"appliance","vote":true,"healthy":true,"active":true,"loss":"management moves to VF2, appliance 1"},
 {"name":"SB","title":"VF2, appliance 1","role":"appliance","vote":true,"healthy":true,"loss":"nothing stops, but then no other vote may be lost"},
 {"name":"SW","title":"VF3, appliance 1","role":"witness","vote":true,"leader":true,"healthy":false,"loss":"lost already"}],
 "groups":[{"name":"1","owner":"VF1, appliance 1","home":"VF1, appliance 1","epoch":7,"state":"in sync"}]}`

func TestVotesInOneScreen(t *testing.T) {
	newAppliance(t, map[string]string{"GET /rest/baystream/votes": threeVotes})
	out, err := command(t, "votes")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"any one may be lost", "management moves to VF2", "vote, active", "LOST", "leads the domain state", "in sync"} {
		if !strings.Contains(out, want) {
			t.Errorf("votes lacks %q:\n%s", want, out)
		}
	}
	if n := strings.Count(out, "\n"); n > 24 {
		t.Errorf("votes takes %d lines, more than a screen", n)
	}
}

func TestClaimComparesTheFingerprint(t *testing.T) {
	key := strings.Repeat("ab", 32)
	a := newAppliance(t, map[string]string{
		"GET /rest/baystream/appliances": `{"total":1,"members":[{"id":"SB","frame":"VF2","bay":"appliance bay 1","fingerprint":"` + key + `","state":"unclaimed"}]}`,
		"POST /rest/baystream/appliances": `{"id":"SB","frame":"VF2","bay":"appliance bay 1","role":"appliance","state":"joining",
			"warnings":["module SA is in the same frame: the loss of frame VF2 takes both"]}`,
		"POST /rest/baystream/active":             ``,
		"DELETE /rest/baystream/appliances/SB":    ``,
		"POST /rest/baystream/domain":             `{"id":"d1","name":"production"}`,
		"GET /rest/baystream/domain":              `{"id":"d1","name":"production"}`,
		"DELETE /rest/baystream/appliances/a%2Fb": ``,
	})
	if out, err := command(t, "appliance", "list"); err != nil || !strings.Contains(out, "unclaimed") {
		t.Errorf("list: %v\n%s", err, out)
	}
	if out, err := command(t, "appliance", "show", "SB"); err != nil || !strings.Contains(out, "key:   "+key) {
		t.Errorf("show: %v\n%s", err, out)
	}
	for _, c := range []struct {
		args string
		want string // in the error; empty: it works
	}{
		{"appliance claim SB --role appliance", "--fingerprint " + key},
		{"appliance claim SB --role appliance --fingerprint " + strings.Repeat("cd", 32), "another module"},
		{"appliance claim SX --role witness --fingerprint " + key, "does not announce itself"},
		{"appliance claim --role witness --address 192.0.2.1:7973", "--fingerprint"},
		{"appliance claim --role witness", "want the ID"},
		{"appliance claim SB", "role"},
		{"appliance claim SB --role appliance --fingerprint " + strings.ToUpper(key), ""},
		{"appliance claim --role witness --address 192.0.2.1:7973 --fingerprint " + key, ""},
		{"appliance remove SB", ""},
		{"appliance remove a/b", ""},
		{"appliance activate", ""},
		{"appliance show SB", ""},
		{"appliance show SX", "does not announce itself"},
		{"domain switchover", ""},
		{"domain create production", ""},
		{"domain show", ""},
	} {
		a.asked = nil
		out, err := command(t, strings.Fields(c.args)...)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v\n%s", c.args, err, out)
		}
		if c.want == "" {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v, want an error that says %q", c.args, err, c.want)
		}
		if asked := strings.Join(a.asked, " "); strings.Contains(asked, "POST") {
			t.Errorf("%s asked %s: nothing should have been claimed", c.args, asked)
		}
	}
}
