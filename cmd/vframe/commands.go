package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"baystream/qemu"

	"github.com/spf13/cobra"
)

func downCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the frame; its disks and logs stay",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := call(c.Context(), *dir, http.MethodPost, "/down", struct{}{}, nil); err != nil {
				return err
			}
			return waitEnd(c.Context(), *dir)
		},
	}
}

// waitEnd waits until nothing is left of a frame but its files.
func waitEnd(ctx context.Context, dir string) error {
	for qemu.Held(dir) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: the frame still ends: %w", dir, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func statusCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show bays and networks",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var s qemu.State
			if err := call(c.Context(), *dir, http.MethodGet, "/status", struct{}{}, &s); err != nil {
				return err
			}
			printStatus(c.OutOrStdout(), s)
			return nil
		},
	}
}

func printStatus(out io.Writer, s qemu.State) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BAY\tFRAME\tLOCATION\tSERIAL\tPOWER\tCONSOLE LOG")
	for _, b := range s.Bays {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", b.Bay, b.Frame, b.Location, b.Serial, b.Power, b.ConsoleLog)
	}
	fmt.Fprintln(w, "\nNETWORK\tPORT\tIN\tOUT\tDROPPED")
	for _, n := range s.Networks {
		for _, p := range slices.Sorted(maps.Keys(n.Ports)) {
			st := n.Ports[p]
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\n", n.Name, p, st.In, st.Out, st.Dropped)
		}
	}
	w.Flush()
	for _, f := range s.Frames {
		if f.Ready {
			fmt.Fprintf(out, "\n%s: %s (certificate of \"baystream\", CA %s)\n  user %s, password in %s\n", f.Serial, f.RESTURL, f.CAFile, f.User, f.PasswordFile)
		}
	}
}

func powerCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:       "power BAY on|off|reset|button",
		Short:     "Switch a bay's power; button asks the OS to shut down",
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{"on", "off", "reset", "button"},
		RunE: func(c *cobra.Command, args []string) error {
			return call(c.Context(), *dir, http.MethodPost, "/power", powerRequest{args[0], args[1]}, nil)
		},
	}
}

func captureCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "capture NETWORK FILE",
		Short: "Write what a network carries to a pcap file, until Ctrl-C",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if err := call(c.Context(), *dir, http.MethodPost, "/capture", captureRequest{Network: args[0], File: file}, nil); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "capturing %s to %s; Ctrl-C ends it\n", args[0], args[1])
			<-c.Context().Done()
			return call(context.WithoutCancel(c.Context()), *dir, http.MethodPost, "/capture", captureRequest{File: file, Stop: true}, nil)
		},
	}
}

func consoleCommand(dir *string) *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use:   "console BAY",
		Short: "Attach to a module's serial port; Ctrl-] leaves",
		Long: "Attach to a module's serial port; Ctrl-] leaves. Port 1 is where it boots and logs, port 2 of an appliance\n" +
			"where its operator logs in.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := qemu.ReadState(*dir)
			if err != nil {
				return err
			}
			if !qemu.Held(*dir) {
				return fmt.Errorf("%s: %w", *dir, qemu.ErrNoFrame)
			}
			var names []string
			for _, b := range s.Bays {
				if b.Bay == args[0] || b.Serial == args[0] {
					return console(c.Context(), b, port, os.Stdin, c.OutOrStdout())
				}
				names = append(names, b.Bay)
			}
			return fmt.Errorf("no bay %q; there are %s", args[0], strings.Join(names, ", "))
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "1 or 2 (default: 2 of an appliance, else 1)")
	return cmd
}
