// Baystreamd is the appliance's daemon: management role and storage role.
//
// It runs under our PID 1 and under systemd alike (readiness and watchdog by
// the sd_notify protocol, inherited sockets by LISTEN_FDS). Its log goes to
// standard error as text; lines for whoever stands at the console begin with
// "baystream:" and go to standard output.
//
// Volumes serve on in the kernel when it stops. Only when the machine ends,
// "baystreamd -shutdown" has to run behind it. Our PID 1 does that (down in
// /etc/init.json); under systemd it is a second unit, which stops after the
// daemon's and with the machine only:
//
//	[Unit]
//	Before=baystreamd.service
//	[Service]
//	Type=oneshot
//	RemainAfterExit=yes
//	ExecStart=/bin/true
//	ExecStop=/bin/baystreamd -shutdown
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"baystream/daemon"
	"baystream/daemon/plan"
	"baystream/internal/bayctl"
)

// version is set by the linker.
var version = "development"

func main() {
	collect := lateCollection()
	plan.MaybeSandbox() // never returns in the sandbox of a plan script
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	run := run
	if len(os.Args) > 1 && os.Args[1] == "console" { // one program for both: memory has it once
		run = func(ctx context.Context, args []string) error { return bayctl.Run(ctx, args, os.Stdout, os.Stderr) }
	}
	time.AfterFunc(collectAfter, collect)
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "baystreamd:", err)
		os.Exit(1)
	}
}

// collectAfter is long enough for REST to answer on a machine of today.
const collectAfter = 5 * time.Second

// lateCollection begins collection of garbage as it is usual, when the function
// that it returns is called. The service's environment puts it off (image.Daemon):
// nearly all that a start allocates stays, and marking it again and again is a
// twentieth of the daemon's time until REST answers. Meanwhile a limit of memory
// bounds it. Programs that the daemon starts do not inherit that.
func lateCollection() (begin func()) {
	if os.Getenv("GOGC") != "off" {
		return func() {}
	}
	os.Unsetenv("GOGC")
	os.Unsetenv("GOMEMLIMIT")
	return func() {
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("baystreamd", flag.ContinueOnError)
	state := flags.String("state", "/var/lib/baystream", "directory of everything that lasts")
	listen := flags.String("listen", "", "address:port of REST (default: port 443 of the management address)")
	reset := flags.Bool("factory-reset", false, "erase the data disk, at the next start if it is in use, and end")
	goOn := flags.String("recover-domain", "", "let the domain of this name go on without its other modules, from the daemon's next start on, and end")
	end := flags.Bool("shutdown", false, "take down what serves on in the kernel, because the machine ends, and end")
	note := flags.String("note-maintenance", "", "write into the controller's event log that the module is in maintenance for `REASON` (asked, bay, crash-loop, disk), and end")
	givenUp := flags.Bool("given-up", false, "note that the daemon was given up, see that the management port has an address, and end")
	debug := flags.Bool("debug", false, "log details")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q: want none", flags.Arg(0))
	}
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	cfg := daemon.Config{
		State: *state, Root: "/", Listen: *listen, Version: version,
		Log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Console: func(format string, a ...any) { fmt.Printf("baystream: "+format+"\n", a...) },
	}
	if *note != "" {
		return daemon.NoteMaintenance(ctx, cfg.Root, *note)
	}
	if *givenUp {
		return daemon.GivenUp(ctx, cfg)
	}
	if *end {
		return daemon.Shutdown(context.WithoutCancel(ctx), cfg) // nothing is gained by half of it
	}
	if *goOn != "" {
		return daemon.RecoverDomain(cfg, *goOn)
	}
	if *reset {
		return daemon.FactoryReset(ctx, cfg)
	}
	return daemon.Run(ctx, cfg)
}
