package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"baystream/qemu"
)

// initProcess measures what PID 1 answers for: a boot taken apart, as a
// waterfall printed and as build/boot-waterfall.svg; and a restart of the daemon
// while a volume is in use and clients connect.
func (b *bench) initProcess(ctx context.Context, f figures) error {
	p, err := b.programs(ctx)
	if err != nil {
		return err
	}
	ours, err := b.appliance(p, "appliance")
	if err != nil {
		return err
	}
	console, err := b.runModule(ctx, "init", qemu.VMConfig{
		Kernel: p.built.Kernel, Cmdline: p.built.Cmdline + bootOptions + " bench=init", Initramfs: ours, ICount: true,
	})
	if err != nil {
		return err
	}
	own := figures{}
	collect(own, "", console)
	for name, v := range own {
		if name != "boot-ms" {
			f[name] = append(f[name], v...)
		}
	}
	if len(own["boot-ms"]) == 0 {
		return fmt.Errorf("the VM did not say when REST answered")
	}
	all, err := bars(console, own["boot-ms"][0]/1000)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "first power-on to REST, seconds of virtual time since power-on\n%s", waterfall(all))
	file := filepath.Join(filepath.Dir(filepath.Clean(b.image)), "boot-waterfall.svg")
	return os.WriteFile(file, []byte(waterfallSVG(all)), 0o644)
}

// initRules make its rows.
var initRules = []rule{
	{what: "daemon restart under load: connections answered", ours: "restart-answered-percent", unit: "%", bound: 100, atLeast: true},
	{what: "- the longest that one waited", ours: "restart-wait-ms", peer: "restart-ms", against: "the restart", unit: "ms"},
	{what: "- longest pause of a volume's I/O", ours: "restart-io-pause-ms", peer: "restart-io-quiet-ms", against: "itself, without a restart", unit: "ms"},
	{what: "resident set of PID 1", ours: "rss-pid1-kib", unit: "MiB", scale: 1. / 1024, bound: 10},
}
