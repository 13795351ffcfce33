package bayctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

const appliancesURI = "/rest/baystream/appliances"

func (a *app) applianceCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "appliance", Short: "The modules of the domain, and those that could be claimed", Args: cobra.NoArgs}
	cmd.AddCommand(
		listing(a, "list", "Modules of the domain and modules that announce themselves", appliancesURI,
			[]any{"id", "frame", "bay", "role", "state", "address", "key", "detail"}, func(m domain.Module) []any {
				return []any{m.ID, m.Frame, m.Bay, m.Role, moduleState(m), m.Address, shortKey(m.Fingerprint), m.Detail}
			}),
		a.showModuleCmd(), a.claimCmd(), a.removeModuleCmd(), a.activateCmd())
	return cmd
}

// showModuleCmd shows all of a module: what a claim needs, above all its key.
func (a *app) showModuleCmd() *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Hardware identity, key and addresses of a module", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			all, err := list[domain.Module](cmd.Context(), c, appliancesURI)
			if err != nil {
				return err
			}
			for _, m := range all {
				if m.ID == args[0] {
					return a.print(m, func(w io.Writer) { showModule(w, m) })
				}
			}
			return fmt.Errorf("module %s is not of this domain and does not announce itself\n  what to do: bayctl appliance list", args[0])
		}}
}

func showModule(w io.Writer, m domain.Module) {
	fmt.Fprintf(w, "module %s  frame %s, %s, role %s, version %s\n", m.ID, m.Frame, m.Bay, m.Role, m.Version)
	fmt.Fprintf(w, "state: %s  %s\nkey:   %s\n", moduleState(m), m.Detail, m.Fingerprint)
	for _, network := range slices.Sorted(maps.Keys(m.Addresses)) {
		fmt.Fprintf(w, "%-11s %s\n", network, m.Addresses[network])
	}
	if m.Claimed != "" {
		fmt.Fprintf(w, "claimed %s by %s\n", m.Claimed, cmp.Or(m.By, "nobody: it founded the domain"))
	}
	if m.State == domain.ModuleUnclaimed {
		fmt.Fprintf(w, "next: compare the key with the module's console, then bayctl appliance claim %s --role %s --fingerprint %s\n", m.ID, cmp.Or(m.Role, "appliance"), m.Fingerprint)
	}
}

func moduleState(m domain.Module) string {
	if m.Resync && m.State == domain.ModuleMember {
		return m.State + ", resync"
	}
	return m.State
}

// shortKey is enough of a fingerprint for a table; claim shows all of it.
func shortKey(f string) string { return f[:min(16, len(f))] }

func (a *app) claimCmd() *cobra.Command {
	var req domain.ClaimRequest
	cmd := &cobra.Command{
		Use:   "claim ID",
		Short: "Take a module into the domain",
		Long: "Take a module into the domain. It shows the fingerprint of its key on its console: compare that with the one this\n" +
			"command shows, and give it with --fingerprint. Without announcements, claim the module by --address.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				req.ID = args[0]
			}
			if req.ID == "" && req.Address == "" {
				return errors.New("want the ID of a module that bayctl appliance list shows, or --address")
			}
			if err := completeClaim(ctx, c, &req); err != nil {
				return err
			}
			var got struct {
				domain.Module
				Warnings []string `json:"warnings"`
			}
			if _, err := c.do(ctx, http.MethodPost, appliancesURI, req, &got); err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintf(w, "module %s (frame %s, %s) is claimed as %s and joins; bayctl appliance list shows how far it is\n", got.ID, got.Frame, got.Bay, got.Role)
				for _, warn := range got.Warnings {
					fmt.Fprintln(w, "note:", warn)
				}
			})
		},
	}
	cmd.Flags().StringVar(&req.Role, "role", "", "appliance or witness")
	cmd.Flags().StringVar(&req.Fingerprint, "fingerprint", "", "SHA-256 of the module's key, as its console shows it")
	cmd.Flags().StringVar(&req.Address, "address", "", "ADDRESS:PORT of a module that is not found by itself")
	cmd.Flags().StringVar(&req.Replaces, "replaces", "", "id of the module whose place it takes")
	if err := errors.Join(cmd.MarkFlagRequired("role"),
		cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"appliance", "witness"}, cobra.ShellCompDirectiveNoFileComp))); err != nil {
		panic(err) // the flag is above
	}
	return cmd
}

// completeClaim checks the fingerprint that was given against what the module
// announces; without one it shows what to compare.
func completeClaim(ctx context.Context, c *client, req *domain.ClaimRequest) error {
	req.Fingerprint = strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(req.Fingerprint))
	if req.Address != "" {
		if req.Fingerprint == "" {
			return errors.New("want --fingerprint with --address: the module's console shows it")
		}
		return nil
	}
	all, err := list[domain.Module](ctx, c, appliancesURI)
	if err != nil {
		return err
	}
	for _, m := range all {
		switch {
		case m.ID != req.ID:
		case req.Fingerprint == "":
			return fmt.Errorf("module %s (frame %s, %s) announces the key\n  %s\n  what to do: compare it with the module's console, then repeat with --fingerprint %s",
				m.ID, m.Frame, m.Bay, m.Fingerprint, m.Fingerprint)
		case m.Fingerprint != req.Fingerprint:
			return fmt.Errorf("module %s announces the key %s, not %s: this is another module, or somebody pretends to be it", m.ID, m.Fingerprint, req.Fingerprint)
		default:
			return nil
		}
	}
	return fmt.Errorf("module %s does not announce itself\n  what to do: check that it is on and in the same management network, or claim it by --address", req.ID)
}

func (a *app) removeModuleCmd() *cobra.Command {
	return &cobra.Command{Use: "remove ID", Short: "Take a module out of the domain for good", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := c.do(cmd.Context(), http.MethodDelete, appliancesURI+"/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return a.print(map[string]string{"removed": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "module %s is removed\n", args[0]) })
		}}
}

func (a *app) activateCmd() *cobra.Command {
	return &cobra.Command{Use: "activate [ID]", Short: "Hand management over, to a module or to whoever can take it", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			to := strings.Join(args, "")
			if _, err := c.do(cmd.Context(), http.MethodPost, "/rest/baystream/active", map[string]string{"to": to}, nil); err != nil {
				return err
			}
			return a.print(map[string]string{"to": to}, func(w io.Writer) { fmt.Fprintln(w, "management is handed over; bayctl votes shows who has it") })
		}}
}
