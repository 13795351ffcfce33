package cluster

import (
	"strings"
	"testing"

	"baystream/daemon/domain"
)

// votes makes voters out of words: "a*" is active, "-" before a name is lost,
// "~" a live copy, and w… are witnesses.
func votes(words ...string) []Voter {
	var all []Voter
	for _, w := range words {
		v := Voter{Vote: true, Healthy: true, Role: domain.RoleOfAppliance}
		if rest, ok := strings.CutPrefix(w, "-"); ok {
			w, v.Healthy = rest, false
		}
		if rest, ok := strings.CutPrefix(w, "~"); ok {
			w, v.Vote = rest, false
		}
		if rest, ok := strings.CutSuffix(w, "*"); ok {
			w, v.Active = rest, true
		}
		if strings.HasPrefix(w, "w") {
			v.Role = domain.RoleOfWitness
		}
		v.Name = w
		v.Standby = v.Role == domain.RoleOfAppliance && v.Vote && !v.Active
		all = append(all, v)
	}
	return all
}

func TestVotesSayWhatTheNextLossDoes(t *testing.T) {
	for _, c := range []struct {
		have    string
		status  string
		verdict string
		loss    map[string]string // parts of what each says
	}{
		{"a*", domain.StatusOK, "development configuration", map[string]string{"a": "everything stops"}},
		{"a* b", domain.StatusWarning, "two votes", map[string]string{"a": "the domain state stops", "b": "the domain state stops"}},
		{"a* -b", domain.StatusCritical, "until b is back", map[string]string{"a": "stops", "b": "lost already"}},
		{"a* b w", domain.StatusOK, "any one may be lost", map[string]string{"a": "management moves to b", "b": "no other vote may be lost", "w": "no other vote may be lost"}},
		{"a b* w", domain.StatusOK, "any one may be lost", map[string]string{"b": "management moves to a"}},
		{"a* b -w", domain.StatusWarning, "w is lost", map[string]string{"a": "the domain state stops", "b": "the domain state stops", "w": "lost already"}},
		{"a* -b w", domain.StatusWarning, "b is lost", map[string]string{"a": "the domain state stops", "w": "the domain state stops"}},
		{"a -b -w", domain.StatusCritical, "1 of 3 votes answer and 2 are needed", map[string]string{"a": "the domain state stops"}},
		{"a* b w ~c", domain.StatusOK, "3 votes", map[string]string{"c": "nothing stops"}},
		{"a* b w c d", domain.StatusOK, "any 2 may be lost", map[string]string{"w": "nothing stops"}},
		{"a* b -w c d", domain.StatusWarning, "1 more of 5", map[string]string{"c": "no other vote may be lost"}},
		{"a* w w2", domain.StatusOK, "3 votes", map[string]string{"a": "management stops until an appliance is back"}},
		{"", domain.StatusCritical, "not known", nil},
	} {
		r := Votes(votes(strings.Fields(c.have)...))
		if r.Status != c.status || !strings.Contains(r.Verdict, c.verdict) {
			t.Errorf("Votes(%s) = %s %q, want %s with %q", c.have, r.Status, r.Verdict, c.status, c.verdict)
		}
		for _, m := range r.Members {
			if want := c.loss[m.Name]; !strings.Contains(m.Loss, want) {
				t.Errorf("Votes(%s): loss of %s: %q, want %q", c.have, m.Name, m.Loss, want)
			}
		}
	}
}
