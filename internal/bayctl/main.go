// Package bayctl is the administrator's tool: it shows and changes a deployment
// server through its REST interface. It is a program of its own, and on a module
// a part of the daemon's, which serves the operator's console with it.
//
// It knows the server from, in this order: --frame DIR (a virtual frame's
// frame.json), --server with --ca, or what `bayctl login` remembered in
// $XDG_CONFIG_HOME/baystream/bayctl.json (mode 0600: it holds the session
// token). It trusts no CA but the pinned one.
package bayctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"baystream/daemon/domain"
)

// Run carries out one command line, without the program's name.
func Run(ctx context.Context, args []string, out, errOut io.Writer) error {
	return runApp(ctx, &app{out: out, errOut: errOut}, args)
}

// runApp carries out one command line for an app.
func runApp(ctx context.Context, a *app, args []string) error {
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	err := root.ExecuteContext(ctx)
	return errors.Join(err, a.end(ctx))
}

// app is what the commands share.
type app struct {
	out, errOut io.Writer

	frame, server, caFile, output string

	module bool    // at a module's console: no commands that read or write files
	local  *client // to the daemon of this module, at its console

	session   *client // one that this command began, and ends
	documents []any   // to print as JSON
	several   bool    // the documents are a list, however many there are
}

// end logs out, if this command logged in, and prints the JSON: what a command
// says is one document.
func (a *app) end(ctx context.Context) error {
	var errs []error
	if a.session != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, err := a.session.do(ctx, http.MethodDelete, "/rest/login-sessions", nil, nil)
		errs = append(errs, err)
	}
	var v any = a.documents
	switch {
	case a.several && a.documents == nil:
		v = []any{}
	case a.several || len(a.documents) > 1:
	case len(a.documents) == 1:
		v = a.documents[0]
	default:
		return errors.Join(errs...)
	}
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return errors.Join(append(errs, enc.Encode(v))...)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "bayctl",
		Short:         "Show and change a Baystream deployment server",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return fmt.Errorf("output %q: want table or json", a.output)
			}
			return nil
		},
	}
	f := root.PersistentFlags()
	if !a.module {
		f.StringVar(&a.frame, "frame", os.Getenv("BAYSTREAM_FRAME"), "directory of a virtual frame (its frame.json says the rest)")
		f.StringVar(&a.server, "server", os.Getenv("BAYSTREAM_SERVER"), "https://ADDRESS of the deployment server")
		f.StringVar(&a.caFile, "ca", os.Getenv("BAYSTREAM_CA"), "file with the CA certificate to trust (PEM)")
	}
	f.StringVarP(&a.output, "output", "o", "table", "table or json")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is above
	}
	root.AddCommand(a.statusCmd(), a.hwCmd(), a.netCmd(), a.storageCmd(), a.volumesCmd(), a.artifactsCmd(),
		a.serversCmd(), a.profilesCmd(), a.deployCmd(), a.tasksCmd(), a.logsCmd(), a.syslogCmd(),
		a.votesCmd(), a.domainCmd(), a.applianceCmd())
	if a.module {
		root.CompletionOptions.DisableDefaultCmd = true
		return root
	}
	root.AddCommand(a.setupCmd(), a.loginCmd(), a.logoutCmd(), a.supportDumpCmd(), a.consoleCmd())
	return root
}

// connect returns a client for the chosen server.
func (a *app) connect(ctx context.Context) (*client, error) {
	if a.module && a.local == nil {
		return nil, errDaemon
	}
	if a.module {
		return a.local, nil
	}
	if a.session != nil {
		return a.session, nil
	}
	if a.frame != "" {
		c, err := connectFrame(ctx, a.frame)
		if err == nil {
			a.session = c
		}
		return c, err
	}
	p, err := readProfile()
	if err != nil {
		return nil, err
	}
	if a.server != "" && a.server != p.Server {
		p = profile{Server: a.server}
	}
	if p.Server == "" {
		return nil, errors.New("no server is known: run bayctl login --server https://ADDRESS, or give --frame DIR for a virtual frame")
	}
	if a.caFile != "" {
		b, err := os.ReadFile(a.caFile)
		if err != nil {
			return nil, err
		}
		p.CA = string(b)
	}
	if t := os.Getenv("BAYSTREAM_TOKEN"); t != "" {
		p.Token = t
	}
	return newClient(p.Server, p.CA, p.Token)
}

// connectFrame logs in to the appliance of a virtual frame.
func connectFrame(ctx context.Context, dir string) (*client, error) {
	b, err := os.ReadFile(filepath.Join(dir, "frame.json"))
	if err != nil {
		return nil, fmt.Errorf("no virtual frame runs in %s: %w\n  what to do: vframe up -d %s --detach", dir, err, dir)
	}
	var f frameFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%s: frame.json: %w", dir, err)
	}
	ca, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, err
	}
	pw, err := os.ReadFile(f.PasswordFile)
	if err != nil {
		return nil, err
	}
	c, err := newClient(f.RestURL, string(ca), "")
	if err != nil {
		return nil, err
	}
	return c, c.login(ctx, f.User, strings.TrimSpace(string(pw)))
}

