package bayctl

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"baystream/daemon/domain"
	"baystream/internal/progress"
)

// print notes v for the JSON at the end, or lets asTable write it for people.
func (a *app) print(v any, asTable func(w io.Writer)) error {
	if a.output == "json" {
		a.documents = append(a.documents, v)
		return nil
	}
	asTable(a.out)
	return nil
}

// rows writes a table with a header.
func rows(w io.Writer, header []any, lines [][]any) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	st := table.StyleLight
	st.Options = table.OptionsNoBordersAndSeparators
	st.Box.PaddingLeft = ""
	st.Box.PaddingRight = "  "
	t.SetStyle(st)
	t.AppendHeader(header)
	for _, l := range lines {
		t.AppendRow(l)
	}
	t.Render()
}

// size renders bytes for people, in binary units.
func size(n int64) string {
	v, u := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v < 1024 {
			break
		}
		v, u = v/1024, next
	}
	if u == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, u)
}

// simple makes a command that reads one report and prints it.
func simple[T any](a *app, use, short, uri string, show func(w io.Writer, v T)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		var v T
		if _, err := c.do(cmd.Context(), http.MethodGet, uri, nil, &v); err != nil {
			return err
		}
		return a.print(v, func(w io.Writer) { show(w, v) })
	}}
}

// listing makes a command that prints a collection.
func listing[T any](a *app, use, short, uri string, header []any, line func(T) []any) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		all, err := list[T](cmd.Context(), c, uri)
		if err != nil {
			return err
		}
		return a.print(all, func(w io.Writer) { show(w, all, header, line) })
	}}
}

func show[T any](w io.Writer, all []T, header []any, line func(T) []any) {
	if len(all) == 0 {
		fmt.Fprintln(w, "none")
		return
	}
	var lines [][]any
	for _, v := range all {
		lines = append(lines, line(v))
	}
	rows(w, header, lines)
}

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Health of the appliance, its votes, what it serves", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			var v struct {
				Health  domain.Health        `json:"health"`
				Cluster domain.ClusterReport `json:"cluster"`
				Storage domain.StorageReport `json:"storage"`
				Votes   *domain.VotesReport  `json:"votes,omitempty"`
			}
			ctx := cmd.Context()
			if _, err := c.do(ctx, http.MethodGet, "/rest/baystream/health", nil, &v.Health); err != nil {
				return err
			}
			if _, err := c.do(ctx, http.MethodGet, "/rest/baystream/cluster", nil, &v.Cluster); err != nil {
				return err
			}
			if _, err := c.do(ctx, http.MethodGet, "/rest/baystream/storage", nil, &v.Storage); err != nil {
				return err
			}
			if v.Votes, err = fetchVotes(ctx, c); err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) {
				h := v.Health
				fmt.Fprintf(w, "%s  (%s, %s, serial %s)  version %s  kernel %s\n", h.Appliance.Name, h.Appliance.Role, h.Appliance.Bay,
					h.Appliance.Serial, h.Appliance.Version, h.Appliance.Kernel)
				fmt.Fprintf(w, "status: %s   up since %s\n\n", h.Status, h.Started)
				var lines [][]any
				for _, p := range h.Parts {
					lines = append(lines, []any{p.Name, p.Status, p.Detail})
					if p.Remedy != "" {
						lines = append(lines, []any{"", "", "what to do: " + p.Remedy})
					}
				}
				rows(w, []any{"part", "status", "detail"}, lines)
				fmt.Fprintln(w)
				if v.Votes != nil && len(v.Votes.Members) > 1 {
					showVotes(w, *v.Votes)
				} else {
					fmt.Fprintf(w, "votes: %s\n", v.Cluster.Verdict)
				}
				fmt.Fprintf(w, "volumes: %d served of %d; pool %s of %s used\n", served(v.Storage), len(v.Storage.Volumes),
					size(v.Storage.DataUsed), size(v.Storage.DataBytes))
			})
		}}
}

func served(s domain.StorageReport) int {
	n := 0
	for _, v := range s.Volumes {
		if v.IQN != "" {
			n++
		}
	}
	return n
}

func (a *app) storageCmd() *cobra.Command {
	cmd := simple(a, "storage", "Pool, golden images and volumes as the kernel sees them", "/rest/baystream/storage",
		func(w io.Writer, v domain.StorageReport) {
			fmt.Fprintf(w, "pool: %s  %s\n", v.Status, v.Detail)
			if v.DataBytes > 0 {
				fmt.Fprintf(w, "data: %s of %s (%.0f %%)   metadata: %s of %s (%.0f %%)\n\n", size(v.DataUsed), size(v.DataBytes),
					100*float64(v.DataUsed)/float64(v.DataBytes), size(v.MetaUsed), size(v.MetaBytes), 100*float64(v.MetaUsed)/float64(max(1, v.MetaBytes)))
			}
			fmt.Fprintln(w, "golden images in the pool:")
			show(w, v.Goldens, []any{"id", "size", "clones", "digest"}, func(g domain.StorageGolden) []any {
				return []any{g.ID, size(g.Bytes), g.Clones, short(g.Digest)}
			})
			fmt.Fprintln(w, "\nvolumes:")
			show(w, v.Volumes, []any{"name", "size", "used", "device", "role", "disk", "partner", "sessions"}, func(s domain.StorageVolume) []any {
				return []any{s.Name, size(s.Bytes), size(s.Used), s.Device, s.Role, s.Disk, s.Peer, strings.Join(s.Sessions, " ")}
			})
		})
	cmd.AddCommand(
		simple(a, "groups", "Where the storage groups of the pair are", groupsURI, func(w io.Writer, groups []domain.VoteGroup) { showGroups(w, groups) }),
		a.moveGroupCmd())
	return cmd
}

