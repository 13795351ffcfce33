// Command init is process 1 of the sample OS, the small operating system that
// a compute module of a virtual frame boots from its OS volume.
//
// It is an initiator as a server's is: it reads the iBFT that the firmware's
// iSCSI boot left in memory, logs in to the same target with open-iscsi
// (iscsistart, then iscsid for the recovery), mounts its ESP and its root from
// the volume, shows its personality on the console, and then writes, reads back
// and checks numbered blocks for ever. When the target goes away and comes
// back it notes the gap and goes on; an error is printed and counted.
//
// Its whole interface is the console. Lines that begin with "SAMPLE-OS" are
// meant for a test to read:
//
//	SAMPLE-OS UP hostname=H address=A boots=N root=/dev/sda2 seq=S t=13.2
//	SAMPLE-OS MESSAGE text of the personality
//	SAMPLE-OS IO writes=N errors=E mismatches=M maxgap=12ms seq=S synced=S
//	SAMPLE-OS GAP 5.93 s
//	SAMPLE-OS IOERROR write seq=812: input/output error
//	SAMPLE-OS OK sync seq=812
//
// and the words it takes on the serial port, one line each, are listed in
// console.go. An OS disk given to the machine directly (virtio) works as well;
// then no network is touched.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	espDir  = "/esp"
	rootDir = "/sysroot"
	// bootsFile counts the starts of this volume, below rootDir.
	bootsFile = "boots"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this program is process 1 of the sample OS; start it in a machine")
		os.Exit(2)
	}
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	con := newConsole(os.Stdout)
	con.Printf("FAILED %v; restart in 10 s", run(con))
	time.Sleep(10 * time.Second)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // reached when reboot(2) fails: process 1 must not end
}

// run brings the machine up and serves the console. It returns, always with an
// error, only when the machine cannot come up.
func run(con *console) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mount kernel file systems", mountKernelFS},
		{"load modules", loadModules},
		{"write iSCSI settings", func() error { return writeISCSIConfig("/") }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	con.Raw()

	fw, err := readIBFT("/")
	if err != nil {
		return fmt.Errorf("iBFT: %w", err)
	}
	prefix := "vd"
	if fw != nil {
		prefix = "sd"
		if err := startSession(con, fw); err != nil {
			return fmt.Errorf("iSCSI session with %s at %s: %w", fw.Target, fw.Portal, err)
		}
	}
	disk, err := waitDisk("/", prefix, 60*time.Second)
	if err != nil {
		return err
	}
	if err := mountVolume(disk); err != nil {
		return err
	}
	p := readPersonality(filepath.Join(espDir, "personality"))
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", p.Hostname, err)
		}
	}
	if p.Address != "" {
		if err := takeAddress(fw, p.Address); err != nil {
			con.Printf("NOTE address %s: %v", p.Address, err)
		}
	}
	boots, err := countBoot(filepath.Join(rootDir, bootsFile))
	if err != nil {
		return err
	}
	work, err := openWorkload("/dev/"+disk.Work, con, p.Rate)
	if err != nil {
		return err
	}
	con.Printf("UP hostname=%s address=%s boots=%d root=/dev/%s seq=%d t=%.1f",
		or(p.Hostname, "none"), or(p.Address, "none"), boots, disk.Root, work.Seq(), uptime())
	if p.Message != "" {
		con.Printf("MESSAGE %s", p.Message)
	}
	go relayKernelLog(con)
	go work.Run()
	go work.Report()
	serve(con, os.Stdin, work)
	return nil
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func mountKernelFS() error {
	for _, m := range []struct {
		kind, dir string
		flags     uintptr
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", unix.MS_NOSUID},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		err := unix.Mount(m.kind, m.dir, m.kind, m.flags, "")
		if err != nil && err != unix.EBUSY { // devtmpfs may be mounted by the kernel
			return fmt.Errorf("%s: %w", m.dir, err)
		}
	}
	return nil
}

// mountVolume mounts the volume's ESP (read only) and its root.
func mountVolume(d disk) error {
	for _, m := range []struct {
		dev, dir, kind, opts string
		flags                uintptr
	}{
		{d.ESP, espDir, "vfat", "codepage=437,iocharset=ascii", unix.MS_RDONLY},
		{d.Root, rootDir, "ext4", "", unix.MS_NOATIME},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+m.dev, m.dir, m.kind, m.flags, m.opts); err != nil {
			return fmt.Errorf("mount %s (%s) at %s: %w", m.dev, m.kind, m.dir, err)
		}
	}
	return nil
}

// A personality is what a plan script wrote on the ESP for this server.
type personality struct {
	Hostname string
	Address  string // CIDR of an address of its own, may be empty
	Message  string
	Rate     int // writes per second of the workload; 0 = as fast as it goes
}

// defaultRate leaves the processor to the others: many sample OSes run beside
// each other on an emulated machine.
const defaultRate = 50

// readPersonality reads the files of dir; a missing file is an empty value.
func readPersonality(dir string) personality {
	line := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		first, _, _ := bytes.Cut(bytes.TrimLeft(b, "\r\n"), []byte("\n"))
		return strings.TrimSpace(string(first))
	}
	p := personality{Hostname: line("hostname"), Address: line("address"), Message: line("message"), Rate: defaultRate}
	if n, err := strconv.Atoi(line("rate")); err == nil && n >= 0 {
		p.Rate = n
	}
	return p
}

// countBoot adds one to the number in file and returns the new number. The
// file is on disk when it returns.
func countBoot(file string) (int, error) {
	old, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return 0, fmt.Errorf("boot counter: %w", err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(old)))
	n++
	if err := writeSynced(file, fmt.Sprintf("%d\n", n)); err != nil {
		return 0, fmt.Errorf("boot counter: %w", err)
	}
	return n, nil
}

// writeSynced replaces file by a rename, so a crash leaves the old or the new.
func writeSynced(file, text string) error {
	f, err := os.Create(file + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// uptime is the time since the kernel started, in seconds.
func uptime() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return float64(ts.Nano()) / 1e9
}
