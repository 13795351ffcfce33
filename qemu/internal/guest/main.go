// Command guest is the first process of a test VM: a module that says what it
// sees and does as it is told on its console, to try the rig without the
// project's image.
//
// It prints "guest: slot N MAC" for each NIC in a numbered PCIe slot, "guest:
// oem TEXT" for each OEM string and "guest: location TEXT", then "guest:
// ready". It takes "addr SLOT VLAN PREFIX" (VLAN 0: untagged), "listen PORT"
// (TCP echo), "carrier SLOT", "disks" (serial numbers), "io read|write SERIAL
// OFFSET LENGTH" (O_DIRECT, then fsync; how long it took or the error), "ipmi NETFN CMD HEX..." (the answer in hexadecimal, completion
// code first), "fru ID" (its contents), "get URL USER PASSWORD SHA256" (HTTPS,
// of a server with that certificate) and "poweroff". It prints what it found
// out as "guest: says TEXT" and answers with "guest: ok LINE" or the error.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"github.com/u-root/u-root/pkg/smbios"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("guest:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	for _, m := range []string{"virtio_pci", "virtio_net", "virtio_blk", "8021q", "ipmi_si", "ipmi_devintf"} {
		if err := kmodule.Probe(m, ""); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", m, err)
		}
	}
	nics, err := report()
	if err != nil {
		return err
	}
	fmt.Println("guest: ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "poweroff" {
			return nil
		}
		if err := obey(nics, strings.Fields(line)); err != nil {
			fmt.Println("guest:", line+":", err)
			continue
		}
		fmt.Println("guest: ok", line)
	}
	return lines.Err()
}

// report prints what the module sees and returns its NICs by slot.
func report() (map[string]netlink.Link, error) {
	tables, err := smbios.FromSysfs()
	if err != nil {
		return nil, err
	}
	boards, err := tables.GetBaseboardInfo()
	if err != nil {
		return nil, err
	}
	fmt.Println("guest: location", boards[0].LocationInChassis)
	raw, err := os.ReadFile("/sys/firmware/dmi/tables/DMI")
	if err != nil {
		return nil, err
	}
	for s := range bytes.SplitSeq(raw, []byte{0}) {
		if i := bytes.Index(s, []byte("baystream:")); i >= 0 {
			fmt.Printf("guest: oem %s\n", s[i:])
		}
	}
	disks, _ := filepath.Glob("/sys/block/vd*/size")
	for _, d := range disks {
		size, _ := os.ReadFile(d)
		fmt.Printf("guest: disk %s", size)
	}
	return bySlot()
}

func bySlot() (map[string]netlink.Link, error) {
	nics := map[string]netlink.Link{}
	slots, err := filepath.Glob("/sys/bus/pci/slots/*/address")
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		addr, err := os.ReadFile(s)
		if err != nil {
			return nil, err
		}
		found, _ := filepath.Glob("/sys/bus/pci/devices/" + strings.TrimSpace(string(addr)) + ".0/virtio*/net/*")
		if len(found) != 1 {
			continue
		}
		link, err := netlink.LinkByName(filepath.Base(found[0]))
		if err != nil {
			return nil, err
		}
		slot := filepath.Base(filepath.Dir(s))
		nics[slot] = link
		fmt.Println("guest: slot", slot, link.Attrs().HardwareAddr)
	}
	return nics, nil
}

func obey(nics map[string]netlink.Link, words []string) error {
	switch {
	case len(words) == 0:
	case len(words) == 4 && words[0] == "addr":
		link := nics[words[1]]
		if link == nil {
			return errors.New("no such slot")
		}
		return setAddr(link, words[2], words[3])
	case len(words) == 2 && words[0] == "listen":
		l, err := net.Listen("tcp", ":"+words[1])
		if err != nil {
			return err
		}
		go echo(l)
		return nil
	case words[0] == "disks" || len(words) == 5 && words[0] == "io":
		return disks(words)
	case len(words) == 2 && words[0] == "carrier":
		return carrier(nics, words[1])
	case len(words) >= 3 && words[0] == "ipmi":
		return sendIPMI(words[1:])
	case len(words) == 2 && words[0] == "fru":
		return showFRU(words[1])
	case len(words) == 5 && words[0] == "get":
		return get(words[1], words[2], words[3], words[4])
	}
	return errors.New("what?")
}

func carrier(nics map[string]netlink.Link, slot string) error {
	if nics[slot] == nil { // something may have been plugged in
		now, err := bySlot()
		if err != nil {
			return err
		}
		maps.Copy(nics, now)
	}
	link := nics[slot]
	if link == nil {
		fmt.Println("guest: says none")
		return nil
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	b, err := os.ReadFile("/sys/class/net/" + link.Attrs().Name + "/carrier")
	if err != nil {
		return err
	}
	fmt.Printf("guest: says %s", b)
	return nil
}

func setAddr(link netlink.Link, vlan, prefix string) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	id, err := strconv.Atoi(vlan)
	if err != nil {
		return err
	}
	if id > 0 {
		v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "vlan" + vlan, ParentIndex: link.Attrs().Index}, VlanId: id}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(v); err != nil {
			return err
		}
		link = v
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	return netlink.AddrReplace(link, addr)
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			io.Copy(c, c)
			c.Close()
		}()
	}
}
