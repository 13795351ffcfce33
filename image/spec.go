package image

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// A Spec says what goes into an appliance image. The zero value of a field
// means its default.
type Spec struct {
	CacheDir string // of packages; needed
	Refresh  bool   // take the package versions that apt's lists name now
	Flavour  string // of the kernel: FlavourGeneric
	Version  string // of the appliance, for os-release: "devel"
	Cmdline  string // DefaultCmdline

	// Programs are the Go programs: path in the image to file on this machine.
	// There must be one for "init".
	Programs map[string]string
	// Services is what the first process starts, in this order.
	Services []Service
	// Extra entries, for tests.
	Extra []File

	// Progress, when set, is told what is being done.
	Progress func(step string)
}

// A Service is a program the first process starts and keeps running, as
// /etc/init.json describes it.
type Service struct {
	Name            string   `json:"name"`
	Exec            []string `json:"exec"`
	Env             []string `json:"env,omitempty"` // KEY=VALUE
	Notify          bool     `json:"notify"`        // speaks sd_notify(3)
	WatchdogSec     int      `json:"watchdog_sec"`
	StartTimeoutSec int      `json:"start_timeout_sec"`
	StopTimeoutSec  int      `json:"stop_timeout_sec"`
	Down            []string `json:"down,omitempty"` // runs after all services, when the machine ends
	DownTimeoutSec  int      `json:"down_timeout_sec,omitempty"`
	Limits          Limits   `json:"limits,omitzero"`
	KeepFDs         int      `json:"keep_fds,omitempty"`    // descriptors kept for its next process
	Late            bool     `json:"late,omitempty"`        // starts when the others are up
	Maintenance     bool     `json:"maintenance,omitempty"` // runs also when the others are held back
	Tries           int      `json:"tries,omitempty"`       // failures in a row until it is given up: 10
	GivenUp         []string `json:"given_up,omitempty"`    // runs then
	Remedy          string   `json:"remedy,omitempty"`      // what to do when it was given up
}

// Limits bound a service's cgroup; 0 is no limit.
type Limits struct {
	MemoryMax     int64 `json:"memory_max,omitempty"`     // bytes
	MemoryPercent int   `json:"memory_percent,omitempty"` // of the machine's
	PidsMax       int   `json:"pids_max,omitempty"`       // processes and threads
}

// Daemon is the service of the appliance itself.
var Daemon = Service{
	Name:            "baystreamd",
	Env:             []string{"GOGC=off", "GOMEMLIMIT=96MiB"}, // at the start alone, see cmd/baystreamd
	Exec:            []string{"/bin/baystreamd", "-state", "/data"},
	Notify:          true,
	WatchdogSec:     60,
	StartTimeoutSec: 120,
	StopTimeoutSec:  20,
	Down:            []string{"/bin/baystreamd", "-shutdown"},
	DownTimeoutSec:  60,
	Limits:          Limits{MemoryPercent: 75, PidsMax: 2048},
	KeepFDs:         16,
	GivenUp:         []string{"/bin/baystreamd", "-given-up"},
	Remedy: "Servers run on. On the serial console: logs, then maintenance, services, start again. If it names a file of the state, " +
		"take a support dump and restart the module; if that does not help, a factory reset and joining the domain anew does.",
}

// Console is the operator's console on the second serial port.
var Console = Service{
	Name: "console", Exec: []string{"/bin/baystreamd", "console"}, StopTimeoutSec: 5, Env: []string{"GOMEMLIMIT=48MiB", "GOGC=50"},
	Limits: Limits{MemoryMax: 256 << 20, PidsMax: 256}, Late: true, Maintenance: true,
}

// Health says over the network how the module is, also when nothing else works.
var Health = Service{
	Name: "health", Exec: []string{"/init", "health"}, StopTimeoutSec: 5, Env: []string{"GOMEMLIMIT=8MiB", "GOGC=50"},
	Limits: Limits{MemoryMax: 32 << 20, PidsMax: 64}, Late: true, Maintenance: true,
}

// InitConfig is /etc/init.json, what the first process is told.
type InitConfig struct {
	Modules  []string  `json:"modules"` // loaded before anything is mounted
	Services []Service `json:"services"`
}

// DefaultCmdline reboots at once after a panic, for a module that hangs helps
// nobody while its partner could take over, and treats an oops as a panic: one
// inside the iSCSI target leaves locks held for ever. Virtual machines without
// KVM need no_timer_check. Huge pages would have the kernel keep 40 MiB free for
// them, and here serve nobody. The memory that it keeps from the kernel holds the
// text of a crash over a reset (init/crash.go). See Documentation/admin-guide/kernel-parameters.txt.
const DefaultCmdline = "console=tty0 console=ttyS0,115200 quiet panic=-1 oops=panic no_timer_check transparent_hugepage=never memmap=1M$128M"

// BootModules are loaded by the first process before anything else: what no
// device asks for, here the fast checksum, which others look for as they are
// loaded. Each costs boot time, so what only the daemon needs is not among them.
var BootModules = []string{"crc32c-intel"}

// UsrImage is the file in the initramfs that the first process mounts on /usr,
// and EarlyModules are outside of it: what the mount needs, and what speeds up
// the check of other modules' signatures. init/programs.go names them too.
const UsrImage = "usr.squashfs"

var EarlyModules = []string{"sha256-ssse3", "loop", "squashfs"}

// DriverModules are in the image for the first process to load when a device
// asks for them: disks, network, console and input, watchdogs. Mellanox cards
// are left out: mlx5_core would add 0.8 MiB for hardware that no frame here has.
var DriverModules = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_console", "virtio_rng",
	"ahci", "nvme", "sd_mod",
	"e1000e", "igb", "ixgbe", "i40e", "bnxt_en",
	"button", "evdev",
	"i6300esb", "iTCO_wdt", "lpc_ich",
	"ipmi_si", "qemu_fw_cfg",
}

