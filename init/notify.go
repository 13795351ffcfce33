package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxNotify bounds a notification; sd_notify(3) has no limit, ours need little.
const maxNotify = 4096

// keeping is what a notification says about descriptors: those that came along
// are to be kept under name, or those of that name are to be dropped.
type keeping struct {
	keep, drop bool
	name       string
}

// parseNotify turns a datagram of the sd_notify(3) protocol into events, and
// what it says about descriptors. What we do not know, or do not let a service
// decide (MAINPID), is left out.
func parseNotify(msg string) ([]event, keeping) {
	var evs []event
	k := keeping{name: "stored"} // as sd_pid_notify_with_fds(3) calls it
	for line := range strings.SplitSeq(msg, "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "FDSTORE":
			k.keep = value == "1"
		case "FDSTOREREMOVE":
			k.drop = value == "1"
		case "FDNAME":
			if validFDName(value) {
				k.name = value
			}
		case "READY":
			if value == "1" {
				evs = append(evs, event{kind: evReady})
			}
		case "STOPPING":
			if value == "1" {
				evs = append(evs, event{kind: evStopping})
			}
		case "STATUS":
			evs = append(evs, event{kind: evStatus, text: printable(value)})
		case problemsKey:
			if p, err := parseProblems(value); err == nil {
				evs = append(evs, event{kind: evProblems, problems: p})
			}
		case "WATCHDOG":
			switch value {
			case "1":
				evs = append(evs, event{kind: evPing})
			case "trigger":
				evs = append(evs, event{kind: evTrigger})
			}
		case "WATCHDOG_USEC":
			if d, ok := usec(value); ok {
				evs = append(evs, event{kind: evWatchdog, d: d})
			}
		case "EXTEND_TIMEOUT_USEC":
			if d, ok := usec(value); ok {
				evs = append(evs, event{kind: evExtend, d: d})
			}
		}
	}
	return evs, k
}

// problemsKey begins the line by which a service that runs tells what of its work
// it cannot do, so that the health port says it too: a JSON array of Problem, []
// when all is well. Variables of one's own begin with X_ (sd_notify(3)).
const problemsKey = "X_PROBLEMS"

func parseProblems(value string) ([]Problem, error) {
	var ps []Problem
	err := json.Unmarshal([]byte(value), &ps)
	for i, p := range ps {
		ps[i] = Problem{printable(p.What), printable(p.Reason), printable(p.Remedy)}
	}
	return ps, err
}

// validFDName tells whether a name can stand in LISTEN_FDNAMES.
func validFDName(s string) bool {
	return s != "" && len(s) < 256 && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == ':' || c >= 0x7f })
}

func usec(s string) (time.Duration, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt64/1000 {
		return 0, false
	}
	return time.Duration(n) * time.Microsecond, true
}

// notification is one datagram with the process that the kernel says sent it.
type notification struct {
	pid     int
	events  []event
	keeping keeping
	fds     []int // to be kept: whoever takes the notification owns them
}

// notifySocket receives what services say about themselves.
type notifySocket struct {
	path string
	conn *net.UnixConn
}

// listenNotify opens the socket at path, in place of any that is there.
func listenNotify(path string) (*notifySocket, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var optErr error
		err = raw.Control(func(fd uintptr) {
			optErr = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PASSCRED, 1)
		})
		if err == nil {
			err = optErr
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("notify socket %s: pass credentials: %w", path, err)
	}
	return &notifySocket{path, conn}, nil
}

// receive hands each notification to got until the socket is closed.
func (s *notifySocket) receive(got func(notification)) {
	buf := make([]byte, maxNotify)
	oob := make([]byte, 512)
	for {
		n, oobn, flags, _, err := s.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				continue
			}
			return
		}
		pid, fds, ok := senderOf(oob[:oobn])
		if !ok || flags&syscall.MSG_TRUNC != 0 {
			closeAll(fds)
			continue // nobody we could name, or half a message
		}
		evs, k := parseNotify(string(buf[:n]))
		if !k.keep { // closing one is the answer to a barrier (sd_notify_barrier(3))
			closeAll(fds)
			fds = nil
		}
		if len(evs) > 0 || len(fds) > 0 || k.drop {
			got(notification{pid, evs, k, fds})
		}
	}
}

func (s *notifySocket) close() { s.conn.Close() }

// senderOf finds the sender's pid among the control messages, as the kernel
// vouches for it, and the descriptors that came along.
func senderOf(oob []byte) (pid int, fds []int, ok bool) {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, nil, false
	}
	for _, m := range msgs {
		if got, err := syscall.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...) // close-on-exec: Go asks the kernel for that
		}
		if c, err := syscall.ParseUnixCredentials(&m); err == nil {
			pid, ok = int(c.Pid), true
		}
	}
	return pid, fds, ok
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}
