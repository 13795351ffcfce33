// Command vframe runs virtual frames: appliances and compute modules as VMs,
// with the networks between them.
//
// `vframe up` holds a frame in the foreground until a signal; with -detach a
// process of its own holds it. That process listens on a control socket in the
// frame's directory, through which the other commands work. What another
// program needs is in frame.json there.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vframe:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	root := &cobra.Command{
		Use:           "vframe",
		Short:         "Virtual frames: appliances, compute modules and the networks between them",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	dir := root.PersistentFlags().String("dir", "build/frame", "directory of the frame")
	root.AddCommand(upCommand(dir), downCommand(dir), statusCommand(dir), consoleCommand(dir), powerCommand(dir),
		faultCommand(dir), plugCommand(dir), unplugCommand(dir), captureCommand(dir), demoCommand(dir))
	root.SetArgs(longFlags(args))
	root.SetOut(out)
	root.SetErr(out)
	return root.ExecuteContext(ctx)
}

// longFlags lets flags be written with one dash, as Go programs do: -detach.
func longFlags(args []string) []string {
	var out []string
	for i, a := range args {
		if a == "--" {
			return append(out, args[i:]...)
		}
		if len(a) > 2 && a[0] == '-' && a[1] != '-' && !strings.ContainsAny(a[1:2], "0123456789.") {
			a = "-" + a
		}
		out = append(out, a)
	}
	return out
}
