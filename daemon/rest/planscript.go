package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"baystream/daemon/domain"
)

func dependents[T any](all []T, of func(T) domain.Resource) []domain.Dependent {
	out := []domain.Dependent{}
	for _, v := range all {
		r := of(v)
		out = append(out, domain.Dependent{Name: r.Name, URI: r.URI})
	}
	return out
}

func (s *Server) planScript(st domain.State) func(domain.PlanScript) planScriptView {
	return func(p domain.PlanScript) planScriptView {
		p.DependentArtifacts = dependents(st.BuildPlansUsing(p.ID), func(b domain.BuildPlan) domain.Resource { return b.Resource })
		return viewPlanScript(p)
	}
}

func (s *Server) listPlanScripts(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.PlanScripts.List(r.Context())
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	return serveList(s, w, r, "plan-scripts", domain.PlanScripts, views(all, s.planScript(st)))
}

func (s *Server) getPlanScript(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.PlanScripts.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.showPlanScript(w, r, p)
}

func (s *Server) showPlanScript(w http.ResponseWriter, r *http.Request, p domain.PlanScript) error {
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	return s.ok(w, s.planScript(st)(p))
}

// takePlanScript makes what is stored out of what was sent: old, with the
// members that a client may choose, and the attributes of the text.
func (s *Server) takePlanScript(old, sent domain.PlanScript) (domain.PlanScript, error) {
	old.Name, old.Description = sent.Name, sent.Description
	old.PlanType, old.Content = sent.PlanType, sent.Content
	if err := domain.CheckPlanScript(old); err != nil {
		return old, err
	}
	attrs, err := s.Attributes(old.Content)
	if err != nil {
		return old, fmt.Errorf("plan script %s: %w", old.Name, err)
	}
	old.CustomAttributes = encodeAttributes(attrs)
	return old, nil
}

func encodeAttributes(attrs []domain.ScriptAttribute) string {
	b, err := json.Marshal(list(attrs))
	if err != nil {
		panic(err) // two strings
	}
	return string(b)
}

func (s *Server) createPlanScript(w http.ResponseWriter, r *http.Request) error {
	var sent domain.PlanScript
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	p, err := s.takePlanScript(domain.PlanScript{Resource: domain.Resource{Status: domain.StatusOK}}, sent)
	if err != nil {
		return err
	}
	if p, err = s.Store.PlanScripts.Create(r.Context(), p); err != nil {
		return err
	}
	return s.created(w, p.URI, viewPlanScript(p))
}

func (s *Server) updatePlanScript(w http.ResponseWriter, r *http.Request) error {
	var sent domain.PlanScript
	if err := decode(w, r, &sent); err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	p, err := s.Store.PlanScripts.Update(r.Context(), r.PathValue("id"), func(p *domain.PlanScript) error {
		if err := s.Store.PlanScripts.CheckETag(*p, eTag(r, sent.ETag)); err != nil {
			return err
		}
		if err := domain.MayChangePlanScript(*p, st); err != nil {
			return err
		}
		changed, err := s.takePlanScript(*p, sent)
		*p = changed
		return err
	})
	if err != nil {
		return err
	}
	if err := s.renameSteps(r.Context(), p); err != nil {
		return err
	}
	return s.showPlanScript(w, r, p)
}

// renameSteps writes a plan script's new name into the build plans that have it.
func (s *Server) renameSteps(ctx context.Context, p domain.PlanScript) error {
	st, err := s.state(ctx)
	if err != nil {
		return err
	}
	for _, b := range st.BuildPlansUsing(p.ID) {
		if !slices.ContainsFunc(b.BuildStep, func(step domain.BuildStep) bool {
			return step.PlanScriptURI == p.URI && step.PlanScriptName != p.Name
		}) {
			continue
		}
		if _, err := s.Store.BuildPlans.Update(ctx, b.BuildPlanID, func(b *domain.BuildPlan) error {
			for i := range b.BuildStep {
				if b.BuildStep[i].PlanScriptURI == p.URI {
					b.BuildStep[i].PlanScriptName = p.Name
				}
			}
			return nil
		}); err != nil && domain.KindOf(err) != domain.NotFound {
			return err
		}
	}
	return nil
}

func (s *Server) deletePlanScript(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.PlanScripts.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	if err := domain.MayDeletePlanScript(p, st); err != nil {
		return err
	}
	if err := s.Store.PlanScripts.Delete(r.Context(), p.ID); err != nil {
		return err
	}
	return s.gone(w)
}

// differences says what a new text would change (spec section 2.4).
type differences struct {
	Added          []string            `json:"caAdded"`
	Removed        []string            `json:"caRemoved"`
	ContentChanged bool                `json:"contentChanged"`
	Defaults       []defaultDifference `json:"defaultValueChanged"`
}

type defaultDifference struct {
	Name string `json:"name"`
	Old  string `json:"oldValue"`
	New  string `json:"newValue"`
}

func (s *Server) planScriptDifferences(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.PlanScripts.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	text := sentText(string(body), p.Content)
	before, err := s.Attributes(p.Content)
	if err != nil {
		return err
	}
	after, err := s.Attributes(text)
	if err != nil {
		return err
	}
	d := diffAttributes(before, after)
	d.ContentChanged = text != p.Content
	return s.ok(w, d)
}

// sentText reads a text that is a JSON string, bare, an object with a content,
// or absent, which changes nothing.
func sentText(body, current string) string {
	trimmed := strings.TrimSpace(body)
	var text string
	var object struct{ Content *string }
	switch {
	case trimmed == "" || trimmed == "null":
		return current
	case json.Unmarshal([]byte(trimmed), &text) == nil:
		return text
	case json.Unmarshal([]byte(trimmed), &object) == nil && object.Content != nil:
		return *object.Content
	}
	return body
}

func diffAttributes(before, after []domain.ScriptAttribute) differences {
	d := differences{Added: []string{}, Removed: []string{}, Defaults: []defaultDifference{}}
	old := map[string]string{}
	for _, a := range before {
		old[a.Name] = a.Value
	}
	now := map[string]bool{}
	for _, a := range after {
		now[a.Name] = true
		v, known := old[a.Name]
		switch {
		case !known:
			d.Added = append(d.Added, a.Name)
		case v != a.Value:
			d.Defaults = append(d.Defaults, defaultDifference{a.Name, v, a.Value})
		}
	}
	for _, a := range before {
		if !now[a.Name] {
			d.Removed = append(d.Removed, a.Name)
		}
	}
	return d
}

// planScriptUsedBy answers a plain array, as the interface has it.
func (s *Server) planScriptUsedBy(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Store.PlanScripts.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	st, err := s.state(r.Context())
	if err != nil {
		return err
	}
	return s.ok(w, views(st.BuildPlansUsing(p.ID), func(b domain.BuildPlan) buildPlanView {
		return viewBuildPlan(b, callerOf(r).version)
	}))
}
