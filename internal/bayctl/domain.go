package bayctl

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

const domainURI = "/rest/baystream/domain"

func (a *app) domainCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "domain", Short: "The domain that this appliance belongs to", Args: cobra.NoArgs}
	cmd.AddCommand(
		simple(a, "show", "Name and id of the domain", domainURI, showDomain),
		a.domainCreateCmd(), a.switchoverCmd(), a.recoverCmd())
	return cmd
}

// switchoverCmd hands management over on purpose.
func (a *app) switchoverCmd() *cobra.Command {
	cmd := a.activateCmd()
	cmd.Use, cmd.Short = "switchover [ID]", "Hand management over to the other appliance, or to the one with the ID"
	return cmd
}

// recoverCmd says how a domain goes on that has lost its majority: not over the
// network, which the lost modules may be only cut off from.
func (a *app) recoverCmd() *cobra.Command {
	return &cobra.Command{Use: "recover", Short: "How a domain goes on whose majority is lost for good", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			v, err := fetchVotes(cmd.Context(), c)
			if err == nil && v != nil && v.Healthy >= v.Needed {
				return fmt.Errorf("domain: %d of %d votes answer and %d are needed: there is nothing to recover; replace a dead module with bayctl appliance claim ID --replaces DEAD", v.Healthy, v.Voters, v.Needed)
			}
			return a.print(map[string]string{"where": "serial console"}, func(w io.Writer) {
				fmt.Fprint(w, "A domain without a majority takes no commands over the network. To go on with one appliance alone:\n"+
					"  1. switch off all its other modules, and leave them off\n"+
					"  2. at the serial console of the appliance that stays: maintenance, \"let the domain go on without its other modules\"\n"+
					"  3. reset the others to their factory state, then bayctl appliance remove and claim each again\n")
			})
		}}
}

func showDomain(w io.Writer, d domain.Domain) {
	fmt.Fprintf(w, "%s  (id %s, since %s, first module %s)\n", d.Name, d.ID, d.Created, d.Founder)
}

// domainCreateCmd makes the domain; on an appliance that nobody has set up it
// is the first contact too.
func (a *app) domainCreateCmd() *cobra.Command {
	var code, fingerprint, user, passwordFile string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make this appliance the first of a domain, which other modules can then be claimed for",
		Long: "Make this appliance the first of a domain. On one that is set up and logged in to, the name is enough; a new\n" +
			"one needs --server, --code and --fingerprint, as its console shows them, and gets its first administrator.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if code != "" {
				setup := a.setupCmd()
				for name, v := range map[string]string{"code": code, "fingerprint": fingerprint, "user": user, "password-file": passwordFile} {
					if err := setup.Flags().Set(name, v); err != nil {
						return err
					}
				}
				setup.SetContext(cmd.Context())
				if err := setup.RunE(setup, nil); err != nil {
					return err
				}
			}
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			var d domain.Domain
			if _, err := c.do(cmd.Context(), http.MethodPost, domainURI, map[string]string{"name": args[0]}, &d); err != nil {
				return err
			}
			return a.print(d, func(w io.Writer) {
				fmt.Fprintf(w, "domain %s exists (id %s)\n  next: bayctl appliance list, then bayctl appliance claim ID --role appliance|witness\n", d.Name, d.ID)
			})
		},
	}
	cmd.Flags().StringVar(&code, "code", "", "setup code from the console, of a new appliance")
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "CA SHA-256 from the console, of a new appliance")
	cmd.Flags().StringVar(&user, "user", "administrator", "name of the first administrator of a new appliance")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the new password (default: ask)")
	return cmd
}
