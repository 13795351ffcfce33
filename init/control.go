package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Reply is an answer on the control socket; the package comment describes the
// protocol.
type Reply struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`

	// For status.
	UptimeSec float64         `json:"uptime_sec,omitempty"`
	BootSec   float64         `json:"boot_sec,omitempty"`   // the boot steps together
	KernelSec float64         `json:"kernel_sec,omitempty"` // kernel start to PID 1
	Steps     []StepStatus    `json:"steps,omitempty"`
	Services  []ServiceStatus `json:"services,omitempty"`
	Watchdog  *WatchdogStatus `json:"watchdog,omitempty"` // nil: the machine has none
	Crashes   int             `json:"crashes,omitempty"`  // of the kernel in a row, before this start
	LastCrash string          `json:"last_crash,omitempty"`
	Reaped    int             `json:"reaped,omitempty"`        // orphans
	Keeps     bool            `json:"keeps_crashes,omitempty"` // the next crash will leave its text

	// For log.
	Lines []string `json:"lines,omitempty"`
}

// control answers the control socket.
type control struct {
	log    *slog.Logger
	sup    *supervisor
	boot   *bootLog
	ring   *ring
	dog    *watchdog
	crash  crash
	times  bootTimes
	end    func(how) // asks for the end of the machine, without waiting
	uid    uint32    // who may ask: root
	uptime func() time.Duration
}

// bootTimes are how long the kernel and our steps took.
type bootTimes struct{ kernel, steps time.Duration }

// listenControl opens the control socket, for root alone.
func listenControl(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// serve answers connections until ctx ends or the listener is closed.
func (c *control) serve(ctx context.Context, l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || strings.Contains(err.Error(), "closed") {
				return
			}
			c.log.Warn("control socket", "err", err)
			time.Sleep(time.Second)
			continue
		}
		go c.converse(ctx, conn)
	}
}

const maxCommand = 256

func (c *control) converse(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("control socket: panic", "err", fmt.Sprint(p))
		}
	}()
	enc := json.NewEncoder(conn)
	if uid, err := peerUID(conn); err != nil || uid != c.uid {
		enc.Encode(Reply{Error: "only root may talk to init"})
		return
	}
	in := bufio.NewScanner(io.Reader(conn))
	in.Buffer(make([]byte, maxCommand), maxCommand)
	for in.Scan() {
		conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if enc.Encode(c.answer(ctx, in.Text())) != nil {
			return
		}
	}
}

// answer does one command.
func (c *control) answer(ctx context.Context, line string) Reply {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	arg = strings.TrimSpace(arg)
	switch cmd {
	case "status":
		services, err := c.sup.services(ctx)
		reaped := 0
		if err == nil {
			err = c.sup.call(ctx, func() { reaped = c.sup.orphans })
		}
		if err != nil {
			return Reply{Error: err.Error()}
		}
		return Reply{
			OK: true, UptimeSec: c.uptime().Seconds(),
			BootSec: c.times.steps.Seconds(), KernelSec: c.times.kernel.Seconds(),
			Steps: c.boot.list(), Services: c.withLines(services), Watchdog: c.dog.status(),
			Crashes: c.crash.row, LastCrash: c.crash.what, Reaped: reaped, Keeps: c.crash.kept,
		}
	case "start":
		if err := c.sup.begin(ctx, arg); err != nil {
			return Reply{Error: err.Error()}
		}
		return Reply{OK: true}
	case "restart":
		if err := c.sup.restart(ctx, arg); err != nil {
			return Reply{Error: err.Error()}
		}
		return Reply{OK: true}
	case "log":
		n := 100
		if arg != "" {
			v, err := strconv.Atoi(arg)
			if err != nil || v < 0 {
				return Reply{Error: fmt.Sprintf("log %q: want a number of lines", arg)}
			}
			n = v
		}
		return Reply{OK: true, Lines: c.ring.tail(n)}
	case "poweroff", "reboot":
		c.end(how(cmd))
		return Reply{OK: true}
	}
	return Reply{Error: fmt.Sprintf("unknown command %q: want status, start [NAME], restart NAME, log [N], poweroff or reboot", printable(cmd))}
}

// lastLines is how many lines of a service in maintenance are shown.
const lastLines = 8

// withLines adds their last lines to services in maintenance.
func (c *control) withLines(services []ServiceStatus) []ServiceStatus {
	for i, s := range services {
		if s.State == stateMaintenance {
			services[i].Lines = c.ring.of(s.Name, lastLines)
		}
	}
	return services
}

// peerUID is the user at the other end, as the kernel vouches for it.
func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		cred, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if optErr != nil {
		return 0, optErr
	}
	return cred.Uid, nil
}
