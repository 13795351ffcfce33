package bayctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"baystream/hw"
	"baystream/internal/local"
)

// console is the operator's place at a module's second serial port. It works
// whatever else does not: without the daemon it asks the first process and the
// kernel. docs/console.md describes it.
type console struct {
	tty      *terminal
	paths    consolePaths
	hardware hw.Inventory
	now      func() time.Time
	audit    io.Writer // lines for the module's log
	console1 func() (io.WriteCloser, error)
	patience time.Duration // a second: unit of all that slows people down

	client *client // of the daemon; nil while it does not answer
	user   string  // who is logged in
	code   string  // the recovery code of this start, once somebody needed one
}

// consolePaths are where the console finds the others.
type consolePaths struct {
	socket  string // of the daemon
	control string // of the first process
	run     string // administrators, while the module runs
	state   string // administrators, and everything that lasts
	log     string // the ring of the log
}

var modulePaths = consolePaths{local.Socket, local.Control, local.Dir, local.State, local.Ring}

// errDaemon is why something cannot be had without the daemon.
var errDaemon = errors.New("the daemon does not answer: see status and log for the reason; restart baystreamd tries again")

// consoleIdle ends a session that nobody uses.
const consoleIdle = 15 * time.Minute

func (a *app) consoleCmd() *cobra.Command {
	var tty string
	cmd := &cobra.Command{Use: "console", Short: "Serve this module's serial console (started by the first process)", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := openTTY(tty)
			if err != nil {
				return err
			}
			defer f.Close()
			inv, err := hw.Probe("/")
			if err != nil {
				fmt.Fprintln(a.errOut, "hardware:", err)
			}
			c := &console{tty: newTerminal(cmd.Context(), f), paths: modulePaths, hardware: inv, now: time.Now, audit: a.errOut, patience: time.Second,
				console1: func() (io.WriteCloser, error) { return os.OpenFile("/dev/console", os.O_WRONLY, 0) }}
			return c.serve()
		}}
	cmd.Flags().StringVar(&tty, "tty", "/dev/ttyS1", "the serial port")
	return cmd
}

// serve greets one operator after the other until the line ends.
func (c *console) serve() error {
	for {
		c.tty.idle, c.client, c.user = 0, nil, ""
		c.tty.full = false
		fmt.Fprintf(c.tty, "\n\nBaystream %s, %s (serial %s)\nPress Enter to log in.\n", or(c.hardware.Bay.Frame, "module"), c.hardware.Bay.Location, c.hardware.Bay.Serial)
		for {
			b, err := c.tty.key(0)
			if err != nil {
				return ended(err)
			}
			if b == '\r' || b == '\n' {
				break
			}
		}
		c.tty.idle = consoleIdle
		err := c.session()
		if c.user != "" {
			fmt.Fprintf(c.audit, "audit: console: %s logged out\n", c.user)
		}
		c.logout()
		if errors.Is(err, errGone) || c.tty.ctx.Err() != nil {
			return ended(err)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			fmt.Fprintf(c.tty, "\n%v\n", err)
		}
	}
}

// ended is the end of the line, or of the service, which is no fault.
func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (c *console) session() error {
	if err := c.login(); err != nil {
		return err
	}
	fmt.Fprintf(c.audit, "audit: console: %s logged in\n", c.user)
	c.tty.measure(2 * c.patience)
	if !c.tty.full {
		c.plainStatus()
		return c.prompt()
	}
	for {
		key, err := c.dashboard()
		if err != nil {
			return err
		}
		switch key {
		case 'q':
			return nil
		case 'm':
			err = c.maintenance()
		case 'c':
			err = c.prompt()
		}
		if err != nil && !errors.Is(err, errDashboard) {
			return err
		}
	}
}

// plainStatus shows the dashboard's facts once, as lines.
func (c *console) plainStatus() {
	f := c.gather(c.tty.ctx)
	f.Log = f.Log[max(0, len(f.Log)-5):]
	for _, l := range render(f, 200, 1000) {
		fmt.Fprintln(c.tty, l)
	}
}

// errDashboard asks for the dashboard.
var errDashboard = errors.New("dashboard")

// prompt takes commands until the operator has enough.
func (c *console) prompt() error {
	e := c.tty.editor("baystream> ")
	e.AutoCompleteCallback = c.completeLine
	fmt.Fprintln(c.tty, "Commands of bayctl, and: dashboard, maintenance, help, exit. Ctrl-C ends a command.")
	for {
		line, err := e.ReadLine()
		if err != nil {
			return err
		}
		words, err := splitLine(line)
		if err != nil {
			fmt.Fprintln(c.tty, err)
			continue
		}
		if len(words) == 0 {
			continue
		}
		switch err := c.command(words); {
		case errors.Is(err, io.EOF):
			return err
		case errors.Is(err, errDashboard) && c.tty.full:
			return err
		case errors.Is(err, errDashboard):
			c.plainStatus()
		case errors.Is(err, errGone), errors.Is(err, errIdle):
			return err
		case err != nil:
			fmt.Fprintln(c.tty, "bayctl:", err)
		}
	}
}

// command carries out one line.
func (c *console) command(words []string) error {
	if words[0] == "bayctl" && len(words) > 1 {
		words = words[1:]
	}
	switch words[0] {
	case "exit", "quit", "logout":
		return io.EOF
	case "dashboard":
		return errDashboard
	case "maintenance", "menu":
		return c.maintenance()
	case "support-dump":
		c.reconnect()
		return c.sendDump()
	}
	c.reconnect()
	if c.client == nil {
		if done, err := c.withoutDaemon(words); done {
			return err
		}
	}
	return c.tty.whileCommand(func(ctx context.Context) error {
		return runApp(ctx, &app{out: c.tty, errOut: c.tty, local: c.client, module: true}, words)
	})
}

// withoutDaemon does what works without it, and tells for the rest why not.
func (c *console) withoutDaemon(words []string) (done bool, err error) {
	switch words[0] {
	case "status", "hw", "net", "storage":
		c.plainStatus()
		return true, nil
	case "logs":
		r, err := askInit(c.paths.control, "log 200")
		for _, l := range r.Lines {
			fmt.Fprintln(c.tty, cut(l, 1000))
		}
		return true, err
	case "help", "--help", "-h":
		fmt.Fprintln(c.tty, "Without the daemon there are: status, logs, support-dump, dashboard, maintenance, exit.")
		return true, nil
	}
	return true, errDaemon
}

// completeLine completes the first word of a line.
func (c *console) completeLine(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' || strings.ContainsRune(line[:pos], ' ') {
		return "", 0, false
	}
	var hits []string
	for _, cmd := range newRoot(&app{module: true}).Commands() {
		if strings.HasPrefix(cmd.Name(), line[:pos]) && !cmd.Hidden {
			hits = append(hits, cmd.Name())
		}
	}
	if len(hits) != 1 {
		return "", 0, false
	}
	done := hits[0] + " " + line[pos:]
	return done, len(hits[0]) + 1, true
}

// splitLine cuts a line into words; quotes keep blanks together.
func splitLine(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	in, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, in = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed: %s", line)
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
