package bayctl

import (
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"
)

func (a *app) logsCmd() *cobra.Command {
	var lines int
	var follow bool
	cmd := &cobra.Command{Use: "logs", Short: "Log of the appliance, newest last; -f follows it; -o json prints one object a line", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			format := "text"
			if a.output == "json" {
				format = "json"
			}
			err = a.stream(cmd.Context(), c, fmt.Sprintf("/rest/baystream/logs?lines=%d&follow=%v&format=%s", lines, follow, format))
			if follow && cmd.Context().Err() != nil {
				return nil // that is how following ends
			}
			return err
		}}
	cmd.Flags().IntVarP(&lines, "lines", "n", 200, "how many lines")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is logged from now on, until Ctrl-C")
	return cmd
}

// syslogSettings are where the log is sent, as the interface has it.
type syslogSettings struct {
	Server string `json:"server"`
	CA     string `json:"ca"`
	Level  string `json:"level"`
}

const syslogURI = "/rest/baystream/syslog"

func (a *app) syslogCmd() *cobra.Command {
	show := func(w io.Writer, s syslogSettings) {
		if s.Server == "" {
			fmt.Fprintln(w, "the log is sent nowhere")
			return
		}
		by := "public authorities"
		if s.CA != "" {
			by = "the given CA"
		}
		fmt.Fprintf(w, "the log is sent to %s over TLS (RFC 5425), from level %s on; its certificate must be from %s\n", s.Server, s.Level, by)
	}
	cmd := simple(a, "syslog", "Where the log is sent", syslogURI, show)
	change := func(cmd *cobra.Command, s syslogSettings) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		if _, err := c.do(cmd.Context(), http.MethodPut, syslogURI, s, &s); err != nil {
			return err
		}
		return a.print(s, func(w io.Writer) { show(w, s) })
	}
	var level, ca string
	set := &cobra.Command{Use: "set HOST[:PORT]", Short: "Send the log to a syslog server over TLS", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := syslogSettings{Server: args[0], Level: level}
			if ca != "" {
				b, err := os.ReadFile(ca)
				if err != nil {
					return err
				}
				s.CA = string(b)
			}
			return change(cmd, s)
		}}
	set.Flags().StringVar(&level, "level", "INFO", "the least to send: DEBUG, INFO, WARN or ERROR")
	if !a.module {
		set.Flags().StringVar(&ca, "server-ca", "", "file with the CA of the server's certificate (PEM)")
	}
	cmd.AddCommand(set, &cobra.Command{Use: "off", Short: "Send the log nowhere", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return change(cmd, syslogSettings{}) }})
	return cmd
}
