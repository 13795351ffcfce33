package main

import (
	"fmt"
	"syscall"
)

// child is a process that ended.
type child struct {
	pid    int
	status syscall.WaitStatus
}

// reapAll collects every process that has ended, whoever started it: PID 1
// inherits the orphans of all others. SIGCHLDs merge, so one may stand for
// many.
//
// Only the supervisor's goroutine calls it, and that goroutine starts the
// services too: a pid cannot be given to a new process between its reaping and
// the bookkeeping. Nothing in this program may use os/exec or Process.Wait,
// which would wait for the same children.
func reapAll() []child {
	var ended []child
	for {
		var c child
		pid, err := syscall.Wait4(-1, &c.status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || pid <= 0: // ECHILD: no children; 0: none ended
			return ended
		}
		c.pid = pid
		ended = append(ended, c)
	}
}

// describeExit says how a process ended, for an operator.
func describeExit(ws syscall.WaitStatus) string {
	switch {
	case ws.Signaled() && ws.CoreDump():
		return fmt.Sprintf("%v (core dumped)", ws.Signal())
	case ws.Signaled():
		return fmt.Sprintf("signal %d: %v", int(ws.Signal()), ws.Signal())
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}
