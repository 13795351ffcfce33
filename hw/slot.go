package hw

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// slot is one named place for a PCI card.
type slot struct {
	number  int
	address string // "0000:01:00", or "0000:01" for a whole bus
}

// FindSlot returns the number of the PCIe slot that holds the device with the
// PCI address pci ("0000:01:00.0"), directly or behind bridges of the card
// itself, as the kernel's sys/bus/pci/slots names them. It is 0 if no slot
// does. The kernel fills that directory where a hot-plug driver (pciehp,
// acpiphp) or the firmware's tables name the slots.
func FindSlot(root, pci string) (int, error) {
	device, err := devicePath(root, "sys/bus/pci/devices/"+pci)
	if err != nil {
		return 0, fmt.Errorf("pci device %s: %w", pci, err)
	}
	if device == "" {
		return 0, fmt.Errorf("pci device %s: not below %s", pci, filepath.Join(root, "sys/bus/pci/devices"))
	}
	slots, err := readSlots(root)
	return slotOf(slots, pciChain(device)), err
}

// readSlots reads the slots with a number for a name. Others (acpiphp's "0-2"
// for a second slot 0) say nothing that an operator could find on the frame.
func readSlots(root string) ([]slot, error) {
	names, err := readNames(root, "sys/bus/pci/slots")
	if err != nil {
		return nil, err
	}
	var slots []slot
	var errs []error
	for _, name := range names {
		n, err := strconv.ParseUint(name, 10, 16)
		if err != nil || n == 0 {
			continue
		}
		addr, err := readAttr(root, "sys/bus/pci/slots/"+name+"/address")
		if err != nil {
			errs = append(errs, err)
		}
		if addr != "" {
			slots = append(slots, slot{int(n), strings.ToLower(addr)})
		}
	}
	return slots, errors.Join(errs...)
}

// slotOf returns the number of the slot nearest to the device whose PCI
// addresses are given from the device upwards, or 0.
func slotOf(slots []slot, chain []string) int {
	for _, pci := range chain {
		dev, _, _ := strings.Cut(pci, ".") // drop the function
		bus := dev[:strings.LastIndexByte(dev, ':')]
		for _, s := range slots {
			if s.address == dev || s.address == bus {
				return s.number
			}
		}
	}
	return 0
}

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// pciChain returns the PCI addresses in a device path, nearest first:
// sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/virtio1 gives
// 0000:01:00.0, 0000:00:02.0.
func pciChain(path string) []string {
	var chain []string
	for part := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		if pciAddress.MatchString(part) {
			chain = append(chain, part)
		}
	}
	slices.Reverse(chain)
	return chain
}
