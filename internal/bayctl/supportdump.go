package bayctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"baystream/internal/support"
)

const dumpURI = "/rest/baystream/support-dump"

func (a *app) supportDumpCmd() *cobra.Command {
	var capture string
	cmd := &cobra.Command{Use: "support-dump [FILE]", Short: "Collect what support needs, without secrets, in a zip file",
		Long: "Collect logs, inventory, and the state of the kernel and of the daemon in one zip file, without secrets.\n" +
			"With --from-capture it is taken out of what a terminal has kept of a dump over the serial console.", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := "baystream-support-" + time.Now().UTC().Format("20060102T150405Z") + ".zip"
			if len(args) == 1 {
				file = args[0]
			}
			if capture != "" {
				text, err := os.ReadFile(capture)
				if err != nil {
					return err
				}
				dump, err := support.FromCapture(text)
				if err != nil {
					return fmt.Errorf("%s: %w", capture, err)
				}
				if err := os.WriteFile(file, dump, 0o600); err != nil {
					return err
				}
			} else {
				c, err := a.connect(cmd.Context())
				if err != nil {
					return err
				}
				if err := download(cmd.Context(), c, dumpURI, file); err != nil {
					return err
				}
			}
			return a.print(map[string]string{"file": file}, func(w io.Writer) { fmt.Fprintln(w, file) })
		}}
	cmd.Flags().StringVar(&capture, "from-capture", "", "take the dump out of this file, what a terminal kept of the serial console")
	return cmd
}

// sendDump sends a dump over the serial line: the daemon's, else one of what
// can be seen without it.
func (c *console) sendDump() error {
	fmt.Fprintln(c.tty, "Collecting. Let your terminal keep what follows in a file; bayctl support-dump --from-capture FILE takes it out.")
	var dump bytes.Buffer
	err := errDaemon
	if c.client != nil {
		err = func() error {
			ctx, cancel := context.WithTimeout(c.tty.ctx, time.Minute)
			defer cancel()
			resp, err := c.client.open(ctx, http.MethodGet, fmt.Sprintf("%s?limit=%d", dumpURI, support.SmallLimit), "", nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(&dump, resp.Body)
			return err
		}()
	}
	if err != nil {
		if !errors.Is(err, errDaemon) {
			fmt.Fprintln(c.tty, "without the daemon:", err)
		}
		dump.Reset()
		if err := support.Write(c.tty.ctx, &dump, support.Options{Root: "/", State: c.paths.state, Version: "without the daemon", Limit: support.SmallLimit,
			Documents: c.documents()}); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.audit, "audit: console: support dump by %s\n", c.user)
	fmt.Fprintf(c.tty, "%s; at 115200 bit/s this takes %v. Ctrl-C ends it.\n", size(int64(dump.Len())),
		(time.Duration(dump.Len()) * time.Second * 14 / 10 / 11520).Round(time.Second))
	return c.tty.whileCommand(func(ctx context.Context) error {
		return support.WriteSerial(ctxWriter{ctx, c.tty}, dump.Bytes())
	})
}

// documents are what the console knows itself.
func (c *console) documents() []support.Document {
	return []support.Document{
		{Name: "init.json", Read: func(context.Context) ([]byte, error) { return askInitJSON(c.paths.control) }},
		{Name: "hw.json", Read: func(context.Context) ([]byte, error) { return jsonOf(c.hardware) }},
		{Name: "links.json", Read: func(context.Context) ([]byte, error) { return jsonOf(kernelLinks()) }},
	}
}

// ctxWriter stops when its context ends.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w ctxWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
