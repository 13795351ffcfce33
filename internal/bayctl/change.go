package bayctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
	"baystream/internal/progress"
)

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// artifactLine is one line of `bayctl artifacts`.
type artifactLine struct {
	Kind string `json:"kind"`
	domain.Resource
	Detail string `json:"detail"`
}

func (a *app) artifactsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "artifacts", Short: "Bundles, golden images, plans and scripts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			all, err := allArtifacts(cmd.Context(), c)
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) {
				show(w, all, []any{"kind", "name", "status", "detail"}, func(l artifactLine) []any {
					return []any{l.Kind, l.Name, l.Status, l.Detail}
				})
			})
		}}
	cmd.AddCommand(a.extractCmd(), a.deleteArtifactCmd())
	if a.module {
		return cmd
	}
	cmd.AddCommand(a.uploadCmd("upload-bundle FILE", "Upload an artifact bundle; --extract makes its artifacts usable", true),
		a.uploadCmd("upload-image FILE", "Upload a golden image (zip, raw, gzip, zstd, qcow2)", false), a.backupCmd(), a.restoreCmd())
	return cmd
}

func allArtifacts(ctx context.Context, c *client) ([]artifactLine, error) {
	all := []artifactLine{}
	bundles, err := list[domain.ArtifactBundle](ctx, c, domain.ArtifactBundles)
	if err != nil {
		return nil, err
	}
	for _, b := range bundles {
		all = append(all, artifactLine{"bundle", b.Resource, fmt.Sprintf("%d artifacts, %s", b.ArtifactsCount, size(b.Size))})
	}
	images, err := list[domain.GoldenImage](ctx, c, domain.GoldenImages)
	if err != nil {
		return nil, err
	}
	for _, g := range images {
		all = append(all, artifactLine{"golden image", g.Resource, size(g.SizeBytes) + ", sha256 " + short(g.CheckSum)})
	}
	plans, err := list[domain.DeploymentPlan](ctx, c, domain.DeploymentPlans)
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		all = append(all, artifactLine{"deployment plan", p.Resource, fmt.Sprintf("%d attributes", len(p.CustomAttributes))})
	}
	builds, err := list[domain.BuildPlan](ctx, c, domain.BuildPlans)
	if err != nil {
		return nil, err
	}
	for _, p := range builds {
		all = append(all, artifactLine{"build plan", p.Resource, fmt.Sprintf("%s, %d steps", p.OEBuildPlanType, len(p.BuildStep))})
	}
	scripts, err := list[domain.PlanScript](ctx, c, domain.PlanScripts)
	if err != nil {
		return nil, err
	}
	for _, s := range scripts {
		all = append(all, artifactLine{"plan script", s.Resource, s.PlanType})
	}
	return all, nil
}

func (a *app) uploadCmd(use, short string, bundle bool) *cobra.Command {
	var extract, force bool
	var name string
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		c, err := a.connect(ctx)
		if err != nil {
			return err
		}
		uri := domain.ArtifactBundles
		if !bundle {
			if name == "" {
				name = strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
			}
			uri = domain.GoldenImages + "?" + url.Values{"name": {name}}.Encode()
		}
		b := progress.New(a.errOut)
		last := int64(-1)
		t, err := c.upload(ctx, uri, args[0], func(done, total int64) {
			if p := done * 100 / max(1, total); p != last && (b.Terminal() || p%10 == 0) {
				last = p
				b.Show(fmt.Sprintf("upload %s: %3d %%", filepath.Base(args[0]), p), done, total)
			}
		})
		b.Done()
		if err != nil {
			return err
		}
		if err := a.follow(ctx, c, t); err != nil || !extract {
			return err
		}
		return a.extract(ctx, c, t.AssociatedResource.ResourceURI, force)
	}}
	if bundle {
		cmd.Flags().BoolVar(&extract, "extract", false, "extract it, too")
		cmd.Flags().BoolVar(&force, "force", false, "with --extract: replace artifacts of the same names")
	} else {
		cmd.Flags().StringVar(&name, "name", "", "name of the golden image (default: the file's)")
	}
	return cmd
}

func (a *app) extract(ctx context.Context, c *client, uri string, force bool) error {
	var t domain.Task
	if _, err := c.send(ctx, http.MethodPut, fmt.Sprintf("%s?extract=true&forceImport=%v", uri, force), "text/plain;charset=UTF-8", nil, &t); err != nil {
		return err
	}
	return a.follow(ctx, c, t)
}

