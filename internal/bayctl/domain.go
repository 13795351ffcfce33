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
		a.domainCreateCmd())
	return cmd
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