const groupsURI = "/rest/baystream/storage/groups"

// moveGroupCmd moves a storage group on purpose.
func (a *app) moveGroupCmd() *cobra.Command {
	return &cobra.Command{Use: "move GROUP MODULE|home", Short: "Have a storage group served by the other appliance, or at its home again", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			var g domain.VoteGroup
			if _, err := c.do(cmd.Context(), http.MethodPost, groupsURI+"/"+url.PathEscape(args[0])+"/owner", map[string]string{"to": args[1]}, &g); err != nil {
				return err
			}
			return a.print(g, func(w io.Writer) { fmt.Fprintf(w, "group %s is served by %s\n", g.Name, g.Owner) })
		}}
}

func short(hash string) string {
	if len(hash) > 12 {
		return hash[:12]
	}
	return hash
}

func (a *app) volumesCmd() *cobra.Command {
	cmd := listing(a, "volumes", "OS volumes", domain.OSVolumes, []any{"name", "state", "size", "profile", "portal", "iqn"}, func(v domain.OSVolume) []any {
		return []any{v.Name, v.State, size(v.Size), v.ServerProfileName, v.OEVolumeIP, v.OEVolumeIQN}
	})
	cmd.AddCommand(a.deleteVolumeCmd(), a.restoreVolumeCmd(), a.oneArg(&cobra.Command{Use: "log VOLUME", Short: "Log of the deployment that made a volume", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			// The volume of a failed deployment is gone, its log is not.
			return a.stream(cmd.Context(), c, domain.OSVolumes+"/archive/"+url.PathEscape(path.Base(args[0])))
		}}, entityNames[domain.OSVolume](domain.OSVolumes)))
	return cmd
}

func (a *app) deleteVolumeCmd() *cobra.Command {
	var purge bool
	cmd := &cobra.Command{Use: "delete VOLUME", Short: "Move a volume that no profile uses to the trash; --purge destroys one that is there", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			all, err := list[domain.OSVolume](ctx, c, domain.OSVolumes)
			if err != nil {
				return err
			}
			uri, err := pickVolume(all, args[0], purge)
			if err != nil {
				return err
			}
			var t domain.Task
			if _, err := c.do(ctx, http.MethodDelete, fmt.Sprintf("%s?purge=%v", uri, purge), nil, &t); err != nil {
				return err
			}
			return a.follow(ctx, c, t)
		}}
	cmd.Flags().BoolVar(&purge, "purge", false, "destroy a volume in the trash now, with all that is on it")
	return a.oneArg(cmd, entityNames[domain.OSVolume](domain.OSVolumes))
}

func (a *app) restoreVolumeCmd() *cobra.Command {
	var profile string
	var force bool
	cmd := &cobra.Command{Use: "restore VOLUME", Short: "Take a volume out of the trash, for a server profile if one is named", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			all, err := list[domain.OSVolume](ctx, c, domain.OSVolumes)
			if err != nil {
				return err
			}
			uri, err := pickVolume(all, args[0], true)
			if err != nil {
				return err
			}
			req := map[string]any{"force": force}
			if profile != "" {
				p, err := find[domain.ServerProfile](ctx, c, domain.ServerProfiles, "server profile", profile)
				if err != nil {
					return err
				}
				req["serverProfileUri"] = p.URI
			}
			var t domain.Task
			if _, err := c.do(ctx, http.MethodPut, uri+"/restore", req, &t); err != nil {
				return err
			}
			return a.follow(ctx, c, t)
		}}
	cmd.Flags().StringVar(&profile, "profile", "", "server profile that gets the volume; without, it is unassigned")
	cmd.Flags().BoolVar(&force, "force", false, "move the volume that the profile has to the trash in its place")
	return a.oneArg(cmd, entityNames[domain.OSVolume](domain.OSVolumes))
}

