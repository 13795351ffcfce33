package hw

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Disk is one whole physical disk.
type Disk struct {
	Name      string `json:"name"`      // vda, sda, nvme0n1
	Bus       string `json:"bus"`       // virtio, nvme, ata, usb, iscsi, scsi; "" if none of these
	SizeBytes int64  `json:"sizeBytes"` // 0: no medium
	Model     string `json:"model"`
	Serial    string `json:"serial"`
	// LogicalBlockBytes is the smallest unit the disk can address.
	LogicalBlockBytes int  `json:"logicalBlockBytes"`
	Rotational        bool `json:"rotational"`
	Removable         bool `json:"removable"`
	ReadOnly          bool `json:"readOnly"`
}

// readDisks reads the disks of sys/block, sorted by name. Left out are
// devices that the kernel makes up (loop, device-mapper, DRBD, RAM disks),
// single paths of a multipath NVMe disk, and optical and floppy drives.
func readDisks(root string) ([]Disk, error) {
	names, err := readNames(root, "sys/block")
	if err != nil {
		return nil, err
	}
	disks := []Disk{}
	var errs []error
	for _, name := range names {
		dir := "sys/block/" + name
		path, err := devicePath(root, dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		hidden, _ := readAttr(root, dir+"/hidden")
		scsiType, _ := readAttr(root, dir+"/device/type")
		if !physicalDisk(name, path, hidden == "1", scsiType) {
			continue
		}
		d, err := readDisk(root, dir, path)
		if err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", name, err))
		}
		d.Name = name
		disks = append(disks, d)
	}
	return disks, errors.Join(errs...)
}

// physicalDisk tells disks from what else is a block device. The path is the
// device's, below sys/devices. The disk over all paths of a multipath NVMe
// subsystem counts, although the kernel files it under its virtual devices.
func physicalDisk(name, path string, hidden bool, scsiType string) bool {
	const rom = "5" // peripheral device type of SPC: CD/DVD
	switch {
	case path == "", hidden, scsiType == rom, strings.HasPrefix(name, "fd"):
		return false
	case strings.Contains(path, "/devices/virtual/"):
		return strings.Contains(path, "/nvme-subsystem/")
	}
	return true
}

func readDisk(root, dir, path string) (Disk, error) {
	var errs []error
	attr := func(names ...string) string {
		for _, n := range names {
			s, err := readAttr(root, filepath.Join(dir, n))
			if err != nil {
				errs = append(errs, err)
			}
			if s != "" {
				return s
			}
		}
		return ""
	}
	number := func(name string) int64 {
		s := attr(name)
		n, err := parseCount(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		return n
	}
	d := Disk{Bus: diskBus(path), Model: attr("device/model")}
	// The size file counts 512-byte units, whatever the logical block.
	if n := number("size"); n <= math.MaxInt64/512 {
		d.SizeBytes = n * 512
	}
	d.LogicalBlockBytes = int(number("queue/logical_block_size"))
	d.Rotational = attr("queue/rotational") == "1"
	d.Removable = attr("removable") == "1"
	d.ReadOnly = attr("ro") == "1"
	d.Serial = attr("serial", "device/serial") // virtio-blk, nvme
	if d.Serial == "" {
		if page, err := os.ReadFile(filepath.Join(root, dir, "device/vpd_pg80")); err == nil {
			d.Serial = parseVPDSerial(page)
		}
	}
	return d, errors.Join(errs...)
}

// diskBus names the bus of the disk whose device path is given.
func diskBus(path string) string {
	for _, b := range []struct{ part, bus string }{
		{"/virtio", "virtio"}, {"/nvme", "nvme"}, {"/usb", "usb"}, {"/session", "iscsi"},
		{"/ata", "ata"}, {"/host", "scsi"},
	} {
		if strings.Contains(path, b.part) {
			return b.bus
		}
	}
	return ""
}

// parseVPDSerial takes the unit serial number out of a SCSI vital product
// data page 80h (SPC-4, 7.8.17): four bytes of header, then the serial.
// A serial that is not printable is given in hex.
func parseVPDSerial(page []byte) string {
	if len(page) < 4 || page[1] != 0x80 {
		return ""
	}
	n := int(page[2])<<8 | int(page[3])
	body := page[4:]
	body = body[:min(n, len(body))]
	s := strings.Trim(string(body), " \x00")
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return hex.EncodeToString([]byte(s))
		}
	}
	return s
}

// parseCount parses a kernel attribute that counts something: "" is 0, and
// negative numbers, by which the kernel says unknown, are 0 too.
func parseCount(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return max(n, 0), nil
}
