package plan

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaybeSandbox must be the first call of main in a program that calls Run. In a
// process that Run has started it does that process's work and exits; in any
// other it returns at once.
func MaybeSandbox() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case sandboxName:
		os.Exit(sandboxMain())
	case shellName:
		os.Exit(shellMain())
	}
}

// static refuses a program that could not start in an empty root.
func static(exe string) error {
	f, err := elf.Open(exe)
	if err != nil {
		return fmt.Errorf("sandbox program: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("the sandbox program is linked dynamically; build it with CGO_ENABLED=0")
		}
	}
	return nil
}

// What the sandbox's root holds.
const (
	sysroot    = "/sysroot" // the volume's mount point
	scratchDir = "/scratch"
	exePath    = "/exe"
	shellUID   = 64321 // nobody else's on the appliance
)

// sandboxMain is process 1 of the sandbox. It trusts the program it is made of,
// and nothing else.
func sandboxMain() int {
	status := json.NewEncoder(os.NewFile(4, "status"))
	end := &RunError{}
	if err := sandboxRun(status); err == nil {
		end = nil
	} else if !errors.As(err, &end) {
		end = &RunError{Msg: err.Error()}
	}
	if status.Encode(message{Done: true, Err: end}) != nil {
		return 1
	}
	return 0
}

func sandboxRun(status *json.Encoder) error {
	var o order
	in := os.NewFile(3, "orders")
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("sandbox: orders: %w", err)
	}
	in.Close()
	unix.CloseOnExec(4)
	p, err := Parse(o.Scripts...)
	if err != nil {
		return err
	}
	if err := enterRoot(o); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("sandbox: drop capabilities: %w", err)
	}
	s := &session{
		vol:     &tree{dir: sysroot, owner: -1},
		scratch: &tree{dir: scratchDir, owner: shellUID},
		devices: o.Devices,
		mounter: kernelMounter{},
		out:     os.Stdout,
		before:  func(c Command) { _ = status.Encode(message{At: &RunError{Script: c.Script, Line: c.Line}}) },
	}
	s.shell = shellRunner{o.Limits}.run
	return s.run(context.Background(), p)
}

// enterRoot leaves the machine's files behind for a small root of our own: the
// volume's device nodes, the scratch space, and this program.
func enterRoot(o order) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root, err := mountRoot(o.Limits.Scratch)
	if err != nil {
		return err
	}
	for _, dir := range []string{"dev", sysroot, scratchDir} {
		if err := os.Mkdir(path.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(path.Join(root, scratchDir), shellUID, shellUID); err != nil {
		return err
	}
	if err := makeNodes(root, o.Devices); err != nil {
		return err
	}
	if err := bindSelf(path.Join(root, exePath)); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("plan")); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2) refuses when the root is the initramfs; there the way is
	// that of switch_root(8).
	if err := unix.PivotRoot(".", "."); err == nil {
		err = unix.Unmount(".", unix.MNT_DETACH)
		if err != nil {
			return fmt.Errorf("leave the old root: %w", err)
		}
	} else if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	} else if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// mountRoot mounts the new root over a directory that every machine has.
func mountRoot(scratch int64) (string, error) {
	opts := fmt.Sprintf("mode=755,size=%d,nr_inodes=20000", scratch+1<<20)
	var errs []error
	for _, dir := range []string{"/tmp", "/run", "/mnt"} {
		err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, opts)
		if err == nil {
			return dir, nil
		}
		errs = append(errs, fmt.Errorf("mount tmpfs on %s: %w", dir, err))
	}
	return "", errors.Join(errs...)
}

// makeNodes makes the volume's devices, under the names that scripts use.
func makeNodes(root string, devices []Device) error {
	if err := unix.Mknod(path.Join(root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("make /dev/null: %w", err)
	}
	for _, d := range devices {
		base, ok := strings.CutPrefix(d.Name, "/dev/")
		if !ok || base == "null" || base != path.Base(base) {
			return fmt.Errorf("device name %q: want the form /dev/sda1", d.Name)
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Node, &st); err != nil {
			return fmt.Errorf("device %s: %s: %w", d.Name, d.Node, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return fmt.Errorf("device %s: %s is no block device", d.Name, d.Node)
		}
		if err := unix.Mknod(path.Join(root, d.Name), unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
			return fmt.Errorf("device %s: %w", d.Name, err)
		}
	}
	return nil
}

// bindSelf makes this program's file visible at p, read-only.
func bindSelf(p string) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/self/exe", p, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind this program: %w", err)
	}
	return unix.Mount("", p, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

// keptCapabilities are what mounting, files of other owners, and starting the
// shell under another uid take.
var keptCapabilities = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETUID, unix.CAP_SETGID,
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL}

// dropCapabilities gives up all others, in every thread and for good.
func dropCapabilities() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(keptCapabilities, c) {
			continue
		}
		if err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c); err != nil && err != unix.EINVAL { // EINVAL: an older kernel has fewer
			return err
		}
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return err
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for _, c := range keptCapabilities {
		data[c/32].Permitted |= 1 << (c % 32)
		data[c/32].Effective |= 1 << (c % 32)
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return errno
	}
	return nil
}

// kernelMounter mounts the nodes that makeNodes has made.
type kernelMounter struct{}