// pickVolume finds the one volume, in the trash or not, that key means.
func pickVolume(all []domain.OSVolume, key string, trash bool) (string, error) {
	var hits []string
	for _, v := range all {
		if key == v.URI || strings.EqualFold(key, v.OEVolumeID) {
			return v.URI, nil
		}
		if key == v.Name && (v.State == domain.VolumeTrash) == trash {
			hits = append(hits, v.URI)
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return "", fmt.Errorf("no OS volume %q, in the trash %v: see bayctl volumes", key, trash)
	}
	return "", fmt.Errorf("%d OS volumes are named %q: give the uri, such as %s", len(hits), key, hits[0])
}

func (a *app) serversCmd() *cobra.Command {
	cmd := listing(a, "servers", "Compute modules", domain.ServerHardwares, []any{"name", "power", "serial", "uuid", "address", "profile", "last seen"}, func(s domain.ServerHardware) []any {
		seen := s.LastSeen
		if s.LastSeenAs != "" {
			seen += " (" + s.LastSeenAs + ")"
		}
		return []any{s.Name, s.PowerState, s.SerialNumber, s.UUID, s.Address, s.ServerProfile, seen}
	})
	cmd.AddCommand(a.powerCmd())
	return cmd
}

func (a *app) profilesCmd() *cobra.Command {
	cmd := listing(a, "profiles", "Server profiles", domain.ServerProfiles, []any{"name", "state", "server", "volume"}, func(p domain.ServerProfile) []any {
		vol := ""
		if p.OSDeploymentSettings != nil {
			vol = p.OSDeploymentSettings.OSVolumeURI
		}
		return []any{p.Name, p.State, p.SerialNumber, vol}
	})
	cmd.AddCommand(a.oneArg(&cobra.Command{Use: "delete PROFILE", Short: "Delete a server profile; its volume moves to the trash", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			p, err := find[domain.ServerProfile](cmd.Context(), c, domain.ServerProfiles, "server profile", args[0])
			if err != nil {
				return err
			}
			var t domain.Task
			if _, err := c.do(cmd.Context(), http.MethodDelete, p.URI, nil, &t); err != nil {
				return err
			}
			return a.follow(cmd.Context(), c, t)
		}}, entityNames[domain.ServerProfile](domain.ServerProfiles)))
	return cmd
}

func (a *app) tasksCmd() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{Use: "tasks [TASK]", Short: "Long work: all of it, or one with its log; -w follows it live", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				t, err := find[domain.Task](ctx, c, domain.Tasks, "task", args[0])
				if err != nil {
					return err
				}
				if watch && !t.Ended() {
					return a.follow(ctx, c, t)
				}
				return a.print(t, func(w io.Writer) { showTask(w, t) })
			}
			all, err := list[domain.Task](ctx, c, domain.Tasks)
			if err != nil {
				return err
			}
			if watch {
				a.several = a.output == "json"
				for _, t := range all {
					if !t.Ended() {
						if err := a.follow(ctx, c, t); err != nil {
							fmt.Fprintln(a.errOut, err)
						}
					}
				}
				return nil
			}
			return a.print(all, func(w io.Writer) {
				show(w, all, []any{"task", "on", "state", "%", "doing", "created", "id"}, func(t domain.Task) []any {
					return []any{t.Title(), t.AssociatedResource.ResourceName, t.TaskState, t.PercentComplete, t.TaskStatus, t.Created, t.ID}
				})
			})
		}}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "follow until the end")
	return a.oneArg(cmd, taskIDs)
}

func showTask(w io.Writer, t domain.Task) {
	fmt.Fprintf(w, "%s %s: %s, %d %%\n", t.Title(), t.AssociatedResource.ResourceName, t.TaskState, t.PercentComplete)
	for _, u := range t.ProgressUpdates {
		fmt.Fprintf(w, "  %s  %s\n", u.Timestamp, u.StatusUpdate)
	}
	for _, e := range t.TaskErrors {
		fmt.Fprintf(w, "error: %s\n", e.Message)
		for _, r := range e.RecommendedActions {
			fmt.Fprintf(w, "  what to do: %s\n", r)
		}
	}
}

// follow shows a task's progress until it ends; a failed task is an error.
func (a *app) follow(ctx context.Context, c *client, t domain.Task) error {
	bar := progress.New(a.errOut)
	defer bar.Done()
	last := -100
	for !t.Ended() {
		if bar.Terminal() || t.PercentComplete >= last+10 {
			last = t.PercentComplete
			bar.Show(taskLine(t), int64(t.PercentComplete), 100)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no longer watching; the task goes on: bayctl tasks -w %s", t.ID)
		case <-time.After(500 * time.Millisecond):
		}
		var next domain.Task
		if _, err := c.do(ctx, http.MethodGet, t.URI, nil, &next); err != nil {
			return err
		}
		t = next
	}
	bar.Done()
	if t.TaskState != domain.TaskCompleted && t.TaskState != domain.TaskWarning {
		msg := t.Title() + " failed"
		for _, e := range t.TaskErrors {
			msg += "\n  " + e.Message
			for _, r := range e.RecommendedActions {
				msg += "\n  what to do: " + r
			}
		}
		return fmt.Errorf("%s\n  its log: bayctl tasks %s", msg, t.ID)
	}
	if a.output == "json" {
		return a.print(t, nil)
	}
	fmt.Fprintf(a.out, "%s: done (%s)\n", t.Title(), t.AssociatedResource.ResourceName)
	return nil
}

// stream copies an answer that is not JSON to the output.
func (a *app) stream(ctx context.Context, c *client, uri string) error {
	resp, err := c.open(ctx, http.MethodGet, uri, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(a.out, resp.Body)
	return err
}
