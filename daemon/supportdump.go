package daemon

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"

	"baystream/daemon/domain"
	"baystream/internal/local"
	"baystream/internal/support"
)

// SupportDump implements rest.Appliance.
func (r report) SupportDump(ctx context.Context, w io.Writer, limit int64) error {
	secrets, err := r.secrets(ctx)
	if err != nil {
		return err // better no dump than one that nobody checked
	}
	doc := func(name string, ask func(context.Context) any) support.Document {
		return support.Document{Name: "daemon/" + name + ".json", Read: func(ctx context.Context) ([]byte, error) {
			return json.MarshalIndent(ask(ctx), "", "  ")
		}}
	}
	return support.Write(ctx, w, support.Options{
		Root: r.d.cfg.Root, State: r.d.cfg.State, Version: r.d.cfg.Version, Limit: limit, Secrets: secrets,
		Documents: []support.Document{
			doc("health", func(ctx context.Context) any { return r.Health(ctx) }),
			doc("hw", r.Inventory), doc("net", r.Network), doc("storage", r.Storage), doc("cluster", r.Cluster), doc("tasks", r.lastTasks),
			{Name: "init.json", Read: func(context.Context) ([]byte, error) { return local.AskInit(local.Control, "status") }},
		},
	})
}

// someTasks is how many tasks a dump has.
const someTasks = 200

func (r report) lastTasks(ctx context.Context) any {
	all, err := r.d.state.Tasks.List(ctx)
	if err != nil {
		return err.Error()
	}
	slices.SortFunc(all, func(a, b domain.Task) int { return strings.Compare(b.Created, a.Created) })
	return all[:min(len(all), someTasks)]
}

// secrets are the values that must not leave with a dump.
func (r report) secrets(ctx context.Context) ([]string, error) {
	var out []string
	credentials, err := r.d.state.Credentials.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range credentials {
		out = append(out, c.Secret)
	}
	passwords := map[string]bool{} // names of attributes
	note := func(attrs []domain.Attribute) {
		for _, a := range attrs {
			if domain.IsSecret(a) {
				passwords[a.Name] = true
				out = append(out, a.Value)
			}
		}
	}
	builds, err := r.d.state.BuildPlans.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range builds {
		note(p.CustomAttributes)
	}
	plans, err := r.d.state.DeploymentPlans.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		note(p.CustomAttributes)
	}
	profiles, err := r.d.state.ServerProfiles.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range profiles {
		if p.OSDeploymentSettings == nil {
			continue
		}
		for _, a := range p.OSDeploymentSettings.OSCustomAttributes { // their types stand in the plans
			if passwords[a.Name] || domain.IsSecret(a) {
				out = append(out, a.Value)
			}
		}
	}
	return out, nil
}
