package qemu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Files of Debian's package ovmf.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// What SMBIOS and IPMI say of every module.
const (
	manufacturer = "Baystream"
	productName  = "Virtual module"
)

// arguments returns QEMU's. A VM that stands alone has its console on the
// terminal and nothing behind its NICs.
func (v *VM) arguments(alone bool) []string {
	c := v.cfg
	accel, cpu, cpus := ChooseAccel().arg, ChooseAccel().CPU, c.CPUs
	if c.ICount {
		accel, cpu, cpus = "tcg,thread=single", tcg.CPU, 1
	}
	machine := "q35,sata=off" // no empty controller to probe: disks are virtio
	if c.Kernel == "" && c.Firmware == BIOS {
		machine += ",graphics=off" // SeaBIOS and its boot screens on the serial line
	}
	args := []string{
		"-name", c.Name, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", machine, "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(c.MemoryMiB),
		"-rtc", "base=utc",
		// The kernel's own hot-plug driver names slots by their numbers.
		"-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
		"-device", "virtio-rng-pci",
	}
	if c.ICount {
		args = append(args, "-icount", "shift=2,sleep=off")
	}
	args = append(args, v.bootArguments()...)
	args = append(args, c.Identity.arguments()...)
	for _, n := range c.NICs {
		args = append(args, v.nicArguments(n, alone)...)
	}
	for i, d := range c.Disks {
		args = append(args, d.arguments(fmt.Sprintf("disk%d", i))...)
	}
	if c.Watchdog {
		args = append(args, "-device", "i6300esb", "-action", "watchdog=reset")
	}
	if c.Display {
		args = append(args, "-device", "VGA")
	}
	if alone {
		args = append(args, "-serial", "mon:stdio")
	} else {
		for i := range v.consoles {
			id := fmt.Sprintf("tty%d", i)
			args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,path=%s,server=off",
				id, quote(v.socket(fmt.Sprintf("line%d", i)))), "-serial", "chardev:"+id)
		}
		args = append(args,
			"-chardev", "socket,id=bmc,server=off,reconnect=1,path="+quote(v.socket("bmc")),
			"-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc0",
			"-chardev", "socket,id=rig,server=off,path="+quote(v.socket("qmpline")), "-mon", "chardev=rig,mode=control",
			"-chardev", "socket,id=guest,server=on,wait=off,path="+quote(v.QMPSocket()), "-mon", "chardev=guest,mode=control")
	}
	return append(args, c.Extra...)
}

func (v *VM) bootArguments() []string {
	c := v.cfg
	switch {
	case c.Kernel != "":
		args := []string{"-kernel", c.Kernel, "-append", c.Cmdline}
		if c.Initramfs != "" {
			args = append(args, "-initrd", c.Initramfs)
		}
		return args
	case c.Firmware == UEFI:
		return []string{
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + ovmfCode,
			"-drive", "if=pflash,unit=1,format=raw,file=" + quote(v.varsFile()),
			"-boot", "strict=on",
		}
	}
	return []string{"-boot", "strict=on,reboot-timeout=5000"} // tries again 5 s after nothing booted
}

func (id Identity) arguments() []string {
	args := []string{
		"-smbios", fmt.Sprintf("type=1,manufacturer="+manufacturer+",product="+productName+",serial=%s,uuid=%s", quote(id.Serial), id.UUID),
		"-smbios", fmt.Sprintf("type=2,manufacturer="+manufacturer+",product="+productName+",serial=%s,location=%s", quote(id.Serial), quote(id.Location)),
		"-smbios", fmt.Sprintf("type=3,manufacturer="+manufacturer+",serial=%s", quote(id.Frame)),
	}
	if id.UUID == "" {
		args = args[2:] // QEMU refuses an empty one
	}
	if len(id.OEM) == 0 {
		return args
	}
	oem := "type=11"
	for _, s := range id.OEM {
		oem += ",value=" + quote(s)
	}
	return append(args, "-smbios", oem)
}

func (v *VM) nicArguments(n NIC, alone bool) []string {
	slot := fmt.Sprintf("slot%d", n.Slot)
	netdev := fmt.Sprintf("stream,id=net%d,server=off,addr.type=unix,addr.path=%s", n.Slot, quote(v.socket(n.id())))
	if alone {
		netdev = fmt.Sprintf("user,id=net%d,restrict=on", n.Slot)
	}
	device := fmt.Sprintf("virtio-net-pci,id=%s,bus=%s,netdev=net%d,mac=%s", n.id(), slot, n.Slot, n.MAC)
	if n.Boot > 0 {
		device += fmt.Sprintf(",bootindex=%d", n.Boot) // with QEMU's iPXE ROM
	} else {
		device += ",romfile="
	}
	return []string{
		"-device", fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,chassis=%d,slot=%d", slot, n.Slot, n.Slot),
		"-netdev", netdev, "-device", device,
	}
}

func (d Disk) arguments(id string) []string {
	direct := "off"
	if f, err := os.OpenFile(d.Path, os.O_RDWR|syscall.O_DIRECT, 0); err == nil {
		f.Close()
		direct = "on" // the file system can: no second cache on the host
	}
	device := fmt.Sprintf("virtio-blk-pci,id=%s,drive=%s", id, id)
	if d.Serial != "" {
		device += ",serial=" + quote(d.Serial)
	}
	return []string{
		"-blockdev", fmt.Sprintf("driver=file,node-name=%s-file,filename=%s,discard=unmap,cache.direct=%s", id, quote(d.Path), direct),
		"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,file=%s-file,discard=unmap,cache.direct=%s", id, id, direct),
		"-device", device,
	}
}

// quote protects the commas in a value of a QEMU option.
func quote(s string) string { return strings.ReplaceAll(s, ",", ",,") }
