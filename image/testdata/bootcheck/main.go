// Command bootcheck is the first process of a test image. It loads every
// module and runs every program that the image carries, prints a line for
// each, and powers off.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
)

func main() {
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}} {
		report("mount "+m[0], unix.Mount(m[0], m[1], m[0], 0, ""))
	}
	report("mount usr", usr())
	modules()
	// Mounting needs modules that no modprobe would bring.
	report("mount configfs", unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""))

	const disk, meta = "/run/disk", "/run/meta"
	for _, file := range []string{disk, meta} {
		report("make "+file, os.WriteFile(file, nil, 0o600))
		report("size "+file, os.Truncate(file, 64<<20))
	}
	run("/usr/sbin/thin_check", "-V")
	run("/usr/sbin/thin_dump", "-V")
	run("/sbin/mke2fs", "-q", "-t", "ext4", disk)
	run("/sbin/e2fsck", "-fn", disk)
	run("/lib/drbd/drbdsetup-84", "show")
	run("/sbin/drbdmeta", "--force", "0", "v08", meta, "flex-external", "create-md")
	for _, file := range []string{"/etc/ssl/certs/ca-certificates.crt", "/usr/lib/ipxe/snponly.efi", "/usr/lib/ipxe/undionly.kpxe", "/etc/mke2fs.conf", "/etc/os-release", "/bin/baystreamd"} {
		_, err := os.Stat(file)
		report("file "+file, err)
	}
	fmt.Println("bootcheck: end")
}

// usr mounts what is packed, as the real first process does.
func usr() error {
	p, err := kmodule.NewProber(kmodule.ProbeOpts{})
	if err != nil {
		return err
	}
	for _, name := range []string{"sha256-ssse3", "loop", "squashfs"} {
		if err := p.Probe(name, ""); err != nil {
			return err
		}
	}
	image, err := os.Open("/usr.squashfs")
	if err != nil {
		return err
	}
	device, err := os.Open("/dev/loop0")
	if err != nil {
		return err
	}
	config := unix.LoopConfig{Fd: uint32(image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return err
	}
	return unix.Mount("/dev/loop0", "/usr", "squashfs", unix.MS_RDONLY, "")
}

func report(what string, err error) {
	if err != nil {
		fmt.Printf("bootcheck: FAIL %s: %v\n", what, err)
		return
	}
	fmt.Printf("bootcheck: ok %s\n", what)
}

func run(args ...string) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
	}
	report("run "+strings.Join(args, " "), err)
}

// modules loads the list of the first process in its order, then all others.
func modules() {
	// Drivers of hardware that this machine lacks may say so.
	absent := map[string]bool{"efivarfs": true, "ipmi_si": true, "crc32c-intel": true}
	load := func(p *kmodule.Prober, name string) {
		err := p.Probe(name, "")
		if absent[name] && err == unix.ENODEV {
			err = nil
		}
		report("module "+name, err)
	}
	var config struct{ Modules []string }
	text, err := os.ReadFile("/etc/init.json")
	report("read init.json", err)
	report("parse init.json", json.Unmarshal(text, &config))
	p, err := kmodule.NewProber(kmodule.ProbeOpts{})
	report("prober", err)
	for _, name := range config.Modules {
		load(p, name)
	}
	// A second prober reads the names of loaded modules back from the kernel.
	p, err = kmodule.NewProber(kmodule.ProbeOpts{})
	report("second prober", err)
	var u unix.Utsname
	report("uname", unix.Uname(&u))
	deps, err := os.ReadFile("/lib/modules/" + unix.ByteSliceToString(u.Release[:]) + "/modules.dep")
	report("read modules.dep", err)
	for line := range strings.Lines(string(deps)) {
		file, _, _ := strings.Cut(line, ":")
		load(p, strings.TrimSuffix(path.Base(file), ".ko"))
	}
	_, err = kmodule.NewProber(kmodule.ProbeOpts{})
	report("third prober", err)
}
