package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"baystream/qemu"

	"github.com/spf13/cobra"
)

func upCommand(dir *string) *cobra.Command {
	var cfg qemu.Config
	var firmware, pair string
	var detach, noSetup bool
	var disk int64
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a frame; its appliance is set up, its compute modules are off",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg.Dir, cfg.Firmware, cfg.DiskBytes = *dir, qemu.Firmware(firmware), disk<<30
			if cfg.Firmware != qemu.UEFI && cfg.Firmware != qemu.BIOS {
				return fmt.Errorf("firmware %q: want %s or %s", firmware, qemu.UEFI, qemu.BIOS)
			}
			if detach {
				return upDetached(c.Context(), cfg.Dir, c.OutOrStdout())
			}
			if pair != "" && (cfg.Frames < 3 || noSetup) {
				return errors.New("a pair needs -frames 3 and a first appliance that is set up")
			}
			return up(c.Context(), cfg, !noSetup, pair, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.IntVar(&cfg.Frames, "frames", 1, "linked frames, one appliance each; of three, the third has a witness, and only the first appliance is set up")
	f.StringVar(&pair, "pair", "", "form a domain of that name out of the modules of three frames")
	f.IntVar(&cfg.Compute, "compute", 1, "compute modules per frame")
	f.StringVar(&cfg.Image, "image", "build/image", "directory of the image (make image)")
	f.StringVar(&firmware, "firmware", string(qemu.UEFI), "of compute modules: uefi or bios")
	f.IntVar(&cfg.Appliance.MemoryMiB, "memory", 512, "of an appliance, MiB")
	f.IntVar(&cfg.Module.MemoryMiB, "compute-memory", 256, "of a compute module, MiB")
	f.IntVar(&cfg.Module.CPUs, "compute-cpus", 1, "of a compute module")
	f.BoolVar(&cfg.Module.Display, "display", false, "give compute modules a VGA card (QMP screendump)")
	f.Int64Var(&disk, "disk", 8, "data disk of an appliance, GiB (sparse)")
	f.BoolVar(&cfg.ServeDisks, "serve-disks", false, "drives of ours under the appliances' disks: a power cut loses what was not flushed, and fault disk works; somewhat slower")
	f.Uint64Var(&cfg.Seed, "seed", 0, "of random faults")
	f.BoolVar(&detach, "detach", false, "return when the frame is up; a process of its own holds it")
	f.BoolVar(&noSetup, "no-setup", false, "leave the appliance in its factory state")
	return c
}

// up holds a frame until ctx ends, somebody says `down`, or it fails.
func up(ctx context.Context, cfg qemu.Config, setup bool, pair string, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cfg.Log, err = openLog(cfg.Dir); err != nil {
		return err
	}
	f, err := qemu.Up(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stop, err := serveControl(f, cancel)
	if err != nil {
		return err
	}
	defer stop()
	if setup {
		fmt.Fprintf(out, "%s: appliance starts (%s)\n", f.Serial, qemu.ChooseAccel().Name)
		for _, g := range f.Standalone() {
			wait, done := context.WithTimeout(ctx, qemu.Deadline(setupTime))
			err := g.Setup(wait)
			done()
			if err != nil {
				return err
			}
		}
	}
	if pair != "" {
		wait, done := context.WithTimeout(ctx, qemu.Deadline(3*setupTime))
		err := f.FormDomain(wait, pair, func(what string) { fmt.Fprintf(out, "%s: %s\n", f.Serial, what) })
		done()
		if err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, readyFile), nil, 0o644); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(cfg.Dir, readyFile))
	printStatus(out, f.State())
	fmt.Fprintln(out, "up; Ctrl-C or `vframe down` ends it")
	<-ctx.Done()
	return nil
}

const (
	setupTime = time.Minute // power-on to REST ready with KVM, generously
	readyFile = "up"        // in the directory while the frame is up
)

func openLog(dir string) (*slog.Logger, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "vframe.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug})), nil
}

// upDetached starts this program again without -detach and waits until its
// frame is up or its process has ended.
func upDetached(ctx context.Context, dir string, out io.Writer) error {
	var args []string
	for _, a := range longFlags(os.Args[1:]) {
		if a != "--detach" && a != "--detach=true" {
			args = append(args, a)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if qemu.Held(dir) {
		return fmt.Errorf("%s: a frame is up here; take it down first: vframe down -dir %s", dir, dir)
	}
	os.Remove(filepath.Join(dir, readyFile)) // of a process that was killed
	said := filepath.Join(dir, "vframe.out")
	w, err := os.Create(said)
	if err != nil {
		return err
	}
	defer w.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signal of our terminal
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			cmd.Process.Signal(syscall.SIGTERM)
			<-gone
			return ctx.Err()
		case err := <-gone:
			text, _ := os.ReadFile(said)
			return fmt.Errorf("the frame did not start (%v):\n%s", err, text)
		case <-tick.C:
		}
		if _, err := os.Stat(filepath.Join(dir, readyFile)); err == nil {
			break
		}
	}
	s, err := qemu.ReadState(dir)
	if err != nil {
		return err
	}
	printStatus(out, s)
	fmt.Fprintf(out, "up, held by pid %d; end it with: vframe down -dir %s\n", s.PID, dir)
	return nil
}
