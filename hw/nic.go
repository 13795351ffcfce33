package hw

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
)

// NIC is one physical network interface.
type NIC struct {
	Name string `json:"name"` // eth0
	// MAC is the permanent address, also while a bond lends the NIC its own.
	MAC    string `json:"mac"`
	Driver string `json:"driver"` // virtio_net; "" without one
	PCI    string `json:"pci"`    // 0000:01:00.0; "" if not on PCI
	// Slot is the number of the PCIe slot that holds the NIC, 0 if the frame
	// names none.
	Slot int `json:"slot"`
	// SpeedMbps is the link's speed in Mbit/s, 0 if unknown or down.
	SpeedMbps int `json:"speedMbps"`
	// Carrier tells whether the link is up at the far end too.
	Carrier bool `json:"carrier"`
}

// readNICs reads the interfaces of sys/class/net that stand for hardware,
// sorted by slot (those without one last), then by name.
func readNICs(root string) ([]NIC, error) {
	names, err := readNames(root, "sys/class/net")
	if err != nil {
		return nil, err
	}
	slots, slotErr := readSlots(root)
	errs := []error{slotErr}
	nics := []NIC{}
	for _, name := range names {
		dir := "sys/class/net/" + name
		device, err := devicePath(root, dir+"/device")
		if err != nil {
			errs = append(errs, fmt.Errorf("nic %s: %w", name, err))
		}
		if device == "" { // bonds, VLANs, bridges, loopback
			continue
		}
		n, err := readNIC(root, dir, device, slots)
		if err != nil {
			errs = append(errs, fmt.Errorf("nic %s: %w", name, err))
		}
		n.Name = name
		nics = append(nics, n)
	}
	slices.SortStableFunc(nics, func(a, b NIC) int {
		return cmp.Or(boolCmp(a.Slot == 0, b.Slot == 0), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Name, b.Name))
	})
	return nics, errors.Join(errs...)
}

func readNIC(root, dir, device string, slots []slot) (NIC, error) {
	n := NIC{Driver: linkName(root, dir+"/device/driver")}
	chain := pciChain(device)
	if len(chain) > 0 {
		n.PCI = chain[0]
	}
	n.Slot = slotOf(slots, chain)
	var errs []error
	attr := func(name string) string {
		s, err := readAttr(root, filepath.Join(dir, name))
		if err != nil {
			errs = append(errs, err)
		}
		return s
	}
	mac := attr("bonding_slave/perm_hwaddr")
	if mac == "" {
		mac = attr("address")
	}
	if mac != "" {
		hwaddr, err := net.ParseMAC(mac)
		if err != nil {
			errs = append(errs, err)
		}
		n.MAC = hwaddr.String()
	}
	speed, err := parseCount(attr("speed"))
	if err != nil {
		errs = append(errs, fmt.Errorf("speed: %w", err))
	}
	if speed < 1<<31 { // drivers without a link say 4294967295
		n.SpeedMbps = int(speed)
	}
	n.Carrier = attr("carrier") == "1"
	return n, errors.Join(errs...)
}

func boolCmp(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
