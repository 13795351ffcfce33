package daemon

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
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

// loading keeps modules that several parts need from being loaded twice.
var loading sync.Mutex

// loadModules loads modules with what they depend on; one that is loaded or
// built in is no error, one that is missing is.
func loadModules(names []string) error {
	loading.Lock()
	defer loading.Unlock()
	loaded, err := os.ReadFile("/proc/modules")
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return hasModule(string(loaded), name) })
	if len(missing) == 0 {
		return nil
	}
	dir, err := moduleDir()
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	files := moduleFiles(string(dep))
	var errs []error
	for _, name := range missing {
		want := files[canonicalModule(name)]
		if len(want) == 0 && !builtIn(dir, name) {
			errs = append(errs, fmt.Errorf("kernel module %s: %w", name, os.ErrNotExist))
		}
		for i, file := range want {
			params := ""
			if i == len(want)-1 {
				params = moduleParams[name]
			}
			if hasModule(string(loaded), moduleName(file)) {
				continue
			}
			if err := loadModule(filepath.Join(dir, file), params); err != nil {
				errs = append(errs, fmt.Errorf("kernel module %s: %s: %w", name, file, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// moduleDir is where the running kernel's modules are.
func moduleDir() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])), nil
}

// moduleFiles reads modules.dep(5): the files of each module in the order in
// which they are to be loaded, its own last.
func moduleFiles(dep string) map[string][]string {
	all := map[string][]string{}
	for line := range strings.Lines(dep) {
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		files := append([]string{file}, strings.Fields(needs)...)
		slices.Reverse(files)
		all[moduleName(file)] = files
	}
	return all
}

// moduleName is the name of the module in a file, which may be packed.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonicalModule(name)
}

func canonicalModule(name string) string { return strings.ReplaceAll(name, "-", "_") }

func builtIn(dir, name string) bool {
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(list)) {
		if moduleName(strings.TrimSpace(line)) == canonicalModule(name) {
			return true
		}
	}
	return false
}

// loadModule loads one file. One that is loaded meanwhile is no error.
func loadModule(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := kmodule.FileInit(f, params, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// mountConfigfs mounts the kernel's tree of targets where it belongs, unless
// something is mounted there. Only the storage role needs it.
func mountConfigfs() error {
	const dir = "/sys/kernel/config"
	if err := unix.Mount("configfs", dir, "configfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount configfs on %s: %w", dir, err)
	}
	return nil
}

// hasModule looks for a module in the text of /proc/modules, which spells
// names with underscores.
func hasModule(proc, name string) bool {
	name = canonicalModule(name) + " "
	return strings.HasPrefix(proc, name) || strings.Contains(proc, "\n"+name)
}
