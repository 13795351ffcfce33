// Package hw says what this module is and what is in it: the bay it sits in,
// the settings its frame gives it, and its disks, NICs, TPM, memory and CPUs.
//
// Every reader takes a root: "/" on a machine, a capture below testdata in a
// test. Probe reads everything into an Inventory; ProbeBay reads the identity
// alone. Below them, each source of facts has its file (smbios.go, bay.go,
// settings.go, disk.go, nic.go, slot.go, system.go), where reading and parsing
// are separate functions, so that a parser takes a table or a fuzzer as gladly
// as a kernel file.
//
// A file that a machine may lack is not an error: the fact stays at its zero
// value. Errors are for files that are there and cannot be read or understood;
// they are joined, and what could be read is returned beside them.
//
// Nothing here is cached and nothing is written. All functions are safe for
// concurrent use.
//
// The other side is described by DMTF DSP0134 (SMBIOS) and by the kernel's
// Documentation/ABI/testing/sysfs-* (firmware-dmi-tables, class-net,
// block, bus-pci, class-tpm).
package hw

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Inventory is all that Probe could find out about a module.
type Inventory struct {
	// Bay is the module's identity and place.
	Bay Bay `json:"bay"`
	// Settings are the frame's settings for this module, from the SMBIOS OEM
	// strings "baystream:KEY=VALUE". Never nil.
	Settings map[string]string `json:"settings"`
	// Disks are the whole physical disks, sorted by name.
	Disks []Disk `json:"disks"`
	// NICs are the physical network interfaces, sorted by slot, then by name.
	NICs []NIC `json:"nics"`
	// TPM is the first trusted platform module.
	TPM TPM `json:"tpm"`
	// MemoryBytes is the memory the kernel manages (MemTotal).
	MemoryBytes int64 `json:"memoryBytes"`
	// CPUs is the number of CPUs online.
	CPUs int `json:"cpus"`
	// Kernel is the running kernel's release, as uname -r gives it.
	Kernel string `json:"kernel"`
}

// NICBySlot returns the NIC in PCIe slot n (1 or more), the first by name if
// the slot's device has several ports.
func (inv Inventory) NICBySlot(n int) (NIC, bool) {
	for _, nic := range inv.NICs {
		if n > 0 && nic.Slot == n {
			return nic, true
		}
	}
	return NIC{}, false
}

// Probe reads the inventory of the machine whose file system starts at root.
// The errors of all sources are joined; the inventory holds what the others
// gave.
func Probe(root string) (Inventory, error) {
	var inv Inventory
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	tab, err := readTables(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		note("smbios", err)
	}
	inv.Bay, err = bayOf(tab)
	note("bay", err)
	inv.Settings, err = ParseSettings(tab.oem)
	note("frame settings", err)
	inv.Disks, err = readDisks(root)
	note("disks", err)
	inv.NICs, err = readNICs(root)
	note("nics", err)
	inv.TPM, err = readTPM(root)
	note("tpm", err)
	inv.MemoryBytes, err = readMemory(root)
	note("memory", err)
	inv.CPUs, err = readCPUs(root)
	note("cpus", err)
	inv.Kernel, err = readAttr(root, "proc/sys/kernel/osrelease")
	note("kernel", err)
	return inv, errors.Join(errs...)
}

// readAttr reads the one-line attribute name below root, without the space
// around it. A missing file, and one that the kernel refuses to read in the
// device's present state (a link that is down has no speed), reads as "".
func readAttr(root, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, name))
	switch {
	case errors.Is(err, fs.ErrNotExist),
		errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENODEV),
		errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.EOPNOTSUPP),
		errors.Is(err, syscall.ENOTDIR):
		return "", nil
	case err != nil:
		return "", err
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?")), nil
}

// readNames lists a directory below root, sorted. A missing directory is
// empty.
func readNames(root, dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// devicePath resolves the links of name below root and returns the result
// relative to root, or "" if there is nothing at that name.
func devicePath(root, name string) (string, error) {
	base, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", err
	}
	p, err := filepath.EvalSymlinks(filepath.Join(base, name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return filepath.Rel(base, p)
}

// linkName returns the last element of what the link at name points to: the
// way sysfs spells "driver" and "subsystem". The target need not exist.
func linkName(root, name string) string {
	target, err := os.Readlink(filepath.Join(root, name))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}
