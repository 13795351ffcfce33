package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
)

// The kernel modules that a role needs, beside those that PID 1 loads for the
// machine to come up. On an ordinary host modprobe or the kernel loads them.
var (
	networkModules = []string{"bonding", "8021q", "af_packet"}
	filterModules  = []string{"nf_tables", "nft_reject_inet"}
	diskModules    = []string{"ext4"}
	storageModules = []string{"dm_mod", "dm_thin_pool", "drbd", "target_core_mod", "target_core_iblock", "iscsi_target_mod", "vfat", "nls_cp437", "nls_ascii"}
)

// moduleParams are given when a module is loaded. Bonds are made by netlink, so
// the bonding driver must not make one of its own (Linux
// Documentation/networking/bonding.rst). DRBD sets 1 MiB aside for each of
// minor_count; it does not limit the number of devices (drbd.conf(5)).
var moduleParams = map[string]string{"bonding": "max_bonds=0", "drbd": "minor_count=4"}

// loadModules loads modules with what they depend on; one that is loaded or
// built in is no error, one that is missing is.
func loadModules(names []string) error {
	loaded, err := os.ReadFile("/proc/modules")
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return hasModule(string(loaded), name) })
	if len(missing) == 0 {
		return nil
	}
	prober, err := kmodule.NewProber(kmodule.ProbeOpts{})
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	var errs []error
	for _, name := range missing {
		if err := prober.Probe(name, moduleParams[name]); err != nil {
			errs = append(errs, fmt.Errorf("kernel module %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// hasModule looks for a module in the text of /proc/modules, which spells
// names with underscores.
func hasModule(proc, name string) bool {
	name = strings.ReplaceAll(name, "-", "_") + " "
	return strings.HasPrefix(proc, name) || strings.Contains(proc, "\n"+name)
}