func (kernelMounter) mount(d Device, fsType string, readOnly bool, dir string) error {
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	opts := ""
	if fsType == "vfat" {
		// Names are UTF-8 in scripts. quiet: chmod and chown, which FAT cannot
		// keep, are no errors.
		opts = "utf8=1,quiet"
	}
	err := unix.Mount(d.Name, dir, fsType, flags, opts)
	if err == unix.ENODEV {
		return fmt.Errorf("the kernel has no file system %s; its module is not in the image", fsType)
	}
	if err == unix.EINVAL {
		return fmt.Errorf("%w; the file system %s is damaged, or the kernel lacks a module that it needs (for vfat: nls_cp437 and nls_ascii)", err, fsType)
	}
	return err
}

func (kernelMounter) unmount(dir string) error {
	for range 100 { // a reader that was just killed may still hold a file
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != unix.EBUSY {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return unix.EBUSY
}

func (kernelMounter) fileSystem(d Device) string {
	f, err := os.Open(d.Name)
	if err != nil {
		return ""
	}
	defer f.Close()
	return FileSystem(f)
}

// shellRunner starts a process for each line of shell.
type shellRunner struct{ limits Limits }

// shellOrder is what that process is told, on descriptor 3. It answers with a
// shellResult on descriptor 4.
type shellOrder struct {
	Line   string
	Limits Limits
}

func (r shellRunner) run(ctx context.Context, line string, stdin io.Reader, stdout io.Writer) error {
	orders, err := json.Marshal(shellOrder{line, r.limits})
	if err != nil {
		return err
	}
	in, toShell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer toShell.Close()
	result, fromShell, err := os.Pipe()
	if err != nil {
		in.Close()
		return err
	}
	defer result.Close()
	cmd := exec.CommandContext(ctx, exePath)
	cmd.Args = []string{shellName}
	cmd.Env = []string{"LANG=C.UTF-8", "GOTRACEBACK=none"} // its log is read by people
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stdout
	cmd.ExtraFiles = []*os.File{in, fromShell}
	err = cmd.Start()
	in.Close()
	fromShell.Close()
	if err != nil {
		return fmt.Errorf("shell: start: %w", err)
	}
	go func() { _, _ = toShell.Write(orders); toShell.Close() }()
	var res shellResult
	answer, _ := io.ReadAll(io.LimitReader(result, 1<<20))
	werr := cmd.Wait()
	if json.Unmarshal(bytes.TrimSpace(answer), &res) != nil {
		return fmt.Errorf("shell: %s", r.death(cmd, werr))
	}
	return res.err()
}

// death says why the shell ended without an answer.
func (r shellRunner) death(cmd *exec.Cmd, err error) string {
	st, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case st.Signaled() && st.Signal() == syscall.SIGPIPE:
		return "nobody reads its output any more"
	case st.ExitStatus() == 2, st.Signaled():
		return fmt.Sprintf("ended by force (%v after %v), probably over its limit of %d bytes of memory", cmd.ProcessState, cmd.ProcessState.SystemTime()+cmd.ProcessState.UserTime(), r.limits.Memory)
	}
	return fmt.Sprintf("ended without an answer: %v", err)
}

// shellMain is the process that runs a line of shell. It gives up everything
// before it looks at the line.
func shellMain() int {
	var o shellOrder
	in := os.NewFile(3, "orders")
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return 3
	}
	in.Close()
	answer := os.NewFile(4, "answer")
	var res shellResult
	tooLong := make(chan os.Signal, 1)
	signal.Notify(tooLong, syscall.SIGXCPU)
	go func() {
		<-tooLong
		_ = json.NewEncoder(answer).Encode(shellResult{Exit: 1, Msg: fmt.Sprintf("used the processor for more than %v, the limit", o.Limits.CPU)})
		os.Exit(1)
	}()
	if err := confine(scratchDir, o.Limits); err != nil {
		res = shellResult{Exit: 1, Msg: "cannot be confined: " + err.Error()}
	} else {
		res = interpret(context.Background(), o.Line, "/", os.Stdin, os.Stdout, quietStderr{os.Stderr})
	}
	if json.NewEncoder(answer).Encode(res) != nil {
		return 3
	}
	return 0
}

// quietStderr keeps the interpreter from using the file as more than a writer.
type quietStderr struct{ io.Writer }

// confine makes this process harmless: root in the directory root, limits,
// another uid without capabilities, and a system call filter.
func confine(root string, l Limits) error {
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	cpu := uint64(max(1, l.CPU/time.Second)) // SIGXCPU at first, then SIGKILL
	if err := unix.Setrlimit(unix.RLIMIT_CPU, &unix.Rlimit{Cur: cpu, Max: cpu + 5}); err != nil {
		return fmt.Errorf("limit on the processor: %w", err)
	}
	for res, v := range map[int]uint64{
		unix.RLIMIT_DATA: uint64(l.Memory), unix.RLIMIT_FSIZE: uint64(l.Scratch),
		unix.RLIMIT_NOFILE: 256, unix.RLIMIT_NPROC: maxPids, unix.RLIMIT_CORE: 0, unix.RLIMIT_MSGQUEUE: 0, unix.RLIMIT_MEMLOCK: 0,
	} {
		if err := unix.Setrlimit(res, &unix.Rlimit{Cur: v, Max: v}); err != nil {
			return fmt.Errorf("limit %d: %w", res, err)
		}
	}
	debug.SetMemoryLimit(l.Memory / 2)
	debug.SetMaxStack(int(min(l.Memory/4, 64<<20)))
	if err := becomeNobody(); err != nil {
		return err
	}
	return filterCalls()
}
