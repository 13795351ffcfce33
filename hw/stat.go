package hw

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// DiskStat is how a disk has fared since it appeared.
type DiskStat struct {
	ReadBytes, WrittenBytes int64
	Reads, Writes           int64
	// BusySeconds is how long the disk had work to do.
	BusySeconds float64
	// Errors are commands that ended in an error, -1 if the driver does not
	// count them (SCSI and ATA do).
	Errors int64
	// Celsius is the temperature, nil if nothing measures it (nvme and
	// drivetemp register with hwmon).
	Celsius *float64
	// State is "running" or "live" for a disk that works; "" if the driver does
	// not say.
	State string
}

// ReadDiskStat reads the counters of the disk name ("sda") below root
// (Documentation/block/stat.rst, ABI/testing/sysfs-class-hwmon).
func ReadDiskStat(root, name string) (DiskStat, error) {
	dir := filepath.Join("sys/block", filepath.Base(name))
	s := DiskStat{Errors: -1}
	line, err := readAttr(root, dir+"/stat")
	if err == nil {
		err = s.parse(line)
	}
	errs := []error{err}
	if s.State, err = readAttr(root, dir+"/device/state"); err != nil {
		errs = append(errs, err)
	}
	if v, err := readAttr(root, dir+"/device/ioerr_cnt"); err != nil {
		errs = append(errs, err)
	} else if v != "" {
		if s.Errors, err = strconv.ParseInt(v, 0, 64); err != nil { // hexadecimal with 0x
			errs = append(errs, fmt.Errorf("ioerr_cnt: %w", err))
		}
	}
	// An NVMe disk's controller is its device, and the sensor is the controller's.
	for _, pattern := range []string{"device/hwmon/hwmon*", "device/hwmon*", "device/device/hwmon/hwmon*"} {
		found, _ := filepath.Glob(filepath.Join(root, dir, pattern, "temp1_input"))
		if len(found) == 0 {
			continue
		}
		rel, err := filepath.Rel(root, found[0])
		if err != nil {
			break
		}
		if v, err := readAttr(root, rel); err == nil && v != "" {
			if milli, err := strconv.ParseFloat(v, 64); err == nil {
				milli /= 1000
				s.Celsius = &milli
			}
		}
		break
	}
	if err := errors.Join(errs...); err != nil {
		return s, fmt.Errorf("disk %s: %w", name, err)
	}
	return s, nil
}

// parse takes the fields of a stat file; sectors have 512 bytes there.
func (s *DiskStat) parse(line string) error {
	f := strings.Fields(line)
	if len(f) < 10 {
		return fmt.Errorf("stat: %q has %d fields, want 10 or more", line, len(f))
	}
	var n [10]int64
	for i := range n {
		v, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return fmt.Errorf("stat: field %d: %w", i, err)
		}
		n[i] = v
	}
	s.Reads, s.ReadBytes, s.Writes, s.WrittenBytes = n[0], n[2]*512, n[4], n[6]*512
	s.BusySeconds = float64(n[9]) / 1000
	return nil
}

// LinkStat is what passed a network interface since it appeared.
type LinkStat struct {
	Carrier                     bool
	CarrierChanges              int64
	SpeedMbps                   int64 // 0: unknown or down
	ReceivedBytes, SentBytes    int64
	ReceiveErrors, SendErrors   int64
	ReceiveDropped, SendDropped int64
}

// ReadLinkStat reads the counters of an interface below root
// (ABI/testing/sysfs-class-net-statistics).
func ReadLinkStat(root, name string) (LinkStat, error) {
	dir := filepath.Join("sys/class/net", filepath.Base(name))
	var s LinkStat
	var errs []error
	number := func(file string, into *int64) {
		v, err := readAttr(root, dir+"/"+file)
		if err == nil {
			*into, err = parseCount(v)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
		}
	}
	for file, into := range map[string]*int64{
		"carrier_changes": &s.CarrierChanges, "speed": &s.SpeedMbps,
		"statistics/rx_bytes": &s.ReceivedBytes, "statistics/tx_bytes": &s.SentBytes,
		"statistics/rx_errors": &s.ReceiveErrors, "statistics/tx_errors": &s.SendErrors,
		"statistics/rx_dropped": &s.ReceiveDropped, "statistics/tx_dropped": &s.SendDropped,
	} {
		number(file, into)
	}
	var carrier int64
	number("carrier", &carrier)
	s.Carrier = carrier == 1
	if err := errors.Join(errs...); err != nil {
		return s, fmt.Errorf("link %s: %w", name, err)
	}
	return s, nil
}
