package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits bound a service's cgroup; 0 means no limit. The names are those of
// the kernel's Documentation/admin-guide/cgroup-v2.rst.
type Limits struct {
	MemoryMax int64 `json:"memory_max,omitempty"` // bytes
	PidsMax   int   `json:"pids_max,omitempty"`
	CPUWeight int   `json:"cpu_weight,omitempty"` // 1 to 10000, 100 is ordinary
}

// launcher starts services as processes: the host of the real machine.
type launcher struct {
	// cgroups is the directory in which each service has a cgroup; "" for
	// none, and then a service is its process group.
	cgroups string
	notify  string                 // path of the notify socket
	line    func(svc, text string) // takes what a service prints
	warn    func(svc string, err error)
}

// stubName, as argv[0], makes this program a stub that becomes a service: what
// must happen in the new process itself, before its program, happens there.
const stubName = "init-stub"

// stub finishes the environment of the process it runs in and executes args.
// It returns only if that is not possible.
func stub(args []string) error {
	if len(args) == 0 {
		return errors.New("nothing to execute")
	}
	env := os.Environ()
	if os.Getenv("WATCHDOG_USEC") != "" {
		env = append(env, "WATCHDOG_PID="+strconv.Itoa(os.Getpid()))
	}
	// PID 1 exempts itself from the OOM killer; services are not exempt.
	os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	if err := syscall.Exec(args[0], args, env); err != nil {
		return fmt.Errorf("execute %s: %w", args[0], err)
	}
	return nil
}

func (l *launcher) spawn(svc Service) (int, error) {
	if len(svc.Exec) == 0 {
		return 0, fmt.Errorf("service %s: no exec in %s", svc.Name, configPath)
	}
	if err := unix.Access(svc.Exec[0], unix.X_OK); err != nil {
		return 0, fmt.Errorf("service %s: execute %s: %w: correct exec in %s or add the program to the image", svc.Name, svc.Exec[0], err, configPath)
	}
	attr := &syscall.SysProcAttr{Setsid: true}
	cg, err := l.openCgroup(svc)
	if err != nil {
		l.warn(svc.Name, err) // it can live outside
	}
	if cg != nil {
		defer cg.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(cg.Fd())
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	pid, err := syscall.ForkExec("/proc/self/exe", append([]string{stubName}, svc.Exec...), &syscall.ProcAttr{
		Dir: "/", Env: l.environ(svc), Sys: attr,
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
	})
	if err != nil {
		r.Close()
		return 0, fmt.Errorf("service %s: start: %w", svc.Name, err)
	}
	go l.copyLines(svc.Name, r)
	return pid, nil
}

func (l *launcher) environ(svc Service) []string {
	env := []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "TERM=linux"}
	if svc.Notify {
		env = append(env, "NOTIFY_SOCKET="+l.notify)
		if d := seconds(svc.WatchdogSec, 0); d > 0 {
			env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", d.Microseconds()))
		}
	}
	return append(env, svc.Env...)
}

func (l *launcher) signal(pid int, sig syscall.Signal) error {
	if pid <= 1 {
		return syscall.ESRCH
	}
	return syscall.Kill(pid, sig)
}

func (l *launcher) killAll(svc Service, pid int) {
	if dir := l.cgroup(svc); dir != "" {
		if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
			return
		}
	}
	if pid > 1 {
		// The leader may be reaped; its group keeps the number while it lives.
		syscall.Kill(-pid, syscall.SIGKILL)
	}
}

func (l *launcher) reap() []child { return reapAll() }

func (l *launcher) cgroup(svc Service) string {
	if l.cgroups == "" {
		return ""
	}
	return filepath.Join(l.cgroups, svc.Name)
}

// openCgroup makes the service's cgroup with its limits. It returns nil
// without an error where there are no cgroups.
func (l *launcher) openCgroup(svc Service) (*os.File, error) {
	dir := l.cgroup(svc)
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var errs []error
	for file, v := range limitFiles(svc.Limits) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(v), 0); err != nil {
			errs = append(errs, fmt.Errorf("limit: %w", err))
		}
	}
	if len(errs) > 0 {
		l.warn(svc.Name, errors.Join(errs...))
	}
	return os.Open(dir)
}

// limitFiles says what to write into which file of a cgroup.
func limitFiles(lim Limits) map[string]string {
	m := map[string]string{}
	if lim.MemoryMax > 0 {
		m["memory.max"] = strconv.FormatInt(lim.MemoryMax, 10)
		m["memory.oom.group"] = "1"
	}
	if lim.PidsMax > 0 {
		m["pids.max"] = strconv.Itoa(lim.PidsMax)
	}
	if lim.CPUWeight > 0 {
		m["cpu.weight"] = strconv.Itoa(lim.CPUWeight)
	}
	return m
}

// prepareCgroups makes dir a parent of cgroups with all controllers that the
// kernel offers there.
func prepareCgroups(top, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for _, d := range []string{top, dir} {
		b, err := os.ReadFile(filepath.Join(d, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, c := range strings.Fields(string(b)) {
			switch c {
			case "memory", "pids", "cpu", "io":
				if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
					errs = append(errs, fmt.Errorf("controller %s: %w", c, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// copyLines takes what a service prints, line by line, until all that have the
// pipe open are gone. A line longer than maxLine comes in pieces.
func (l *launcher) copyLines(name string, r io.ReadCloser) {
	defer r.Close()
	br := bufio.NewReaderSize(r, maxLine)
	for {
		b, err := br.ReadSlice('\n')
		if len(b) > 0 {
			l.line(name, strings.TrimRight(string(b), "\r\n"))
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}
