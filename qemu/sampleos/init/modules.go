package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
)

// moduleList is written by the builder: one module a line, in order.
const moduleList = "/etc/modules"

// loadModules loads every module of moduleList with its dependencies.
func loadModules() error {
	f, err := os.Open(moduleList)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := kmodule.NewProber(kmodule.ProbeOpts{})
	if err != nil {
		return err
	}
	var errs []error
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name := strings.TrimSpace(sc.Text())
		if name == "" {
			continue
		}
		if err := p.Probe(name, ""); err != nil && !optionalModule(name) {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// optionalModule tells modules that refuse to load on some machines:
// iscsi_ibft has nothing to show where the firmware left no table.
func optionalModule(name string) bool { return name == "iscsi_ibft" }
