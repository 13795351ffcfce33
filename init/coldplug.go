package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Devices tell what driver they want by a modalias, and modules.alias knows
// which module that is. So hardware that is absent costs no boot time, and any
// that the image has a driver for works.

// urgentDevices are what services look for as soon as they start: mass storage
// and network controllers on PCI (base classes 01 and 02 of the PCI Code and ID
// Assignment Specification), network, block and SCSI devices of virtio
// (Virtual I/O Device specification, section 5), and SCSI disks.
var urgentDevices = []string{
	"pci:*bc01*", "pci:*bc02*",
	"virtio:d00000001v*", "virtio:d00000002v*", "virtio:d00000008v*",
	"scsi:t-0x00*",
}

// coldplug loads the drivers of devices. It belongs to one goroutine at a time.
type coldplug struct {
	root  string // where /sys is
	index moduleIndex
	load  func(modules ...string) error
	seen  map[string]bool // modaliases that are dealt with
}

func newColdplug(root string, index moduleIndex, load func(modules ...string) error) *coldplug {
	return &coldplug{root: root, index: index, load: load, seen: map[string]bool{}}
}

// urgent loads the drivers of urgentDevices.
func (c *coldplug) urgent() error { return c.plug(urgentDevices) }

// all loads the drivers of all devices.
func (c *coldplug) all() error { return c.plug([]string{"*"}) }

// plug loads the drivers of all devices of these kinds, and of those that
// appear thereby, until no more appear.
func (c *coldplug) plug(kinds []string) error {
	var patterns []string
	for _, k := range kinds {
		patterns = append(patterns, canonical(k))
	}
	var errs []error
	for {
		var want []string
		for _, m := range modaliases(c.root) {
			name := canonical(m)
			if slices.ContainsFunc(patterns, func(k string) bool { return aliasMatches(k, name) }) {
				want = append(want, c.drivers(m)...)
			}
		}
		if len(want) == 0 {
			return errors.Join(errs...)
		}
		slices.Sort(want)
		errs = append(errs, c.load(slices.Compact(want)...))
	}
}

// drivers are the modules for a modalias, the first time that it is seen.
func (c *coldplug) drivers(modalias string) []string {
	if c.seen[modalias] {
		return nil
	}
	c.seen[modalias] = true
	return c.index.byAlias(canonical(modalias))
}

// modaliases lists what the devices that are there say of themselves.
func modaliases(root string) []string {
	var out []string
	for _, pattern := range []string{"sys/bus/*/devices/*/modalias", "sys/class/input/*/modalias"} {
		files, _ := filepath.Glob(filepath.Join(root, pattern)) // the pattern is good
		for _, f := range files {
			// A device may have gone meanwhile.
			if b, err := os.ReadFile(f); err == nil && len(bytes.TrimSpace(b)) > 0 {
				out = append(out, string(bytes.TrimSpace(b)))
			}
		}
	}
	return out
}

// hotplug is the kernel's stream of events about devices (uevents).
type hotplug struct{ fd int }

// listenHotplug begins to collect events; follow hands them out.
func listenHotplug() (*hotplug, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("device events: %w", err)
	}
	// Group 1 is the kernel. A boot makes some hundred events of below 1 KiB.
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("device events: %w", err)
	}
	return &hotplug{fd}, nil
}

// follow calls plug with the modalias of each device that is added, for ever,
// and lost when events were lost.
func (h *hotplug) follow(plug func(modalias string), lost func()) error {
	defer unix.Close(h.fd)
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(h.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			lost()
		case err != nil:
			return fmt.Errorf("device events: %w", err)
		default:
			if m, ok := addedModalias(buf[:n]); ok {
				plug(m)
			}
		}
	}
}

// addedModalias picks the modalias out of an event "add@/devices/...": strings
// KEY=VALUE, each ended by a NUL (lib/kobject_uevent.c).
func addedModalias(event []byte) (string, bool) {
	if !bytes.HasPrefix(event, []byte("add@")) {
		return "", false
	}
	for s := range bytes.SplitSeq(event, []byte{0}) {
		if m, ok := bytes.CutPrefix(s, []byte("MODALIAS=")); ok && len(m) > 0 {
			return string(m), true
		}
	}
	return "", false
}

// followDevices loads the drivers of devices that appear later, for ever.
func (p *initProcess) followDevices(h *hotplug, c *coldplug) {
	warn := func(err error) {
		if err != nil {
			p.log.Warn("driver of a new device", "err", err)
		}
	}
	err := h.follow(
		func(m string) {
			if want := c.drivers(m); len(want) > 0 {
				warn(c.load(want...))
			}
		},
		func() { warn(c.all()) })
	p.log.Warn("devices that are added from now on get no driver", "err", err)
}

// plugUrgent is a boot step: the drivers without which no service can work.
func (p *initProcess) plugUrgent(context.Context) error {
	if p.devices == nil {
		index, err := p.index()
		if err != nil {
			return err
		}
		var hotErr error
		if p.hotplug, hotErr = listenHotplug(); hotErr != nil {
			p.log.Warn("devices that are added later get no driver", "err", hotErr)
		}
		p.devices = newColdplug("/", index, p.modules.load)
	}
	return p.devices.urgent()
}

// plugAll is a boot step: the drivers of everything else, now and later.
func (p *initProcess) plugAll(context.Context) error {
	if p.devices == nil {
		return errors.New("not tried: there is no list of drivers")
	}
	p.modules.forget()
	err := p.devices.all()
	if p.hotplug != nil {
		go p.guard(func() { p.followDevices(p.hotplug, p.devices) })
	}
	return err
}
