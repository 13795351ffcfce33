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
func loadModules(modules ...string) error {
	return loadModulesTimed(modules, func(string, time.Duration) {})
}

// loadModulesTimed is loadModules, and says how long each module took. What it
// calls may be called from several goroutines at once.
func loadModulesTimed(modules []string, took func(name string, d time.Duration)) error {
	if len(modules) == 0 {
		return nil
	}
	p, err := kmodule.NewProber(kmodule.ProbeOpts{IgnoreProcMods: true})
	if err != nil {
		return fmt.Errorf("kernel modules: %w: the image must hold the modules of the kernel that it boots", err)
	}
	return loadEach(modules, runtime.NumCPU(), func(name, params string) error {
		began := time.Now()
		defer func() { took(name, time.Since(began)) }()
		return p.Probe(name, params)
	})
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
