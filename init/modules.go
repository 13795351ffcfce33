package main

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
)

// loadModules loads kernel modules with what they depend on, several at a
// time. Each is a name, or a name and parameters as in "bonding max_bonds=0". A
// module that is there already, or built in, is no error; nor is one whose
// hardware is missing. One that fails does not keep the others from being
// loaded.
func loadModules(modules ...string) error { return new(moduleLoader).load(modules...) }

// moduleLoader loads modules in several calls and reads the image's list of
// modules, which takes its time, only once.
type moduleLoader struct {
	took func(name string, d time.Duration) // told how long each took, by several goroutines at once; may be nil

	mu     sync.Mutex
	prober *kmodule.Prober
}

// load is loadModules.
func (l *moduleLoader) load(modules ...string) error {
	if len(modules) == 0 {
		return nil
	}
	prober, err := l.list()
	if err != nil {
		return fmt.Errorf("kernel modules: %w: the image must hold the modules of the kernel that it boots", err)
	}
	err = loadEach(modules, runtime.NumCPU(), func(name, params string) error {
		began := time.Now()
		err := prober.Probe(name, params)
		if l.took != nil {
			l.took(name, time.Since(began))
		}
		return err
	})
	if err != nil {
		l.forget() // it would give the same answers for ever
	}
	return err
}

// list reads the image's modules, and which of them are loaded.
func (l *moduleLoader) list() (p *kmodule.Prober, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.prober == nil {
		l.prober, err = kmodule.NewProber(kmodule.ProbeOpts{})
	}
	return l.prober, err
}

// forget makes the next load look anew: others load modules too.
func (l *moduleLoader) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prober = nil
}

// loadEach calls probe for all modules, at most parallel at once; probe must
// allow that. Errors come in the modules' order.
func loadEach(modules []string, parallel int, probe func(name, params string) error) error {
	errs := make([]error, len(modules))
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, m := range modules {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			name, params := splitModule(m)
			err := probe(name, params)
			if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EEXIST) {
				errs[i] = fmt.Errorf("module %s: %w", name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func splitModule(s string) (name, params string) {
	name, params, _ = strings.Cut(strings.TrimSpace(s), " ")
	return name, strings.TrimSpace(params)
}