// login gets a session token.
func (c *client) login(ctx context.Context, user, password string) error {
	var answer struct {
		SessionID string `json:"sessionID"`
	}
	_, err := c.do(ctx, "POST", "/rest/login-sessions", map[string]any{"userName": user, "password": password, "loginMsgAck": true}, &answer)
	if err != nil {
		var e *apiError
		if errors.As(err, &e) && e.Status == 401 {
			return fmt.Errorf("log-in of %s refused: %s", user, e.Message)
		}
		return err
	}
	c.token = answer.SessionID
	return nil
}

func (a *app) setupCmd() *cobra.Command {
	var code, fingerprint, user, passwordFile string
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "First contact with a new appliance: make its first administrator",
		Long: "First contact with a new appliance. Its serial console shows a setup code and the fingerprint of its CA;\n" +
			"with both, this command makes the first administrator and remembers the server.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.server == "" || code == "" || fingerprint == "" {
				return errors.New("want --server, --code and --fingerprint: the appliance's console shows the last two")
			}
			ca, err := fetchCA(cmd.Context(), a.server, fingerprint)
			if err != nil {
				return err
			}
			c, err := newClient(a.server, ca, "")
			if err != nil {
				return err
			}
			pw, err := a.password(passwordFile, "New password for "+user)
			if err != nil {
				return err
			}
			if _, err := c.do(cmd.Context(), "POST", "/rest/baystream/setup",
				map[string]string{"setupCode": code, "userName": user, "password": pw}, nil); err != nil {
				return err
			}
			return a.remember(cmd.Context(), c, profile{Server: a.server, CA: ca, User: user}, pw)
		},
	}
	cmd.Flags().StringVar(&code, "code", "", "setup code from the console")
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "CA SHA-256 from the console")
	cmd.Flags().StringVar(&user, "user", "administrator", "name of the first administrator")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the new password (default: ask)")
	return cmd
}

func (a *app) loginCmd() *cobra.Command {
	var fingerprint, user, passwordFile string
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in and remember the server and its CA",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := readProfile()
			if err != nil {
				return err
			}
			if a.server != "" && a.server != p.Server {
				p = profile{Server: a.server}
			}
			if p.Server == "" {
				return errors.New("want --server https://ADDRESS")
			}
			switch {
			case a.caFile != "":
				b, err := os.ReadFile(a.caFile)
				if err != nil {
					return err
				}
				p.CA = string(b)
			case fingerprint != "":
				if p.CA, err = fetchCA(cmd.Context(), p.Server, fingerprint); err != nil {
					return err
				}
			case p.CA == "":
				return errors.New("the CA of this server is not known: give --ca FILE, or --fingerprint as the appliance's console shows it")
			}
			if user != "" {
				p.User = user
			}
			if p.User == "" {
				p.User = "administrator"
			}
			c, err := newClient(p.Server, p.CA, "")
			if err != nil {
				return err
			}
			pw, err := a.password(passwordFile, "Password of "+p.User)
			if err != nil {
				return err
			}
			return a.remember(cmd.Context(), c, p, pw)
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "CA SHA-256 from the console, to trust the server the first time")
	cmd.Flags().StringVar(&user, "user", "", "user name (default: the last one, or administrator)")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the password (default: ask)")
	return cmd
}

func (a *app) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the session and forget its token", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := readProfile()
			if err != nil || p.Token == "" {
				return err
			}
			c, err := newClient(p.Server, p.CA, p.Token)
			if err != nil {
				return err
			}
			_, err = c.do(cmd.Context(), "DELETE", "/rest/login-sessions", nil, nil)
			p.Token = ""
			return errors.Join(err, writeProfile(p))
		},
	}
}

func (a *app) remember(ctx context.Context, c *client, p profile, password string) error {
	if err := c.login(ctx, p.User, password); err != nil {
		return err
	}
	p.Token = c.token
	if err := writeProfile(p); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "logged in to %s as %s\n", p.Server, p.User)
	return nil
}

// password reads a password from a file or, without echo, from the terminal.
func (a *app) password(file, prompt string) (string, error) {
	if file != "" {
		b, err := os.ReadFile(file)
		return strings.TrimRight(string(b), "\r\n"), err
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", errors.New("no terminal to ask for the password: give --password-file")
	}
	fmt.Fprint(a.errOut, prompt+": ")
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(a.errOut)
	return string(b), err
}

func profilePath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no place to remember the server: %w", err)
	}
	return filepath.Join(dir, "baystream", "bayctl.json"), nil
}

func readProfile() (profile, error) {
	var p profile
	path, err := profilePath()
	if err != nil {
		return p, nil // nothing can be remembered; flags may suffice
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%s: %w: remove it and log in again", path, err)
	}
	return p, nil
}

func writeProfile(p profile) error {
	path, err := profilePath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

// taskLine is what one line of progress says.
func taskLine(t domain.Task) string {
	return fmt.Sprintf("%s: %3d %% %s", t.Title(), t.PercentComplete, t.TaskStatus)
}
