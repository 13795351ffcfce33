package plan

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bounds one run. Zero fields take the default.
type Limits struct {
	Time    time.Duration // of the whole run; default 10 min
	CPU     time.Duration // of the processor, for each line of shell; default 1 min
	Memory  int64         // bytes, for each line of shell; default 192 MiB
	Scratch int64         // bytes of scratch space, which is memory too; default 64 MiB
	Output  int64         // bytes in the log; default 8 MiB
}

func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def((*int64)(&l.Time), int64(10*time.Minute))
	def((*int64)(&l.CPU), int64(time.Minute))
	def(&l.Memory, 192<<20)
	def(&l.Scratch, 64<<20)
	def(&l.Output, 8<<20)
	return l
}

// Job is a build plan to be run on a volume.
type Job struct {
	Scripts []Expanded
	Devices []Device  // of the volume, the whole disk first; nothing else can be reached
	Log     io.Writer // gets the output in order, secrets masked; nil: dropped
	Secrets []string  // masked in the log and in errors; see Secrets
	Limits  Limits

	// Exe is the program that the sandbox is started from, "" for this one. It
	// must be linked statically and begin with MaybeSandbox.
	Exe string
}

// Run runs a plan in a sandbox and returns when the volume's devices are free
// again. The error is a *SyntaxError before anything ran, or else a *RunError
// that names script and line; what the plan did until then stays on the
// volume. When ctx ends the sandbox is killed. It needs root.
func Run(ctx context.Context, job Job) error {
	if _, err := Parse(job.Scripts...); err != nil {
		return maskError(err, job.Secrets)
	}
	if os.Geteuid() != 0 {
		return &RunError{Msg: "needs root to make a sandbox and to mount; run the daemon as root"}
	}
	r := &run{job: job, limits: job.Limits.withDefaults()}
	err := r.run(ctx)
	if werr := waitFree(job.Devices); err == nil {
		err = werr
	}
	return maskError(err, job.Secrets)
}

func maskError(err error, secrets []string) error {
	switch e := err.(type) {
	case *SyntaxError:
		return &SyntaxError{Script: e.Script, Line: e.Line, Msg: maskText(e.Msg, secrets)}
	case *RunError:
		return &RunError{Script: e.Script, Line: e.Line, Msg: maskText(e.Msg, secrets)}
	}
	return err
}

// run is the state of one Run, on the outside of the sandbox.
type run struct {
	job    Job
	limits Limits

	mu      sync.Mutex
	at      *RunError // the line that runs
	end     *message  // what the sandbox said last
	tooMuch bool      // output
}

// Names by which this program knows that it is a sandbox, as argument 0.
const (
	sandboxName = "baystream-plan-sandbox"
	shellName   = "baystream-plan-shell"
)

// order is what the sandbox is told, on descriptor 3.
type order struct {
	Scripts []Expanded
	Devices []Device
	Limits  Limits
}

// message is what it answers, on descriptor 4: the line that it is at, or how
// it ended.
type message struct {
	At   *RunError `json:"at,omitempty"`
	Done bool      `json:"done,omitempty"`
	Err  *RunError `json:"err,omitempty"`
}

func (r *run) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.limits.Time, errTimeLimit)
	defer cancel()
	exe := r.job.Exe
	if exe == "" {
		// Not /proc/self/exe: that is the file as this mount namespace has it,
		// which a sandbox cannot bind into its root.
		var err error
		if exe, err = os.Executable(); err != nil {
			return &RunError{Msg: "sandbox program: " + err.Error()}
		}
	}
	if err := static(exe); err != nil {
		return &RunError{Msg: err.Error()}
	}
	group := newCgroup(r.limits)
	defer group.remove()

	cmd := exec.Command(exe)
	cmd.Args = []string{sandboxName}
	cmd.Env = []string{"LANG=C.UTF-8"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
	}
	group.use(cmd.SysProcAttr)
	orders, err := json.Marshal(order{Scripts: withoutMasked(r.job.Scripts), Devices: r.job.Devices, Limits: r.limits})
	if err != nil {
		return err
	}
	log := r.job.Log
	if log == nil {
		log = io.Discard
	}
	masked := newMasker(log, r.job.Secrets)
	err = r.talk(ctx, cmd, orders, masked)
	if end := r.end; end == nil || !end.Done {
		err = r.died(ctx, err, group)
	} else if end.Err != nil {
		err = end.Err
	} else {
		err = nil
	}
	if err != nil {
		fmt.Fprintln(masked, err)
	}
	if cerr := masked.Close(); err == nil && cerr != nil {
		return &RunError{Msg: "log: " + cerr.Error()}
	}
	return err
}

