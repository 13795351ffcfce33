package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// system is what the end of the machine needs from it.
type system interface {
	// killAll sends a signal to every process but this one.
	killAll(syscall.Signal)
	// processes counts the others that are left, without the kernel's own.
	processes() int
	sync()
	// mounts returns the mount points to give up, in order of mounting.
	mounts() ([]string, error)
	unmount(dir string) error
	readOnly(dir string) error
	// reboot ends the machine; it returns only with an error.
	reboot(how) error
}

// shutdownLimits bound the parts of a shutdown.
type shutdownLimits struct {
	services, term, kill, sync, unmount time.Duration
	poll                                time.Duration
}

var defaultLimits = shutdownLimits{
	services: 3 * time.Minute, term: 3 * time.Second, kill: 2 * time.Second,
	sync: 30 * time.Second, unmount: 20 * time.Second,
	poll: 20 * time.Millisecond,
}

// shutdown ends the machine in order: services in reverse, what they keep in
// the kernel, other processes, buffers to the disks, file systems, and then h.
// No part can hang it. It returns only if the kernel refuses.
func shutdown(log *slog.Logger, sys system, stopServices func(context.Context) error, takeDown func(), h how, lim shutdownLimits) error {
	ctx, cancel := context.WithTimeout(context.Background(), lim.services)
	defer cancel()
	if err := stopServices(ctx); err != nil {
		log.Error("shutdown goes on", "err", err)
	}
	takeDown()
	endProcesses(log, sys, lim)
	bounded(log, "sync", lim.sync, sys.sync)
	bounded(log, "unmount", lim.unmount, func() {
		if err := unmountAll(sys); err != nil {
			log.Error("unmount", "err", err)
		}
	})
	log.Info("end", "how", string(h), "uptime", uptime().Round(time.Millisecond))
	return sys.reboot(h)
}

// endProcesses asks all that is left to end, and then ends it.
func endProcesses(log *slog.Logger, sys system, lim shutdownLimits) {
	for _, r := range []struct {
		sig   syscall.Signal
		limit time.Duration
	}{{syscall.SIGTERM, lim.term}, {syscall.SIGKILL, lim.kill}} {
		if sys.processes() == 0 {
			return
		}
		sys.killAll(r.sig)
		for end := time.Now().Add(r.limit); sys.processes() > 0 && time.Now().Before(end); {
			time.Sleep(lim.poll)
		}
	}
	if n := sys.processes(); n > 0 {
		log.Error("processes survive SIGKILL: they wait for the kernel", "count", n)
	}
}

// bounded does f, but goes on without it after limit.
func bounded(log *slog.Logger, what string, limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		log.Error("no end in time: going on without", "part", what, "limit", limit)
	}
}

// unmountAll unmounts in reverse order; what is busy is made read-only.
func unmountAll(sys system) error {
	dirs, err := sys.mounts()
	errs := []error{err}
	for _, d := range slices.Backward(dirs) {
		if err := sys.unmount(d); err != nil {
			if roErr := sys.readOnly(d); roErr != nil {
				errs = append(errs, fmt.Errorf("%s: unmount: %w; make read-only: %w", d, err, roErr))
			}
		}
	}
	return errors.Join(errs...)
}

// parseMounts returns the mount points of a mountinfo (proc(5)) whose file
// systems hold data of ours: those on a device, or elsewhere on a machine, but
// not the kernel's own. The root is the last resort's business.
func parseMounts(mountinfo string) []string {
	var dirs []string
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		f, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 6 || len(t) < 2 {
			continue
		}
		dir, fstype, source := unescape(f[4]), t[0], t[1]
		if dir == "/" {
			continue
		}
		if strings.HasPrefix(source, "/dev/") && fstype != "devtmpfs" || slices.Contains([]string{"overlay", "9p", "nfs", "nfs4", "fuse", "virtiofs"}, fstype) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// linux is the system that this process is the first of.
type linux struct {
	flush func() // brings the last lines to the console; may be nil
}

func (linux) killAll(sig syscall.Signal) { syscall.Kill(-1, sig) }

func (linux) processes() int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The kernel's threads and the dead have no command line.
		if b, err := os.ReadFile("/proc/" + d.Name() + "/cmdline"); err == nil && len(b) > 0 {
			n++
		}
	}
	return n
}

func (linux) sync() { unix.Sync() }

func (linux) mounts() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return parseMounts(string(b)), err
}

func (linux) unmount(dir string) error { return unix.Unmount(dir, 0) }

func (linux) readOnly(dir string) error {
	return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

func (l linux) reboot(h how) error {
	cmd := unix.LINUX_REBOOT_CMD_RESTART
	if h == poweroff {
		cmd = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	if l.flush != nil {
		l.flush()
	}
	return fmt.Errorf("%s: %w", h, unix.Reboot(cmd))
}
