package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"baystream/qemu"
	"baystream/qemu/demo"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func demoCommand(dir *string) *cobra.Command {
	var o demo.Options
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job: an image, a plan, a profile, and a server that boots from its OS volume",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			o.Dir, o.Out = *dir, c.OutOrStdout()
			if !c.Flags().Changed("dir") {
				o.Dir = filepath.Join("build", "demo")
			}
			if err := os.MkdirAll(o.Cache, 0o755); err != nil {
				return err
			}
			log, err := os.Create(filepath.Join(o.Cache, "demo.log"))
			if err != nil {
				return err
			}
			defer log.Close()
			o.Log = slog.New(slog.NewTextHandler(log, nil))
			if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
				o.Hold = func(ctx context.Context, f *qemu.Frame) error { return hold(ctx, f, o.Out) }
			}
			return demo.Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Image, "image", "build/image", "directory of the image (make image)")
	f.StringVar(&o.Cache, "cache", "build/cache", "directory for what later runs use again")
	f.StringVar(&o.Bundle, "bundle", "", "artifact bundle to deploy instead of a Debian made here")
	f.BoolVar(&o.Pair, "pair", false, "show a pair: what two servers feel when the appliances below them die and move")
	return c
}

// hold keeps the frame up, and answers the other commands, until Ctrl-C.
func hold(ctx context.Context, f *qemu.Frame, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop, err := serveControl(f, cancel)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintln(out, "The frame stays up until Ctrl-C.")
	<-ctx.Done()
	return nil
}
