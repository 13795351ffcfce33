package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testDep = `kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/drivers/net/virtio_net.ko:
kernel/drivers/block/virtio_blk.ko:
kernel/drivers/acpi/button.ko:
kernel/drivers/input/evdev.ko:
kernel/drivers/ata/ahci.ko:
kernel/drivers/char/ipmi/ipmi_si.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
`
	testAlias = `alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000001v* virtio_net
alias virtio:d00000002v* virtio_blk
alias acpi*:PNP0C0C:* button
alias acpi*:LNXPWRBN:* button
alias input:b*v*p*e*-e*1,*k* evdev
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias dmi:*:svn*Dell*:* ipmi_si
alias crypto-crc32c crc32c_intel
alias crypto-crc32c crc32c_generic
alias scsi:t-0x0[0-9a]* sd_mod
a line that is none
`
)

func TestModulesAreFoundByNameAndAlias(t *testing.T) {
	x := parseModuleIndex(testDep, testAlias)
	for name, want := range map[string][]string{
		"crc32c_intel":  {"crc32c-intel"}, // as the file is called
		"crc32c-intel":  {"crc32c-intel"},
		"virtio-pci":    {"virtio_pci"},
		"crypto-crc32c": {"crc32c_generic", "crc32c_intel"},
		"crypto_crc32c": {"crc32c_generic", "crc32c_intel"},
		"pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00":      {"virtio_pci"},
		"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01":      {"ahci"},
		"dmi:bvnDell:bvr1:bd04/01/2024:svnDell/Inc:pnPowerEdge:pvr:": {"ipmi_si"},
		"scsi:t-0x00":               {"sd_mod"},
		"acpi:PNP0C0C:PNP0000:":     {"button"},
		"fs-vfat":                   nil,
		"pci:v00001234d00001111sv*": nil,
	} {
		got, err := x.find(name)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("find(%s) (-want +got):\n%s", name, diff)
		}
		if (err == nil) != (want != nil) || (err != nil && !errors.Is(err, os.ErrNotExist)) {
			t.Errorf("find(%s): %v", name, err)
		}
	}
	if _, err := readModuleIndex(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no index: %v", err)
	}
}

// A tree of sysfs in which drivers make further devices appear.
func TestColdplugLoadsWhatIsThere(t *testing.T) {
	root := t.TempDir()
	device := func(at, modalias string) {
		dir := filepath.Join(root, "sys", at)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "modalias"), []byte(modalias+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	device("bus/pci/devices/0000:01:00.0", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00")
	device("bus/pci/devices/0000:02:00.0", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00")
	device("bus/pci/devices/0000:00:01.0", "pci:v00008086d00002918sv00001AF4sd00001100bc06sc01i00")
	device("bus/acpi/devices/LNXPWRBN:00", "acpi:LNXPWRBN:")
	device("bus/platform/devices/empty", "")
	var loads []string
	c := newColdplug(root, parseModuleIndex(testDep, testAlias), func(modules ...string) error {
		loads = append(loads, strings.Join(modules, "+"))
		switch {
		case slices.Contains(modules, "virtio_pci"):
			device("bus/virtio/devices/virtio0", "virtio:d00000001v00001AF4")
			device("bus/virtio/devices/virtio1", "virtio:d00000002v00001AF4")
		case slices.Contains(modules, "button"):
			device("class/input/input0", "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw")
			return errors.New("broken button")
		}
		return nil
	})
	if err := c.urgent(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"virtio_pci", "virtio_blk+virtio_net"}, loads); diff != "" {
		t.Errorf("urgent (-want +got):\n%s", diff)
	}
	loads = nil
	if err := c.all(); err == nil || err.Error() != "broken button" {
		t.Errorf("error %v, want that of the button", err)
	}
	if diff := cmp.Diff([]string{"button", "evdev"}, loads); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	loads = nil
	if err := c.all(); err != nil || loads != nil {
		t.Errorf("once more: %v, %q, want nothing", err, loads)
	}
	if got := c.drivers("scsi:t-0x00"); !slices.Equal(got, []string{"sd_mod"}) {
		t.Errorf("drivers of a new disk %q", got)
	}
}

func TestHotplugEvents(t *testing.T) {
	for event, want := range map[string]string{
		"add@/devices/x\x00ACTION=add\x00MODALIAS=virtio:d00000002v00001AF4\x00SEQNUM=9\x00": "virtio:d00000002v00001AF4",
		"remove@/devices/x\x00ACTION=remove\x00MODALIAS=virtio:d00000002v00001AF4\x00":       "",
		"add@/devices/x\x00ACTION=add\x00MODALIAS=\x00":                                      "",
		"add@/devices/x": "",
		"":               "",
	} {
		if got, ok := addedModalias([]byte(event)); got != want || ok != (want != "") {
			t.Errorf("addedModalias(%q) = %q, %v, want %q", event, got, ok, want)
		}
	}
}
