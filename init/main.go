// Init is the first process of an appliance (PID 1): it makes the kernel's
// file systems and devices usable, keeps the services of /etc/init.json
// running, adopts and reaps orphans, and ends the machine in order. It knows
// no roles and never exits.
//
// The boot is a list of steps (bootSteps), each needed or optional, and a second
// list (lateSteps) of what is done when the services are up. A needed step that
// fails is shown on the console with what to do, and tried again, while services
// that can live without it run. One goroutine, the supervisor's, owns
// all services and is the only one that waits for children. What to do with a
// service is decided by a machine without I/O (supervise.go).
//
// Services tell about themselves by the sd_notify(3) protocol: READY, STATUS,
// STOPPING, WATCHDOG (=1, =trigger), WATCHDOG_USEC, EXTEND_TIMEOUT_USEC, and in
// X_PROBLEMS what of their work they cannot do (notify.go), from
// the main process alone; MAINPID is not for them. A service may store
// descriptors (FDSTORE) that its next process inherits: so a listening socket
// outlives its daemon (fdstore.go). The same programs run under systemd. Each lives in the cgroup
// /sys/fs/cgroup/baystream/NAME, and what it leaves behind there is killed when
// its main process ends. What it prints goes to the console as it is. One that
// fails too often is given up: it is in maintenance until somebody starts it
// again, with a try now and then.
//
// # When it goes wrong
//
// The machine's watchdog (watchdog.go) is fed as long as the supervisor answers
// and the kernel lets processes go (lastresort.go); services in maintenance are
// no reason to reset. A crash of the kernel leaves its text for the next start,
// which counts: after a few in a row only the services for maintenance start
// (crash.go). "/init health" is a service of its own that tells the network how
// PID 1 says it is (health.go).
//
// # Log
//
// The log (own lines, those of services, the kernel's) is /run/log/ring, with
// the older half in /run/log/ring.1; together they hold about 1 MiB. A line is
// "TIME SOURCE: TEXT" with TIME in RFC 3339.
//
// # Control socket
//
// On /run/init.sock (SOCK_STREAM, root only) each line is a command, and is
// answered by one line with a JSON object: {"ok":true,...} or
// {"ok":false,"error":"..."}. The commands:
//
//	status        uptime_sec, boot_sec, kernel_sec, steps, services, watchdog, crashes (see Reply)
//	start [NAME]  starts what is in maintenance; answers at once
//	restart NAME  stops the service and starts it again; answers at once
//	log [N]       lines: the last N (100) lines of the log
//	poweroff      ends the machine in order; answers at once
//	reboot        the same, and starts it again
//
// # Signals
//
// SIGINT (ctrl-alt-del), SIGTERM and SIGRTMIN+5 reboot; SIGUSR1, SIGUSR2,
// SIGPWR, SIGRTMIN+4 and the power button power off. All others are harmless.
//
// # The initramfs
//
// It needs /init, the device nodes /dev/console and /dev/null (the kernel and
// Go's runtime open them before devtmpfs is there), /etc/init.json, and the
// modules of the kernel with modules.dep and modules.alias. Modules that
// the kernel asks for later, by name or alias, are loaded by /init too.
//
// Where there is /usr.squashfs it is mounted on /usr (programs.go), and needs
// the modules loop and squashfs outside of it.
//
// Drivers of devices are found by modules.alias (depmod(8)): before the
// services start, those of disks and network ports; after that the others, and
// those of devices that appear later. So who needs a disk waits for it.
//
// With baystream.boot-trace on the kernel's command line the time of each step
// and module is printed, and each line on the console begins with the kernel's
// uptime in seconds.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	notifyPath  = "/run/notify.sock"
	controlPath = "/run/init.sock"
	ringPath    = "/run/log/ring"
	cgroupTop   = "/sys/fs/cgroup"
	cgroupDir   = cgroupTop + "/baystream"

	traceFlag = "baystream.boot-trace" // on the kernel's command line

	ringMemory = 64 << 10
	ringFile   = 1 << 20
	lateLimit  = time.Minute // for services to start, before the late steps begin
)

