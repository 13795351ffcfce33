// Command mkimage builds the appliance's bootable image: kernel, initramfs,
// command line and manifest, from Debian packages and this source tree.
//
//	mkimage -o build/image
//
// It needs apt's package lists and the Go tools, no root. Package versions
// stay as they are in the cache until -update.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"baystream/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && err != flag.ErrHelp {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	out, cache, source string
	init, daemon       string
	fence              string
	flavour, version   string
	cmdline            string
	update             bool
	services           []namedFile
}

type namedFile struct{ name, file string }

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.out, "o", "build/image", "write the image into `DIR`")
	flags.StringVar(&o.cache, "cache", "build/cache", "keep packages in `DIR`")
	flags.StringVar(&o.source, "C", ".", "build the Go programs of the module in `DIR`")
	flags.StringVar(&o.init, "init", "", "take `FILE` as the first process instead of building ./init")
	flags.StringVar(&o.daemon, "daemon", "", "take `FILE` as the daemon instead of building ./cmd/baystreamd; none leaves it out")
	flags.StringVar(&o.fence, "fence", "", "take `FILE` as the mirrors' fence handler instead of building ./cmd/bayfence")
	flags.StringVar(&o.flavour, "flavour", image.FlavourGeneric, "`FLAVOUR` of Debian's kernel, "+image.FlavourGeneric+" or "+image.FlavourCloud)
	flags.StringVar(&o.version, "version", "devel", "`VERSION` written into os-release")
	flags.StringVar(&o.cmdline, "cmdline", image.DefaultCmdline, "kernel command `LINE`")
	flags.BoolVar(&o.update, "update", false, "take the package versions that apt offers now")
	flags.Func("service", "also start `NAME=FILE`, a program", func(s string) error {
		name, file, ok := strings.Cut(s, "=")
		if !ok || name == "" || file == "" || strings.Contains(name, "/") {
			return fmt.Errorf("want NAME=FILE")
		}
		o.services = append(o.services, namedFile{name, file})
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	started := time.Now()
	progress := func(step string) {
		fmt.Fprintf(out, "%6.1fs  %s\n", time.Since(started).Seconds(), step)
	}
	spec, err := o.spec(ctx, progress)
	if err != nil {
		return err
	}
	built, err := image.Build(ctx, spec, o.out)
	if err != nil {
		return err
	}
	progress("image in " + o.out)
	if err := table(out, built.Manifest); err != nil {
		return err
	}
	if size := built.Manifest.BootSize(); size > image.Limit {
		return fmt.Errorf("kernel and initramfs have %d bytes, the limit is %d", size, int64(image.Limit))
	}
	return nil
}

// spec is what to build. Programs not given are built from source first.
func (o options) spec(ctx context.Context, progress func(string)) (image.Spec, error) {
	spec := image.Spec{
		CacheDir: o.cache,
		Refresh:  o.update,
		Flavour:  o.flavour,
		Version:  o.version,
		Cmdline:  o.cmdline,
		Programs: make(map[string]string),
		Progress: progress,
	}
	var err error
	if spec.Programs["init"], err = o.program(ctx, o.init, "init", "./init", progress); err != nil {
		return spec, err
	}
	if o.daemon != "none" {
		if spec.Programs["bin/baystreamd"], err = o.program(ctx, o.daemon, "baystreamd", "./cmd/baystreamd", progress); err != nil {
			return spec, err
		}
		if spec.Programs["bin/bayfence"], err = o.program(ctx, o.fence, "bayfence", "./cmd/bayfence", progress); err != nil {
			return spec, err
		}
		spec.Services = append(spec.Services, image.Daemon, image.Console, image.Health)
	}
	for _, s := range o.services {
		spec.Programs["bin/"+s.name] = s.file
		spec.Services = append(spec.Services, image.Service{
			Name: s.name, Exec: []string{"/bin/" + s.name}, StartTimeoutSec: 30, StopTimeoutSec: 10,
		})
	}
	return spec, nil
}

// program is the file given, or else what pkg builds to.
func (o options) program(ctx context.Context, given, name, pkg string, progress func(string)) (string, error) {
	if given != "" {
		return given, nil
	}
	progress("go build " + pkg)
	dir := filepath.Join(o.out, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(dir, name)
	return file, image.GoBuild(ctx, o.source, pkg, file)
}

// table prints the sizes of all parts, and of the frames of the initramfs.
func table(out io.Writer, m image.Manifest) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, size int64, note string) {
		fmt.Fprintf(w, "%s\t%d\t%.1f MiB\t  %s\n", name, size, float64(size)/(1<<20), note)
	}
	fmt.Fprintf(w, "part\tbytes\t\t\n")
	for _, p := range m.Parts {
		row(p.Name, p.Size, "sha256 "+p.SHA256[:16])
		if p.Name != "initramfs" {
			continue
		}
		for _, f := range m.Frames {
			row(f.Name, f.Size, fmt.Sprintf("in it, %.1f MiB unpacked", float64(f.PlainSize)/(1<<20)))
		}
	}
	row("kernel and initramfs", m.BootSize(), fmt.Sprintf("of %d MiB allowed; kernel %s", image.Limit>>20, m.Kernel))
	return w.Flush()
}
