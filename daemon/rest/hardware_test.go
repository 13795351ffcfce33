package rest

import (
	"testing"

	"baystream/daemon/domain"
)

func TestHardwareSaysWhatBecameOfItsProfile(t *testing.T) {
	g := readyRig(t)
	g.want(201, "POST", "/rest/server-hardware", map[string]any{"uuid": uuid1})
	p := domain.ServerProfile{Resource: domain.Resource{Name: "web1"}}
	p.SetID(domain.NewID())
	if _, err := g.store.ServerProfiles.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	state := func(want, profile, uri string) {
		t.Helper()
		if _, err := g.store.ServerProfiles.Update(t.Context(), p.ID, func(p *domain.ServerProfile) error { p.State = profile; return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := g.store.ServerHardware.Update(t.Context(), uuid1, func(h *domain.ServerHardware) error { h.ServerProfile = uri; return nil }); err != nil {
			t.Fatal(err)
		}
		if got := g.want(200, "GET", "/rest/server-hardware/"+uuid1, nil).at("state"); got != want {
			t.Errorf("profile %s: state = %v, want %s", profile, got, want)
		}
		if got := g.want(200, "GET", "/rest/server-hardware?filter=state="+want, nil).at("total"); got != 1.0 {
			t.Errorf("profile %s: %v servers are %s, want 1", profile, got, want)
		}
	}
	available := func(want int) {
		t.Helper()
		a := g.want(200, "GET", "/rest/server-profiles/available-targets", nil)
		if got, _ := a.at("targets").([]any); len(got) != want {
			t.Errorf("%d servers are available, want %d", len(got), want)
		}
	}
	state("NoProfileApplied", domain.ProfileNormal, "")
	available(1)
	state("ApplyingProfile", domain.ProfileCreating, p.URI)
	available(0)
	state("ProfileApplied", domain.ProfileNormal, p.URI)
	state("ApplyingProfile", domain.ProfileUpdating, p.URI)
	state("ProfileError", domain.ProfileFailed, p.URI)
}