func main() {
	if os.Args[0] == stubName {
		fmt.Fprintln(os.Stderr, "init:", stub(os.Args[1:]))
		os.Exit(127)
	}
	if name, ok := isModprobe(os.Args); ok && os.Getpid() != 1 {
		if err := modprobe(name); err != nil {
			os.Exit(1) // the kernel reports what it misses
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "health" && os.Getpid() != 1 {
		healthMain()
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this program is the first process of an appliance: start it as /init of an initramfs")
		os.Exit(2)
	}
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(8 << 20)
	p := newInit()
	defer p.guard(func() { panic("init ended") })
	p.guard(func() { fmt.Println("init:", p.run()) })
}

// initProcess is the running PID 1.
type initProcess struct {
	journal *journal
	log     *slog.Logger
	config  Config
	boot    *bootLog
	ends    chan how
	cgroups string                      // "" until they are there
	modules *moduleLoader               // of the boot steps
	index   func() (moduleIndex, error) // read once
	devices *coldplug
	hotplug *hotplug
	dog     *watchdog
	crash   crash
	patrol  patrol
}

func newInit() *initProcess {
	j := &journal{ring: newRing(ringMemory), console: newConsole(os.Stdout)}
	p := &initProcess{journal: j, log: j.logger(), boot: &bootLog{}, ends: make(chan how, 4)}
	p.modules = &moduleLoader{took: p.traceModule}
	p.index = sync.OnceValues(func() (moduleIndex, error) {
		dir, err := moduleDir()
		if err != nil {
			return moduleIndex{}, err
		}
		return readModuleIndex(dir)
	})
	p.dog = &watchdog{log: p.log}
	p.patrol.began = time.Now()
	return p
}

// end asks for the end of the machine. The first to ask decides how.
func (p *initProcess) end(h how) {
	select {
	case p.ends <- h:
	default:
	}
}

// run is the life of PID 1. It returns only if the kernel refuses to end the
// machine.
func (p *initProcess) run() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began, times := time.Now(), bootTimes{kernel: uptime()}
	sigchld, signals := catchSignals()
	if err := setUnheard(sigIgnore); err != nil {
		p.log.Warn("signals", "err", err)
	}
	go p.guard(func() { p.handleSignals(signals) })

	go p.guard(func() { p.keepWatch(ctx) })
	failed := runSteps(ctx, p.log, p.boot, p.bootSteps())
	times.steps = time.Since(began)
	if p.journal.trace.Load() {
		for _, s := range p.boot.list() {
			p.journal.own(fmt.Sprintf("step %-28s %8.1f ms", s.Name, s.Seconds*1000))
		}
	}
	p.journal.own(fmt.Sprintf("boot steps done in %.3f s (kernel %.3f s)", times.steps.Seconds(), times.kernel.Seconds()))

	go p.guard(func() { retrySteps(ctx, p.log, p.boot, failed, 5*time.Second) })

	sup := p.supervise(ctx, sigchld)
	go p.guard(func() {
		select {
		case <-sup.started: // on a single processor the steps would hold up the services
		case <-time.After(lateLimit):
		}
		failed := runSteps(ctx, p.log, p.boot, p.lateSteps())
		retrySteps(ctx, p.log, p.boot, failed, 5*time.Second)
	})
	p.answerControl(ctx, sup, times)
	h := <-p.ends
	p.log.Info("shutdown begins", "how", string(h))
	p.patrol.end()
	sys := linux{flush: func() {
		p.patrol.starve() // if the kernel cannot end the machine, the watchdog does
		p.journal.console.flush(time.Second)
	}}
	return shutdown(p.log, sys, sup.shutdown, func() { sup.takeDown(ctx) }, h, defaultLimits)
}

// bootSteps is the boot, in order.
func (p *initProcess) bootSteps() []step {
	simple := func(f func() error) func(context.Context) error {
		return func(context.Context) error { return f() }
	}
	return []step{
		{name: "mount proc", do: mount("proc", "/proc", plain, "")},
		{name: "boot trace", do: simple(p.readTrace), optional: true},
		{name: "mount sysfs", do: mount("sysfs", "/sys", plain, "")},
		{name: "mount devtmpfs", do: mount("devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755")},
		{name: "mount devpts", do: mount("devpts", "/dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"), optional: true},
		{name: "mount run", do: mount("tmpfs", "/run", plain, "mode=0755,size=64m")},
		{name: "mount tmp", do: mount("tmpfs", "/tmp", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=50%")},
		{name: "mount cgroup2", do: mount("cgroup2", cgroupTop, plain, "nsdelegate"), optional: true},
		{name: "console", do: simple(takeConsole), optional: true},
		{name: "log", do: simple(p.attachLog), optional: true},
		{name: "programs", do: ifThere(programsImage, p.mountPrograms), remedy: "build the image again"},
		{name: "configuration", do: simple(p.readConfig), remedy: "build the image again with a correct " + configPath},
		{name: "watchdog", do: p.startWatchdog, optional: true, beside: true, limit: 2 * time.Minute},
		{name: "limits", do: simple(setLimits), optional: true},
		{name: "ctrl-alt-del", do: simple(ctrlAltDel), optional: true},
		{
			name: "kernel modules", do: simple(p.loadModules), limit: 5 * time.Minute,
			remedy: "add the modules to the image, or take them out of " + configPath,
		},
		{
			name: "drivers of disks and ports", do: p.plugUrgent, limit: 5 * time.Minute,
			remedy: "check the adapters, and whether the image is of this kernel",
		},
		// Not earlier: while drivers are loaded the kernel asks for many modules
		// that nobody has, and each question costs a process.
		{name: "modules on demand", do: simple(becomeModprobe), optional: true},
		{name: "mount securityfs", do: mount("securityfs", "/sys/kernel/security", plain, ""), optional: true},
		{
			name:     "mount efivarfs",
			do:       ifThere("/sys/firmware/efi/efivars", mount("efivarfs", "/sys/firmware/efi/efivars", plain, "")),
			optional: true,
		},
		{name: "mount debugfs", do: mount("debugfs", "/sys/kernel/debug", plain, "mode=0700"), optional: true},
		{name: "device links", do: simple(linkDevices), optional: true},
		{name: "loopback link", do: simple(loopbackUp)},
		{name: "host name", do: simple(func() error { return setHostname(p.config.Hostname) }), optional: true},
		{name: "clock", do: simple(p.checkClock), optional: true},
		{name: "control groups", do: simple(p.prepareCgroups), optional: true},
		{name: "crash records", do: p.takeCrashes, optional: true},
	}
}

// lateSteps is what no service needs to start, done in order when they are up.
func (p *initProcess) lateSteps() []step {
	return []step{
		{name: "drivers of other devices", do: p.plugAll, optional: true, limit: 5 * time.Minute},
		{name: "better watchdog", do: func(ctx context.Context) error { return p.dog.improve(ctx, "/") }, optional: true},
		{
			name:     "power button",
			do:       func(context.Context) error { return watchPowerButton(func() { p.end(poweroff) }) },
			optional: true,
		},
	}
}

func (p *initProcess) attachLog() error {
	go func() {
		if err := followKernelLog("/dev/kmsg", p.journal.kernel); err != nil {
			p.log.Warn("kernel log", "err", err)
		}
	}()
	return p.journal.ring.attach(ringPath, ringFile)
}

func (p *initProcess) readTrace() error {
	p.journal.trace.Store(hasFlag("/proc/cmdline", traceFlag))
	return nil
}

func (p *initProcess) readConfig() (err error) {
	p.config, err = readConfig(configPath)
	return err
}

func (p *initProcess) loadModules() error { return p.modules.load(p.config.Modules...) }

func (p *initProcess) traceModule(name string, d time.Duration) {
	if p.journal.trace.Load() {
		p.journal.own(fmt.Sprintf("module %-26s %8.1f ms", name, d.Seconds()*1000))
	}
}

func (p *initProcess) checkClock() error {
	set, err := checkClock(p.config.built)
	if set {
		p.log.Warn("the clock was before the image's build time: set to that; check the module's battery", "now", p.config.built.UTC().Format(time.RFC3339))
	}
	return err
}

func (p *initProcess) prepareCgroups() error {
	err := prepareCgroups(cgroupTop, cgroupDir)
	if _, statErr := os.Stat(cgroupDir + "/cgroup.procs"); statErr == nil {
		p.cgroups = cgroupDir
	}
	return err
}

// supervise starts the services and the goroutine that keeps them.
func (p *initProcess) supervise(ctx context.Context, sigchld <-chan os.Signal) *supervisor {
	l := &launcher{
		cgroups: p.cgroups, notify: notifyPath,
		line: p.journal.line,
		warn: func(svc string, err error) { p.log.Warn("start", "service", svc, "err", err) },
	}
	sup := newSupervisor(p.log, l, sigchld, defaultPolicy, p.config.Services)
	sup.gaveUp = func(svc Service, _ string) { p.givenUp(ctx, svc) }
	p.patrol.sup.Store(sup)
	if sup.held = p.crash.reason(); sup.held != "" {
		p.log.Error("SERVICES ARE HELD BACK", "reason", sup.held)
	}
	sock, err := listenNotify(notifyPath)
	if err != nil {
		p.log.Error("services cannot say that they are ready", "err", err, "remedy", "check the boot step mount run")
	} else {
		go p.guard(func() { sock.receive(func(n notification) { sup.notify(ctx, n) }) })
	}
	go p.guard(func() { sup.run(ctx) })
	return sup
}

// answerControl serves the control socket.
func (p *initProcess) answerControl(ctx context.Context, sup *supervisor, times bootTimes) {
	l, err := listenControl(controlPath)
	if err != nil {
		p.log.Error("nobody can ask init for anything", "err", err, "remedy", "use the power button or ctrl-alt-del")
		return
	}
	c := &control{
		log: p.log, sup: sup, boot: p.boot, ring: p.journal.ring,
		times: times, end: p.end, uptime: uptime, dog: p.dog, crash: p.crash,
	}
	go p.guard(func() { c.serve(ctx, l) })
}

func (p *initProcess) handleSignals(signals <-chan os.Signal) {
	for s := range signals {
		if h := meaning(s); h != "" {
			p.log.Info("signal", "signal", s.String())
			p.end(h)
		}
	}
}

// hasFlag tells whether the kernel's command line in file has the word flag.
func hasFlag(file, flag string) bool {
	b, err := os.ReadFile(file)
	return err == nil && slices.Contains(strings.Fields(string(b)), flag)
}
