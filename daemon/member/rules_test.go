package member

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
)

// at is a module: "S1 f1 b1 a" has serial S1, sits in frame f1, bay b1, and is
// an appliance (w: witness); "!" before it is in quarantine.
func at(text string) domain.Module {
	state := domain.ModuleMember
	if rest, ok := strings.CutPrefix(text, "!"); ok {
		text, state = rest, domain.ModuleQuarantined
	}
	f := strings.Fields(text)
	role := map[string]string{"a": domain.RoleOfAppliance, "w": domain.RoleOfWitness, "": ""}[strings.Join(f[3:], "")]
	return domain.Module{ID: f[0], Frame: f[1], Bay: f[2], Role: role, Fingerprint: "key of " + f[0], State: state}
}

func TestDecide(t *testing.T) {
	otherKey := at("S1 f1 b1")
	otherKey.Fingerprint = "another"
	foreign := at("S9 f9 b1")
	foreign.State = domain.ModuleForeign
	a, w := domain.RoleOfAppliance, domain.RoleOfWitness
	pair := []string{"S1 f1 b1 a", "S2 f2 b1 a"}
	for _, c := range []struct {
		name     string
		have     []string
		c        domain.Module
		role     string
		replaces string
		want     Action
		says     string
	}{
		{"second appliance", pair[:1], at("S2 f2 b1"), a, "", Join, ""},
		{"witness", pair, at("S3 f3 b1 w"), w, "", Join, ""},
		{"same frame warns", pair[:1], at("S2 f1 b2"), a, "", Join, "takes both"},
		{"third appliance", pair, at("S3 f3 b1"), a, "", Refuse, "complete"},
		{"blank one for a dead one", pair, at("S4 f2 b1"), a, "S2", Replace, ""},
		{"blank one without saying so", pair, at("S4 f2 b1"), a, "", Quarantine, "belongs to module S2"},
		{"bay spelled otherwise", []string{"S1 f1 B1 a"}, at("S4 f1 b1"), a, "", Quarantine, "S1"},
		{"of no known frame", pair[:1], domain.Module{ID: "S5"}, a, "", Join, ""},
		{"claimed twice", pair, at("S2 f2 b1"), a, "", Rejoin, ""},
		{"known but reset", pair, otherKey, a, "", Refuse, "another key"},
		{"known but reset, replaced by itself", pair, otherKey, a, "S1", Replace, ""},
		{"in quarantine", []string{"S1 f1 b1 a", "!S4 f1 b1 a"}, at("S4 f1 b1"), a, "", Refuse, "quarantine"},
		{"quarantine takes no place", []string{"S1 f1 b1 a", "!S4 f2 b1 a"}, at("S2 f2 b1"), a, "", Join, ""},
		{"of another domain", nil, foreign, a, "", Refuse, "another domain"},
		{"witness bay", pair[:1], at("S3 f3 b1 w"), a, "", Refuse, "for the role witness"},
		{"no role", nil, at("S3 f3 b1"), "chief", "", Refuse, "not a role"},
		{"no serial", nil, domain.Module{}, a, "", Refuse, "no serial"},
		{"replaces nobody known", pair, at("S4 f2 b1"), a, "S8", Refuse, "S8"},
	} {
		var have []domain.Module
		for _, h := range c.have {
			have = append(have, at(h))
		}
		d := Decide(have, c.c, c.role, c.replaces)
		text := d.Why + strings.Join(d.Warnings, "")
		if d.Action != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%s: Decide = %s %q, want %s with %q", c.name, d.Action, text, c.want, c.says)
		}
		if (d.Action == Refuse || d.Action == Quarantine) && d.Remedy == "" {
			t.Errorf("%s: %s without a remedy", c.name, d.Action)
		}
		if d.Action == Replace && d.Replaces != c.replaces {
			t.Errorf("%s: replaces %q, want %q", c.name, d.Replaces, c.replaces)
		}
	}
}

func TestReturning(t *testing.T) {
	known := map[string]uint64{"1": 4, "2": 7}
	for _, c := range []struct {
		now  map[string]uint64
		want bool
	}{
		{map[string]uint64{"1": 4, "2": 7}, false},
		{map[string]uint64{"1": 5, "2": 7}, true},
		{map[string]uint64{"1": 4, "3": 1}, true},
		{nil, false},
	} {
		if got := Returning(known, c.now); got != c.want {
			t.Errorf("Returning(%v, %v) = %v, want %v", known, c.now, got, c.want)
		}
	}
}

func TestStateNeverChangesItsDomain(t *testing.T) {
	dir := t.TempDir()
	if s, err := Load(dir); err != nil || s.Domain != "" {
		t.Errorf("Load of nothing = %+v, %v; want unclaimed", s, err)
	}
	first := State{Domain: "d1", Name: "one", Role: domain.RoleOfWitness, Peers: []cluster.Peer{{Name: "S1", URL: "https://192.0.2.1:7973"}}}
	if err := first.Save(dir); err != nil {
		t.Fatal(err)
	}
	first.Epochs = map[string]uint64{"1": 3}
	if err := first.Save(dir); err != nil {
		t.Errorf("the same domain again: %v", err)
	}
	for _, other := range []State{{Domain: "d2"}, {}} {
		if err := other.Save(dir); !errors.Is(err, ErrForeign) {
			t.Errorf("Save of domain %q = %v, want ErrForeign", other.Domain, err)
		}
	}
	got, err := Load(dir)
	if diff := cmp.Diff(first, got); err != nil || diff != "" {
		t.Errorf("Load: %v (-want +got):\n%s", err, diff)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(dir); err == nil {
		t.Errorf("Load of a damaged file = %+v: it must not look unclaimed", s)
	}
	if err := Reset(dir); err != nil {
		t.Fatal(err)
	}
	if err := (State{Domain: "d2"}).Save(dir); err != nil {
		t.Errorf("after a factory reset: %v", err)
	}
}
