package ipmi

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// The kernel's driver ipmi_si looks for the controllers that the firmware names
// when it is loaded. One that does not answer then is given up after half a
// minute, and found no more (Linux drivers/char/ipmi/ipmi_si_intf.c,
// ipmi_si_platform.c).

const siDriver = "sys/bus/platform/drivers/ipmi_si"

// named are the platform devices of the controllers that the firmware names.
func named(root string) []string {
	var out []string
	for _, pattern := range []string{"IPI0001*", "dmi-ipmi-si*"} { // ACPI's word counts more
		found, _ := filepath.Glob(filepath.Join(root, "sys/bus/platform/devices", pattern))
		out = append(out, found...)
	}
	return out
}

// Named tells whether the firmware names a controller.
func Named(root string) bool { return len(named(root)) > 0 }

// Searching tells whether the driver is still looking for controllers.
func Searching(root string) bool {
	b, err := os.ReadFile(filepath.Join(root, "sys/module/ipmi_si/initstate"))
	return err == nil && strings.TrimSpace(string(b)) == "coming"
}

// Search makes the driver look again for the controllers that it has given up,
// which takes half a minute when they still do not answer. There must be no
// controller in use.
func Search(root string) error {
	var errs []error
	for _, device := range named(root) {
		name := filepath.Base(device)
		if _, err := os.Lstat(filepath.Join(root, siDriver, name)); err == nil {
			errs = append(errs, os.WriteFile(filepath.Join(root, siDriver, "unbind"), []byte(name), 0))
		}
	}
	for _, device := range named(root) {
		err := os.WriteFile(filepath.Join(root, siDriver, "bind"), []byte(filepath.Base(device)), 0)
		if err == nil {
			return errors.Join(errs...)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
