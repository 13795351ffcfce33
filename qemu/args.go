package qemu

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
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

// coarseTimers lets timers wait for the next tick, 4 ms at the most. Without KVM
// each setting of a fine one leaves the translated code for the interrupt
// controller, under QEMU's one lock: an idle appliance took 40 % of a core with
// fine timers and takes 30 % with coarse ones.
const coarseTimers = " highres=off"

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
	for _, slot := range v.slots() {
		args = append(args, slotArguments(slot)...)
	}
	for _, n := range c.NICs {
		args = append(args, v.nicArguments(n, alone)...)
	}
	for i, d := range c.Disks {
		args = append(args, v.diskArguments(d.id(i), d, alone)...)
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
		cmdline := c.Cmdline
		if ChooseAccel().Name == tcg.Name && !c.ICount {
			cmdline += coarseTimers
		}
		args := []string{"-kernel", c.Kernel, "-append", cmdline}
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

func slotArguments(slot int) []string {
	return []string{"-device", fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,chassis=%d,slot=%d", slotID(slot), slot, slot)}
}

func (v *VM) nicArguments(n NIC, alone bool) []string {
	return []string{"-netdev", options(v.netdev(n, alone)), "-device", options(n.device())}
}

// netdev is what is behind a NIC, as the arguments of netdev_add.
func (v *VM) netdev(n NIC, alone bool) map[string]any {
	if alone {
		return map[string]any{"type": "user", "id": n.netdevID(), "restrict": true}
	}
	return map[string]any{"type": "stream", "id": n.netdevID(), "server": false,
		"addr": map[string]any{"type": "unix", "path": v.socket(n.id())}}
}

// device is the NIC as the module sees it, as the arguments of device_add.
func (n NIC) device() map[string]any {
	device := map[string]any{"driver": "virtio-net-pci", "id": n.id(), "bus": slotID(n.Slot), "netdev": n.netdevID(), "mac": n.MAC.String()}
	if n.Boot > 0 {
		device["bootindex"] = n.Boot // with QEMU's iPXE ROM
	} else {
		device["romfile"] = ""
	}
	return device
}

// quote protects the commas in a value of a QEMU option.
func quote(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// options writes what QMP takes as JSON as a command line's option: nested names
// with dots, the driver or type first.
func options(m map[string]any) string {
	var words []string
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			name := prefix + k
			switch v := m[k].(type) {
			case map[string]any:
				walk(name+".", v)
			case bool:
				words = append(words, name+"="+map[bool]string{true: "on", false: "off"}[v])
			default:
				words = append(words, name+"="+quote(fmt.Sprint(v)))
			}
		}
	}
	walk("", m)
	slices.SortStableFunc(words, func(a, b string) int {
		first := func(s string) int {
			if strings.HasPrefix(s, "driver=") || strings.HasPrefix(s, "type=") {
				return 0
			}
			return 1
		}
		return first(a) - first(b)
	})
	return strings.Join(words, ",")
}
