// Bench measures Baystream beside its peers and writes a table and JSON.
//
//	go run ./bench -o build/bench.json
//
// A group is one measurement (groups): it boots VMs, collects figures, lines
// "bench NAME VALUE" from consoles, and never judges. rows.go makes rows out
// of figures, pure: what, ours, peer, ratio, bound, verdict. A group that
// fails costs its own rows only. A bound that is missed is a result, shown as
// such; the exit status is 1 only when something could not be measured.
//
// VMs that stand alone run on virtual time (QEMU's icount: 4 ns for each
// instruction), so that results hold on a busy machine. Memory and sizes do
// not depend on time.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"baystream/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	image, cache string
	work         string // for files of VMs
	out          io.Writer
	verbose      bool
	cmdline      string // more for the kernel of appliances, to try things
}

// figures are what groups measured, by name; several samples in order.
type figures map[string][]float64

func (f figures) add(name string, v float64) { f[name] = append(f[name], v) }

// group is one measurement.
type group struct {
	name  string
	about string
	do    func(*bench, context.Context, figures) error
	limit time.Duration
}

var groups = []group{
	{"image", "size of the bootable image", (*bench).imageSize, time.Minute},
	{"clone", "clones beside lvcreate -s, one VM on virtual time", (*bench).clone, 10 * time.Minute},
	{"boot", "power-on to REST beside an empty Go init, VMs on virtual time", (*bench).boot, 15 * time.Minute},
	{"init", "a boot split by step; the daemon restarted under load, one VM on virtual time", (*bench).initProcess, 10 * time.Minute},
	{"ram", "memory with 32 LUNs exported, one VM", (*bench).ram, 10 * time.Minute},
	{"iscsi", "I/O over iSCSI beside bare LIO and tgt, one VM on virtual time", (*bench).iscsi, 10 * time.Minute},
	{"hardware", "reading the hardware, hot-plug, one VM on virtual time", (*bench).hardware, 5 * time.Minute},
	{"failover", "gap of a bond's traffic when a port fails, one VM on virtual time", (*bench).failover, 10 * time.Minute},
}

// report is build/bench.json.
type report struct {
	Date    string             `json:"date"`
	Machine machine            `json:"machine"`
	Rows    []row              `json:"rows"`
	Failed  map[string]string  `json:"failed,omitempty"` // group: reason
	Seconds map[string]float64 `json:"seconds"`          // of wall time, by group
	Figures figures            `json:"figures"`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	file := flags.String("o", "build/bench.json", "write JSON into `FILE`")
	b := &bench{out: out}
	flags.StringVar(&b.image, "image", "build/image", "measure the image in `DIR`")
	flags.StringVar(&b.cache, "cache", "build/cache", "keep packages in `DIR`")
	flags.BoolVar(&b.verbose, "v", false, "show the VMs' consoles")
	flags.StringVar(&b.cmdline, "append", "", "more kernel `ARGUMENTS` for the appliance, to try things")
	only := flags.String("run", "", "only groups that match `REGEXP`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)

	r := report{Date: time.Now().UTC().Format(time.RFC3339), Machine: b.machine(ctx), Failed: map[string]string{},
		Seconds: map[string]float64{}, Figures: figures{}}
	for _, g := range groups {
		if !match.MatchString(g.name) {
			continue
		}
		fmt.Fprintf(out, "== %s: %s\n", g.name, g.about)
		began := time.Now()
		gctx, cancel := context.WithTimeout(ctx, g.limit)
		err := g.do(b, gctx, r.Figures)
		cancel()
		r.Seconds[g.name] = time.Since(began).Round(100 * time.Millisecond).Seconds()
		if err != nil {
			r.Failed[g.name] = err.Error()
			fmt.Fprintf(out, "%s: NOT MEASURED: %v\n", g.name, err)
		}
	}
	r.Rows = rows(r.Figures)
	table(out, r)
	if err := write(*file, r); err != nil {
		return err
	}
	if len(r.Failed) > 0 {
		return fmt.Errorf("%d of the measurements failed, see above", len(r.Failed))
	}
	return ctx.Err()
}

func write(file string, r report) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

var benchLine = regexp.MustCompile(`(?m)bench ([\w.-]+) ([0-9.]+)\s*$`)

// collect takes figures out of a console's text, each with a prefix.
func collect(f figures, prefix, text string) {
	for _, m := range benchLine.FindAllStringSubmatch(text, -1) {
		if v, err := strconv.ParseFloat(m[2], 64); err == nil {
			f.add(prefix+m[1], v)
		}
	}
}

// tests runs a test that boots a VM and collects its figures.
func (b *bench) tests(ctx context.Context, f figures, pkg, name string) error {
	cache, err := filepath.Abs(b.cache)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", "9m", "-run", "^"+name+"$", pkg)
	cmd.Env = append(os.Environ(), "BAYSTREAM_BENCH=1", "BAYSTREAM_CACHE="+cache)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	text, err := cmd.CombinedOutput()
	if b.verbose {
		b.out.Write(text)
	}
	collect(f, "", string(text))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w\n%s", pkg, name, err, tail(string(text), 20))
	case strings.Contains(string(text), "--- SKIP: "+name+" "):
		return fmt.Errorf("%s %s was skipped:\n%s", pkg, name, tail(string(text), 5))
	}
	return nil
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (b *bench) imageSize(_ context.Context, f figures) error {
	built, err := image.Load(b.image)
	if err != nil {
		return err
	}
	f.add("image-bytes", float64(built.Manifest.BootSize()))
	return nil
}

func (b *bench) clone(ctx context.Context, f figures) error {
	return b.tests(ctx, f, "baystream/daemon/storage", "TestBenchInVM")
}
