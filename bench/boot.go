package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"baystream/image"
	"baystream/qemu"
)

// The appliance that boots: frame and addresses are documentation's (RFC 5737).
const address = "192.0.2.10"

// bootOptions keep the processor busy where it would sleep: on virtual time a
// sleep ends at the next timer at once, and a disk of the real world, that does
// not know, would seem to take seconds.
// The watchdog of a controller would measure real time, which runs ahead.
const bootOptions = " idle=poll baystream.no-watchdog bench.address=" + address

const diskBytes = 8 << 30

// programs are what a VM's initramfs is put together from.
type programs struct {
	built *image.Built
	guest []byte // bench/guest
}

func (b *bench) programs(ctx context.Context) (programs, error) {
	built, err := image.Load(b.image)
	if err != nil {
		return programs{}, err
	}
	file := filepath.Join(b.work, "guest")
	if err := image.GoBuild(ctx, "", "./bench/guest", file); err != nil {
		return programs{}, err
	}
	guest, err := os.ReadFile(file)
	return programs{built, guest}, err
}

// initramfs writes the image's initramfs with more files behind it; those take
// the place of the image's own. Without the image it is these files alone.
func (b *bench) initramfs(name string, built *image.Built, files ...image.File) (string, error) {
	var all bytes.Buffer
	if built != nil {
		base, err := os.ReadFile(built.Initramfs)
		if err != nil {
			return "", err
		}
		all.Write(base)
		for all.Len()%4 != 0 { // where the kernel looks for an archive
			all.WriteByte(0)
		}
	}
	if err := image.Pack(&all, files); err != nil {
		return "", err
	}
	file := filepath.Join(b.work, name+".initramfs")
	return file, os.WriteFile(file, all.Bytes(), 0o600)
}

// appliance is our image with the guest program as a second service, and with
// more arguments for the daemon.
func (b *bench) appliance(p programs, name string, args ...string) (string, error) {
	daemon := image.Daemon
	daemon.Exec = slices.Concat(daemon.Exec, args)
	config, err := json.Marshal(image.InitConfig{Modules: image.BootModules, Services: []image.Service{
		daemon, {Name: "bench", Exec: []string{"/bench"}, StopTimeoutSec: 5},
	}})
	if err != nil {
		return "", err
	}
	return b.initramfs(name, p.built, image.Program("bench", p.guest), image.Text("etc/init.json", string(config)))
}

// module runs a VM and collects figures.
func (b *bench) module(ctx context.Context, f figures, prefix, name string, cfg qemu.VMConfig) error {
	text, err := b.runModule(ctx, name, cfg)
	collect(f, prefix, text)
	if share, ok := etcdShare(text); ok {
		f.add(prefix+"etcd-ms", share)
	}
	return err
}

// runModule starts a VM wired as an appliance in a frame, waits for its end and
// returns its console. Each name has a data disk of its own that lasts.
func (b *bench) runModule(ctx context.Context, name string, cfg qemu.VMConfig) (console string, err error) {
	log := slog.New(slog.DiscardHandler)
	cfg.Name, cfg.Dir, cfg.RunDir = name, b.work, b.work
	cfg.Identity = qemu.Identity{
		Frame: "VF0001", Serial: "VF0001A01", UUID: "00000000-0000-4000-8000-00000000a001", Location: "appliance bay 1",
		OEM: []string{
			"baystream:management=address:" + address + "/24,gateway:192.0.2.1",
			"baystream:deployment=vlan:1300,address:198.51.100.2/24,pool:198.51.100.100-198.51.100.199,mtu:1500",
		},
	}
	cfg.MemoryMiB = 2048
	cfg.Cmdline += " " + b.cmdline
	cfg.Disks = []qemu.Disk{{Path: filepath.Join(b.work, name+".raw"), Size: diskBytes, Serial: "bench"}}
	for _, slot := range []int{1, 3, 6} {
		cfg.NICs = append(cfg.NICs, qemu.NIC{Slot: slot, MAC: net.HardwareAddr{2, 'a', 0, 1, 1, byte(slot)},
			Network: qemu.NewSwitch(fmt.Sprint("net", slot), 1, log), Port: qemu.PortConfig{Name: name}})
	}
	vm, err := qemu.NewVM(cfg, log)
	if err != nil {
		return "", err
	}
	defer vm.Close()
	if err := vm.PowerOn(ctx); err != nil {
		return "", err
	}
	m, err := vm.WaitConsole(ctx, benchEnd)
	if err != nil {
		return "", fmt.Errorf("%s: %w; the console's last lines:\n%s", name, err, vm.Console().Tail(25))
	}
	if m[1] != "end" {
		return "", fmt.Errorf("%s: %s; the console's last lines:\n%s", name, m[1], vm.Console().Tail(25))
	}
	text := vm.Console().Tail(100000)
	if b.verbose {
		fmt.Fprintln(b.out, text)
	}
	return text, vm.WaitOff(ctx)
}