func (a *app) extractCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "extract BUNDLE", Short: "Make the artifacts of a bundle usable", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			b, err := find[domain.ArtifactBundle](cmd.Context(), c, domain.ArtifactBundles, "artifact bundle", args[0])
			if err != nil {
				return err
			}
			return a.extract(cmd.Context(), c, b.URI, force)
		}}
	a.oneArg(cmd, entityNames[domain.ArtifactBundle](domain.ArtifactBundles))
	cmd.Flags().BoolVar(&force, "force", false, "replace artifacts of the same names")
	return cmd
}

func (a *app) deleteArtifactCmd() *cobra.Command {
	return a.oneArg(&cobra.Command{Use: "delete NAME", Short: "Delete an artifact that nothing uses", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			all, err := allArtifacts(ctx, c)
			if err != nil {
				return err
			}
			var hits []artifactLine
			for _, l := range all {
				if l.Name == args[0] || l.URI == args[0] {
					hits = append(hits, l)
				}
			}
			switch {
			case len(hits) == 0:
				return fmt.Errorf("no artifact %q: see bayctl artifacts", args[0])
			case len(hits) > 1:
				return fmt.Errorf("%d artifacts are named %q: give the uri, such as %s", len(hits), args[0], hits[0].URI)
			}
			var t domain.Task
			if _, err := c.do(ctx, http.MethodDelete, hits[0].URI, nil, &t); err != nil {
				return err
			}
			if t.URI != "" && !t.Ended() {
				return a.follow(ctx, c, t)
			}
			return a.print(hits[0], func(w io.Writer) { fmt.Fprintf(w, "deleted %s %s\n", hits[0].Kind, hits[0].Name) })
		}}, artifactNames)
}

func (a *app) deployCmd() *cobra.Command {
	var server, name string
	var attrs []string
	cmd := &cobra.Command{
		Use:   "deploy PLAN --server-hardware SERVER [--set NAME=VALUE]...",
		Short: "Give a server an OS volume: make a profile from a deployment plan",
		Example: "  bayctl deploy 'Debian 12' --server-hardware 'VF0001, bay 1' --set HostName=web1\n" +
			"  bayctl deploy 'Debian 12' --server-hardware VF0001-S01 --set Mgmt.ipaddress=192.0.2.20",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			plan, err := find[domain.DeploymentPlan](ctx, c, domain.DeploymentPlans, "deployment plan", args[0])
			if err != nil {
				return err
			}
			hw, err := findServer(ctx, c, server)
			if err != nil {
				return err
			}
			settings := &domain.OSDeploymentSettings{OSDeploymentPlanURI: domain.OSDeploymentPlans + "/" + plan.ID}
			for _, s := range attrs {
				k, v, ok := strings.Cut(s, "=")
				if !ok {
					return fmt.Errorf("--set %q: want NAME=VALUE", s)
				}
				settings.OSCustomAttributes = append(settings.OSCustomAttributes, domain.Attribute{Name: k, Value: v})
			}
			if name == "" {
				name = hw.Name
			}
			var t domain.Task
			if _, err := c.do(ctx, http.MethodPost, domain.ServerProfiles, domain.ServerProfile{
				Resource: domain.Resource{Name: name}, ServerHardwareURI: hw.URI, OSDeploymentSettings: settings}, &t); err != nil {
				return err
			}
			return a.follow(ctx, c, t)
		},
	}
	cmd.Flags().StringVar(&server, "server-hardware", "", "name, serial number or UUID of the compute module")
	cmd.Flags().StringVar(&name, "name", "", "name of the server profile (default: the server's)")
	cmd.Flags().StringArrayVar(&attrs, "set", nil, "value of a custom attribute, NAME=VALUE")
	if err := errors.Join(cmd.MarkFlagRequired("server-hardware"),
		cmd.RegisterFlagCompletionFunc("server-hardware", a.completion(entityNames[domain.ServerHardware](domain.ServerHardwares)))); err != nil {
		panic(err) // the flag is above
	}
	return a.oneArg(cmd, entityNames[domain.DeploymentPlan](domain.DeploymentPlans))
}

func findServer(ctx context.Context, c *client, key string) (domain.ServerHardware, error) {
	all, err := list[domain.ServerHardware](ctx, c, domain.ServerHardwares)
	if err != nil {
		return domain.ServerHardware{}, err
	}
	var names []string
	for _, s := range all {
		if key == s.Name || key == s.SerialNumber || key == s.URI || strings.EqualFold(key, s.UUID) {
			return s, nil
		}
		names = append(names, s.Name)
	}
	b, _ := json.Marshal(names) // strings always marshal
	return domain.ServerHardware{}, fmt.Errorf("no server %q; known are %s (a server shows up when it asks for an address on the deployment network)", key, b)
}
