package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// lastPause is long enough to read the console.
const lastPause = 5 * time.Minute

// guard runs f; if it panics the machine cannot go on.
func (p *initProcess) guard(f func()) {
	defer func() {
		if r := recover(); r != nil {
			lastResort(realMachine{p}, fmt.Sprintf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	f()
}

// resort is what a last resort does to the machine.
type resort interface {
	say(line string)
	row() int // crashes in a row before this start
	// kept tells whether a crash leaves its text, and so is counted.
	kept() bool
	pause(d time.Duration)
	sync()
	crash()  // does not return
	resign() // does not return, and keeps the watchdog fed
}

// lastResort ends a machine whose first process cannot go on, when whoever
// stands at the console had the time to read why. It crashes the kernel: that
// leaves the text for the next start, which counts (crash.go); after crashLimit
// in a row the machine stays as it is. Where nobody would remember it waits
// an hour instead. It never returns.
func lastResort(m resort, why string) {
	m.say("CANNOT GO ON: " + why)
	if m.row()+1 >= crashLimit {
		m.say(fmt.Sprintf("this is number %d in a row: the machine stays as it is. Take a support dump, then switch it off and on", m.row()+1))
		m.resign()
	}
	wait := lastPause
	if !m.kept() {
		wait = time.Hour // nobody would count
	}
	m.say(fmt.Sprintf("the machine is reset in %v", wait))
	m.pause(wait)
	m.sync()
	m.crash()
}

type realMachine struct{ p *initProcess }

func (m realMachine) say(line string) {
	for l := range strings.Lines(line) { // not by our own console, which may be what failed
		fmt.Fprintln(os.Stdout, "init:", strings.TrimRight(l, "\n"))
		noteKernel("init: " + printable(strings.TrimRight(l, "\n")))
	}
}

func (m realMachine) row() int   { return m.p.crash.row }
func (m realMachine) kept() bool { return m.p.crash.kept }

func (m realMachine) pause(d time.Duration) {
	m.p.patrol.reading.Store(true)
	time.Sleep(d)
}

func (m realMachine) sync() {
	done := make(chan struct{})
	go func() { unix.Sync(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
	}
}

func (m realMachine) crash() {
	m.p.patrol.starve()
	noteKernel(fmt.Sprintf("%s%d", crashMarker, m.p.crash.row))
	// The kernel panics when its first process ends; it must then not wait.
	if b, err := os.ReadFile("/proc/sys/kernel/panic"); err == nil && strings.TrimSpace(string(b)) == "0" {
		os.WriteFile("/proc/sys/kernel/panic", []byte("10"), 0)
	}
	os.Exit(1)
}

func (m realMachine) resign() {
	m.p.patrol.reading.Store(true)
	select {}
}

// patrol feeds the watchdog as long as the machine deserves it.
type patrol struct {
	began   time.Time
	sup     atomic.Pointer[supervisor]
	reading atomic.Bool // the console is being read
	hungry  atomic.Bool // nothing is fed any more

	mu       sync.Mutex
	ending   time.Time // zero: not yet
	noticed  bool      // a service that is stuck was announced
	resorted bool
}

// end notes that the end of the machine has begun.
func (g *patrol) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ending = time.Now()
}

func (g *patrol) starve() { g.hungry.Store(true) }

// keepWatch looks after the machine and feeds its watchdog, until ctx ends.
func (p *initProcess) keepWatch(ctx context.Context) {
	for {
		if p.patrol.hungry.Load() {
			return
		}
		v := p.vitals(ctx)
		p.warnStuck(v)
		if err := p.dog.feed(v.illness()); err != nil {
			p.log.Warn("watchdog", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.dog.pace()):
		}
	}
}

// vitals looks at the machine.
func (p *initProcess) vitals(ctx context.Context) vitals {
	g := &p.patrol
	g.mu.Lock()
	v := vitals{reading: g.reading.Load(), resigned: p.crash.row+1 >= crashLimit}
	if !g.ending.IsZero() {
		v.ending = time.Since(g.ending)
	}
	g.mu.Unlock()
	sup := g.sup.Load()
	if sup == nil {
		v.booting = max(time.Since(g.began), 1)
		return v
	}
	ctx, cancel := context.WithTimeout(ctx, 2*p.dog.pace())
	defer cancel()
	v.answers = sup.call(ctx, func() {
		for _, u := range sup.units {
			if !u.stuck.IsZero() && time.Since(u.stuck) > v.stuckFor {
				v.stuck, v.stuckFor = u.spec.Name, time.Since(u.stuck)
			}
		}
	}) == nil
	return v
}

// warnStuck says in time that the machine will be reset because of a service
// that the kernel does not let go, and does it: with its text, where the
// watchdog alone leaves none.
func (p *initProcess) warnStuck(v vitals) {
	g := &p.patrol
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case v.stuckFor < stuckNotice:
		g.noticed = false
	case !g.noticed:
		g.noticed = true
		p.log.Error("SERVICE STUCK: the kernel does not let its process go, perhaps for a dead disk", "service", v.stuck,
			"for", v.stuckFor.Round(time.Second), "remedy", fmt.Sprintf("the machine is reset when that has lasted %v", stuckLimit))
	}
	if v.stuckFor > stuckLimit && !v.resigned && !g.resorted {
		g.resorted = true
		go p.guard(func() {
			m := realMachine{p}
			m.say("RESET: " + v.illness())
			m.sync()
			m.crash()
		})
	}
}

// noWatchdog, on the kernel's command line, leaves the watchdog alone: for
// machines on virtual time, whose controllers live in real time.
const noWatchdog = "baystream.no-watchdog"

// startWatchdog is a boot step.
func (p *initProcess) startWatchdog(ctx context.Context) error {
	if hasFlag("/proc/cmdline", noWatchdog) {
		p.log.Info("no watchdog: the kernel's command line says so")
		return nil
	}
	index, err := p.index()
	if err != nil {
		return err
	}
	timeout := seconds(p.config.WatchdogSec, watchdogTimeout)
	return p.dog.begin(ctx, watchdogDrivers("/", index.byAlias, timeout), timeout, p.modules.load)
}

// givenUpLimit is how long a command that follows a service's end may take.
const givenUpLimit = time.Minute

// givenUp puts on the console what a service said last before it was given up:
// its lines are long gone when somebody comes. Then it runs the command for that.
func (p *initProcess) givenUp(ctx context.Context, svc Service) {
	for _, l := range p.journal.ring.of(svc.Name, lastLines) {
		p.journal.print("init: " + svc.Name + " said: " + l)
	}
	if len(svc.GivenUp) == 0 {
		return
	}
	go p.guard(func() {
		command := Service{Name: svc.Name + "-given-up", Exec: svc.GivenUp, Env: svc.Env}
		if err := p.patrol.sup.Load().runToEnd(ctx, command, givenUpLimit); err != nil && ctx.Err() == nil {
			p.log.Warn("after giving a service up", "service", svc.Name, "err", err)
		}
	})
}
