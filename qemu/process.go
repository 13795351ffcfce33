package qemu

import (
	"errors"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// A starter starts child processes that die with this one, however it ends.
//
// The kernel sends the signal of PR_SET_PDEATHSIG when the *thread* that forked
// ends (prctl(2)), and Go's threads come and go. So one goroutine keeps one
// thread for itself and forks for all.
type starter struct {
	jobs chan func()
}

// forker is the one starter of this process.
var forker = sync.OnceValue(newStarter)

func newStarter() *starter {
	s := &starter{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread lives as long as the process
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err := errors.New("not started")
	done := make(chan struct{})
	s.jobs <- func() {
		err = cmd.Start()
		close(done)
	}
	<-done
	return err
}
