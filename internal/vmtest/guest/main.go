// Command guest is the first process of a test VM: it mounts what tests need,
// loads modules, runs one test binary and ends the VM.
//
// As a service of another first process it does no more than run the tests and
// ask for the power to be switched off.
//
// Its orders are in /vmtest.json (vmtest.Orders). The last line it prints is
// "vmtest: exit status N", where N is the binary's status, or 125 when it could
// not be run.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"baystream/internal/vmtest/orders"
)

func main() {
	if os.Getpid() != 1 {
		status, err := runTests()
		if err != nil {
			fmt.Println("vmtest:", err)
		}
		fmt.Printf("vmtest: exit status %d\n", status)
		_ = unix.Kill(1, unix.SIGUSR2)
		select {}
	}
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	status, err := run()
	if err != nil {
		fmt.Println("vmtest:", err)
	}
	fmt.Printf("vmtest: exit status %d\n", status)
	unix.Sync()
	// QEMU ends at a reset, too; without ACPI tables a kernel only halts when it
	// is to switch the power off.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

var mounts = []struct{ fs, dir string }{
	{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
}

func run() (int, error) {
	for _, m := range mounts {
		if err := mount(m.fs, m.dir); err != nil {
			return 125, err
		}
	}
	o, err := readOrders()
	if err != nil {
		return 125, err
	}
	for _, m := range o.Modules {
		name, params, _ := strings.Cut(m, " ")
		if err := kmodule.Probe(name, params); err != nil && !errors.Is(err, unix.EEXIST) {
			return 125, fmt.Errorf("load module %s: %w", m, err)
		}
	}
	_ = mount("configfs", "/sys/kernel/config") // only with the module
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo)
	}
	return runTests()
}

func readOrders() (o orders.Orders, err error) {
	b, err := os.ReadFile("/vmtest.json")
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return o, fmt.Errorf("/vmtest.json: %w", err)
	}
	return o, nil
}

func runTests() (int, error) {
	o, err := readOrders()
	if err != nil {
		return 125, err
	}
	cmd := exec.Command("/test", o.Args...)
	cmd.Env = append([]string{"PATH=/sbin:/usr/sbin:/bin:/usr/bin", "HOME=/", "BAYSTREAM_IN_VM=1"}, o.Env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitCode() & 0xff, nil
	default:
		return 125, err
	}
}

func mount(fs, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil && fs != "configfs" {
		return err
	}
	if err := unix.Mount(fs, dir, fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}
