package rest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"baystream/daemon/domain"
)

// guild is a Membership that notes what it is asked.
type guild struct {
	made    *domain.Domain
	claims  []domain.ClaimRequest
	users   []string
	removed []string
	to      string
}

func (m *guild) Votes(context.Context) (domain.VotesReport, error) {
	return domain.VotesReport{Status: domain.StatusOK, Verdict: "3 votes: any one may be lost", Voters: 3}, nil
}

func (m *guild) Domain(context.Context) (domain.Domain, bool, error) {
	if m.made == nil {
		return domain.Domain{}, false, nil
	}
	return *m.made, true, nil
}

func (m *guild) CreateDomain(_ context.Context, name string) (domain.Domain, error) {
	m.made = &domain.Domain{ID: "d1", Name: name}
	return *m.made, nil
}

func (m *guild) Modules(context.Context) ([]domain.Module, error) { return nil, nil }

func (m *guild) Claim(_ context.Context, req domain.ClaimRequest, user string) (domain.Module, []string, error) {
	m.claims, m.users = append(m.claims, req), append(m.users, user)
	return domain.Module{ID: req.ID, State: domain.ModuleJoining}, []string{"same frame"}, nil
}

func (m *guild) RemoveModule(_ context.Context, id string) error {
	m.removed = append(m.removed, id)
	return nil
}

func (m *guild) HandOver(_ context.Context, to string) error { m.to = to; return nil }
func (m *guild) MoveGroup(_ context.Context, name, to string) (domain.VoteGroup, error) {
	return domain.VoteGroup{Name: name, Owner: to}, nil
}

func TestDomainIsMadeBeforeModulesAreClaimed(t *testing.T) {
	g := readyRig(t)
	g.refused(503, "GET", "/rest/baystream/votes", nil, "not served by this host")
	m := &guild{}
	g.srv.Membership = m
	if a := g.want(200, "GET", "/rest/baystream/votes", nil); a.at("voters") != 3.0 {
		t.Errorf("votes = %s", a.raw)
	}
	claim := domain.ClaimRequest{ID: "SB", Fingerprint: strings.Repeat("a", 64), Role: "appliance"}
	g.refused(404, "GET", "/rest/baystream/domain", nil, "stands alone")
	g.refused(409, "POST", "/rest/baystream/appliances", claim, "no domain yet")
	g.refused(400, "POST", "/rest/baystream/domain", map[string]string{"name": " x"}, "blank")
	g.want(201, "POST", "/rest/baystream/domain", map[string]string{"name": "production"})
	g.refused(409, "POST", "/rest/baystream/domain", map[string]string{"name": "other"}, "exists already")
	if a := g.want(202, "POST", "/rest/baystream/appliances", claim); a.at("state") != domain.ModuleJoining || a.at("warnings.0") != "same frame" {
		t.Errorf("claim = %s", a.raw)
	}
	if len(m.claims) != 1 || m.claims[0] != claim || m.users[0] != rigUser {
		t.Errorf("claims %v by %v, want the one by %s", m.claims, m.users, rigUser)
	}
	if a := g.want(200, "GET", "/rest/baystream/appliances", nil); a.at("total") != 0.0 {
		t.Errorf("appliances = %s", a.raw)
	}
	g.want(204, "DELETE", "/rest/baystream/appliances/SB", nil)
	g.want(204, "POST", "/rest/baystream/active", map[string]string{"to": "SB"})
	if len(m.removed) != 1 || m.to != "SB" {
		t.Errorf("removed %v, handed over to %q", m.removed, m.to)
	}
	g.token = ""
	for _, path := range []string{"votes", "domain", "appliances"} {
		g.want(401, "GET", "/rest/baystream/"+path, nil)
	}
}

func TestStandbyAnswersReadsAndSendsChangesAway(t *testing.T) {
	g := readyRig(t)
	type bound struct{}
	var lead Leadership
	g.srv.Lead = func() Leadership { return lead }
	var seen context.Context
	h := g.srv.standby(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Context() }))
	ask := func(method string) *httptest.ResponseRecorder {
		seen = nil
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/rest/plan-scripts?x=1", nil))
		return w
	}
	lead = Leadership{URL: "https://192.0.2.10"}
	for _, read := range []string{"GET", "HEAD"} {
		if ask(read); seen == nil {
			t.Errorf("the standby does not answer %s", read)
		}
	}
	for _, change := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		w := ask(change)
		if seen != nil || w.Code != 307 || w.Header().Get("Location") != "https://192.0.2.10/rest/plan-scripts?x=1" || !strings.Contains(w.Body.String(), "standby") {
			t.Errorf("%s at the standby: %d %q %s", change, w.Code, w.Header().Get("Location"), w.Body)
		}
	}
	lead, g.srv.patience = Leadership{}, 0
	if w := ask("POST"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("POST while nobody is active: %d", w.Code)
	}
	lead = Leadership{Active: true, Bind: func(ctx context.Context) context.Context { return context.WithValue(ctx, bound{}, true) }}
	if ask("POST"); seen == nil || seen.Value(bound{}) == nil {
		t.Error("a change at the active appliance should run under its term")
	}
}
