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
	// MemoryPercent is MemoryMax as a part of the machine's memory; of both the
	// smaller counts.
	MemoryPercent int `json:"memory_percent,omitempty"`
	PidsMax       int `json:"pids_max,omitempty"`
	CPUWeight     int `json:"cpu_weight,omitempty"` // 1 to 10000, 100 is ordinary
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

// stub moves the process it runs in to the cgroup args[0] ("" for none),
// finishes its environment and executes the rest of args. It returns only if
// that is not possible.
//
// The process moves itself because a kernel that makes it there (CLONE_INTO_CGROUP)
// and once had a cgroup.kill there kills it at birth: 6.14 and later, and stable
// kernels, compare the kill counters of two different cgroups.
func stub(args []string) error {
	if len(args) < 2 {
		return errors.New("nothing to execute")
	}
	if args[0] != "" {
		if err := os.WriteFile(filepath.Join(args[0], "cgroup.procs"), []byte("0"), 0); err != nil {
			fmt.Fprintln(os.Stderr, "init: control group:", err) // it can live outside
		}
	}
	env := os.Environ()
	if os.Getenv("WATCHDOG_USEC") != "" {
		env = append(env, "WATCHDOG_PID="+strconv.Itoa(os.Getpid()))
	}
	if os.Getenv("LISTEN_FDS") != "" {
		env = append(env, "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	}
	// PID 1 exempts itself from the OOM killer; services are not exempt.
	os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	_ = setUnheard(sigDefault) // PID 1 ignores them
	if err := syscall.Exec(args[1], args[1:], env); err != nil {
		return fmt.Errorf("execute %s: %w", args[1], err)
	}
	return nil
}

func (l *launcher) spawn(svc Service, inherited []storedFD) (int, error) {
	if len(svc.Exec) == 0 {
		return 0, fmt.Errorf("service %s: no exec in %s", svc.Name, configPath)
	}
	if err := unix.Access(svc.Exec[0], unix.X_OK); err != nil {
		return 0, fmt.Errorf("service %s: execute %s: %w: correct exec in %s or add the program to the image", svc.Name, svc.Exec[0], err, configPath)
	}
	cgroup, err := l.makeCgroup(svc)
	if err != nil {
		l.warn(svc.Name, err)
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
	files := []uintptr{null.Fd(), w.Fd(), w.Fd()}
	for _, f := range inherited {
		files = append(files, uintptr(f.fd))
	}
	pid, err := syscall.ForkExec("/proc/self/exe", append([]string{stubName, cgroup}, svc.Exec...), &syscall.ProcAttr{
		Dir: "/", Env: append(l.environ(svc), listenEnv(inherited)...), Sys: &syscall.SysProcAttr{Setsid: true},
		Files: files,
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
		os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	}
	if pid > 1 {
		// Where there is no cgroup, or the process is not in it yet. If it was
		// reaped just now its group keeps the number while it has members.
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

// makeCgroup makes the service's cgroup with its limits and returns it; it
// returns "" where there are no cgroups.
func (l *launcher) makeCgroup(svc Service) (string, error) {
	dir := l.cgroup(svc)
	if dir == "" {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var errs []error
	for file, v := range limitFiles(svc.Limits, totalMemory()) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(v), 0); err != nil {
			errs = append(errs, fmt.Errorf("limit: %w", err))
		}
	}
	return dir, errors.Join(errs...)
}

// limitFiles says what to write into which file of a cgroup, on a machine with
// so many bytes of memory.
func limitFiles(lim Limits, total int64) map[string]string {
	m := map[string]string{}
	if part := total / 100 * int64(lim.MemoryPercent); part > 0 && (lim.MemoryMax == 0 || part < lim.MemoryMax) {
		lim.MemoryMax = part
	}
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