var benchEnd = regexp.MustCompile(`bench (end|failed: [^\r\n]*)[\r\n]`)

// boots is how often each kind of boot is measured.
const boots = 2

// boot measures power-on to REST: the first boot with a blank data disk, the
// second with the same disk. Peers are the same kernel, machine and command
// line with the guest program as init: alone, and in place of our init in our
// image, which the kernel then has to unpack too.
func (b *bench) boot(ctx context.Context, f figures) error {
	p, err := b.programs(ctx)
	if err != nil {
		return err
	}
	ours, err := b.appliance(p, "appliance")
	if err != nil {
		return err
	}
	empty, err := b.initramfs("empty", nil, image.Program("init", p.guest), console)
	if err != nil {
		return err
	}
	unpack, err := b.initramfs("unpack", p.built, image.Program("init", p.guest))
	if err != nil {
		return err
	}
	// What etcd takes is read off the daemon's debug log, which costs time
	// itself: in boots of their own.
	debug, err := b.appliance(p, "debug", "-debug")
	if err != nil {
		return err
	}
	cfg := qemu.VMConfig{Kernel: p.built.Kernel, Cmdline: p.built.Cmdline + bootOptions + " bench=boot", ICount: true}
	for _, prefix := range []string{"debug-first-", "debug-second-"} {
		cfg.Initramfs = debug
		if err := b.module(ctx, f, prefix, "debug", cfg); err != nil {
			return err
		}
	}
	for n := range boots {
		for _, kind := range []struct{ prefix, name, initramfs string }{
			{"peer-", "peer", empty},
			{"first-", fmt.Sprint("ours", n), ours},
			{"unpack-", "unpack", unpack},
			{"second-", fmt.Sprint("ours", n), ours},
		} {
			cfg.Initramfs = kind.initramfs
			if err := b.module(ctx, f, kind.prefix, kind.name, cfg); err != nil {
				return err
			}
		}
	}
	return nil
}

var etcdLine = regexp.MustCompile(`time=(\S+) level=\S+ msg="etcd: `)

// etcdShare is the time in ms from the first to the last line that etcd logged
// before REST was ready.
func etcdShare(console string) (float64, bool) {
	console, _, _ = strings.Cut(console, "REST ready")
	lines := etcdLine.FindAllStringSubmatch(console, -1)
	if len(lines) < 2 {
		return 0, false
	}
	begin, err := time.Parse(time.RFC3339, lines[0][1])
	end, err2 := time.Parse(time.RFC3339, lines[len(lines)-1][1])
	if err != nil || err2 != nil {
		return 0, false
	}
	return float64(end.Sub(begin).Microseconds()) / 1000, true
}

// console is the node that the kernel opens for init.
var console = image.File{Path: "dev/console", Mode: os.ModeDevice | os.ModeCharDevice | 0o600, Major: 5, Minor: 1}

// ram measures memory with 32 volumes exported.
func (b *bench) ram(ctx context.Context, f figures) error {
	p, err := b.programs(ctx)
	if err != nil {
		return err
	}
	ours, err := b.appliance(p, "appliance")
	if err != nil {
		return err
	}
	err = b.module(ctx, f, "", "ram", qemu.VMConfig{Kernel: p.built.Kernel, Initramfs: ours, CPUs: 2,
		Cmdline: p.built.Cmdline + " bench=ram bench.address=" + address})
	if err == nil && !slices.Equal(f["luns"], []float64{32}) {
		err = errors.New("the VM did not export 32 LUNs")
	}
	return err
}