// DaemonModules are in the image for the daemon to load, for mounts, and for
// the kernel to ask for. Several names are built into one flavour and modules
// of the other.
var DaemonModules = []string{
	"ext4", "efivarfs",
	"dm-mod", "dm-thin-pool", "drbd",
	"target_core_mod", "target_core_iblock", "iscsi_target_mod",
	"bonding", "8021q", "af_packet", "nf_tables", "nft_reject_inet",
	"vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8",
	"softdog", "ipmi_devintf", "ipmi_watchdog",
	"ramoops", "efi-pstore",
}

// programs are what the daemon runs, and data it reads, by package.
var programs = []struct {
	deb   string
	paths []string
}{
	{"drbd-utils", []string{"lib/drbd/drbdsetup-84", "sbin/drbdmeta"}},
	{"thin-provisioning-tools", []string{"usr/sbin/thin_check", "usr/sbin/thin_dump", "usr/sbin/thin_repair"}},
	{"e2fsprogs", []string{"sbin/mke2fs", "sbin/e2fsck", "etc/mke2fs.conf"}},
	{"ipxe", []string{"usr/lib/ipxe/snponly.efi", "usr/lib/ipxe/undionly.kpxe"}},
}

// libraryDebs hold the shared libraries that programs need.
var libraryDebs = []string{
	"libc6", "libgcc-s1", "libstdc++6", "libexpat1", "libaio1",
	"libext2fs2", "libcom-err2", "libblkid1", "libuuid1", "libss2",
}

// certificatesDeb holds the certificate authorities, one file for each;
// certificatesPath is where they stand together.
const (
	certificatesDeb  = "ca-certificates"
	certificatesPath = "usr/share/ca-certificates/ca-certificates.crt"
)

// debNames are all packages of an image but the kernel's.
func debNames() []string {
	names := append([]string{certificatesDeb}, libraryDebs...)
	for _, p := range programs {
		names = append(names, p.deb)
	}
	return names
}

// skeleton is the tree that is there before anything runs: Debian's merged
// /usr, mount points, and the few files that Go's runtime and our programs
// read.
func skeleton(version string) []File {
	console := File{Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1}
	return []File{
		Dir("usr/bin"), Dir("usr/sbin"), Dir("usr/lib"), Dir("usr/lib64"),
		Symlink("bin", "usr/bin"), Symlink("sbin", "usr/sbin"), Symlink("lib", "usr/lib"), Symlink("lib64", "usr/lib64"),
		Dir("proc"), Dir("sys"), Dir("run"), Dir("data"), Dir("mnt"),
		Dir("var/lock"), Dir("var/lib/drbd"), Symlink("var/run", "../run"), // drbdmeta refuses to run without its lock folder
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "root", Mode: fs.ModeDir | 0o700},
		console,
		Symlink("etc/ssl/certs/ca-certificates.crt", "/"+certificatesPath),
		Text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
		Text("etc/passwd", "root:x:0:0:root:/root:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n"),
		Text("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
		Text("etc/os-release", fmt.Sprintf("ID=baystream\nNAME=Baystream\nVERSION_ID=%s\nPRETTY_NAME=\"Baystream %s\"\n", version, version)),
	}
}

// base is everything in the image but the Go programs and their settings.
func base(k *Kernel, debs map[string]*Deb, version string) ([]File, error) {
	files := skeleton(version)
	for _, p := range programs {
		found, err := debs[p.deb].Files(p.paths...)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	var libs []*Deb
	for _, name := range libraryDebs {
		libs = append(libs, debs[name])
	}
	files, err := Closure(files, libs...)
	if err != nil {
		return nil, err
	}
	certs, err := certificates(debs[certificatesDeb])
	if err != nil {
		return nil, err
	}
	modules, err := k.ModuleFiles(slices.Concat(BootModules, k.known(EarlyModules), k.known(slices.Concat(DriverModules, DaemonModules)))...)
	if err != nil {
		return nil, err
	}
	return slices.Concat(files, []File{certs}, modules), nil
}

// known drops names that this flavour was built without, as the cloud one is
// without IPMI.
func (k *Kernel) known(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		module, builtin := k.HasModule(name)
		return !module && !builtin
	})
}

// certificates is the bundle that update-ca-certificates(8) would make.
func certificates(deb *Deb) (File, error) {
	paths, err := deb.Glob("usr/share/ca-certificates/mozilla/*.crt")
	if err != nil || len(paths) == 0 {
		return File{}, fmt.Errorf("package %s: no certificates found", deb.Package)
	}
	files, err := deb.Files(paths...)
	if err != nil {
		return File{}, err
	}
	var b strings.Builder
	for _, f := range files {
		b.WriteString(strings.TrimRight(string(f.Data), "\n") + "\n")
	}
	return Text(certificatesPath, b.String()), nil
}

// ours are the Go programs and what the first process is told.
func ours(spec Spec) ([]File, error) {
	if _, ok := spec.Programs["init"]; !ok {
		return nil, fmt.Errorf("no program for /init: the kernel would have nothing to start")
	}
	var files []File
	for at, from := range spec.Programs {
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, fmt.Errorf("program /%s: %w", at, err)
		}
		files = append(files, Program(at, data))
	}
	config, err := json.MarshalIndent(InitConfig{Modules: BootModules, Services: spec.Services}, "", "\t")
	if err != nil {
		return nil, err
	}
	return append(files, Text("etc/init.json", string(config)+"\n")), nil
}