var errTimeLimit = errors.New("time limit")

func withoutMasked(in []Expanded) []Expanded {
	out := make([]Expanded, len(in))
	for i, e := range in {
		out[i] = Expanded{Script: e.Script, Text: e.Text}
	}
	return out
}

// talk starts the sandbox, gives it its orders and listens until it has ended.
func (r *run) talk(ctx context.Context, cmd *exec.Cmd, orders []byte, log io.Writer) error {
	var pipes [6]*os.File
	defer func() {
		for _, p := range pipes {
			if p != nil {
				p.Close()
			}
		}
	}()
	for i := 0; i < len(pipes); i += 2 {
		var err error
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			return err
		}
	}
	in, toSandbox, status, fromSandbox, out, output := pipes[0], pipes[1], pipes[2], pipes[3], pipes[4], pipes[5]
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{in, fromSandbox}

	waited := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about this thread
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		waited <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start: %w", err)
	}
	for _, p := range []*os.File{in, fromSandbox, output} {
		p.Close() // the sandbox has them
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	var g sync.WaitGroup
	g.Go(func() { _, _ = toSandbox.Write(orders); toSandbox.Close() }) // it dies without them, and says so
	g.Go(func() { r.listen(status) })
	g.Go(func() {
		if r.copyLog(log, out) != nil {
			_ = cmd.Process.Kill()
			_, _ = io.Copy(io.Discard, out)
		}
	})
	g.Wait()
	return <-waited
}

func (r *run) listen(status io.Reader) {
	dec := json.NewDecoder(bufio.NewReader(status))
	for {
		var m message
		if dec.Decode(&m) != nil {
			return
		}
		r.mu.Lock()
		if m.At != nil {
			r.at = m.At
		}
		if m.Done {
			r.end = &m
		}
		r.mu.Unlock()
	}
}

func (r *run) copyLog(log io.Writer, out io.Reader) error {
	left := r.limits.Output
	buf := make([]byte, 32<<10)
	for {
		n, err := out.Read(buf)
		if int64(n) > left {
			r.mu.Lock()
			r.tooMuch = true
			r.mu.Unlock()
			return errOutput
		}
		left -= int64(n)
		if _, werr := log.Write(buf[:n]); werr != nil {
			return werr
		}
		if err != nil {
			return nil // the sandbox has closed it
		}
	}
}

// died says why the sandbox ended without a word.
func (r *run) died(ctx context.Context, err error, group *cgroup) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := &RunError{Msg: "the sandbox ended early"}
	if r.at != nil {
		end = &RunError{Script: r.at.Script, Line: r.at.Line, Msg: "the sandbox ended early"}
	}
	switch {
	case r.tooMuch:
		end.Msg = fmt.Sprintf("more than %d bytes of output, the limit; print less", r.limits.Output)
	case context.Cause(ctx) == errTimeLimit:
		end.Msg = fmt.Sprintf("ran longer than %v, the limit", r.limits.Time)
	case ctx.Err() != nil:
		end.Msg = "stopped: " + context.Cause(ctx).Error()
	case group.outOfMemory():
		end.Msg = fmt.Sprintf("used more than %d bytes of memory, the limit; scratch files count too", group.memory)
	case err != nil:
		end.Msg += ": " + err.Error()
	}
	return end
}

// waitFree waits until nobody has the devices mounted, which after a kill takes
// the kernel a moment.
func waitFree(devices []Device) error {
	deadline := time.Now().Add(10 * time.Second)
	for _, d := range devices {
		for {
			fd, err := unix.Open(d.Node, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err == nil {
				unix.Close(fd)
			}
			if err != unix.EBUSY || !inUse(d, devices) {
				break
			}
			if time.Now().After(deadline) {
				return &RunError{Msg: fmt.Sprintf("%s (%s) is still in use after the run; detach the volume and report this", d.Name, d.Node)}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// inUse leaves out the whole disk when it has partitions: whoever made their
// nodes holds it.
func inUse(d Device, all []Device) bool {
	s := session{devices: all}
	return !s.hasPartitions(d.Name)
}
