// Package vmtest runs a package's tests inside a virtual machine with Debian's
// kernel, for code that needs device-mapper, DRBD or LIO and root.
//
// The host side is a test that calls Run. It compiles the package's tests
// (static, no cgo), packs them with a tiny first process (vmtest/guest), kernel
// modules and Debian programs into an initramfs, boots QEMU from it and copies
// the output. The guest side is ordinary tests that call InGuest and skip when
// it is false.
//
// Run skips, and says why, where QEMU or Debian's packages are missing and
// under -short. The VM is bounded by the test's deadline.
package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"baystream/image"
	"baystream/internal/vmtest/orders"
)

// InGuest tells whether this process runs inside a VM that Run started.
func InGuest() bool { return os.Getenv("BAYSTREAM_IN_VM") == "1" }

// SkipUnlessGuest skips tests that are to run in the VM only.
func SkipUnlessGuest(t testing.TB) {
	t.Helper()
	if !InGuest() {
		t.Skip("runs inside a VM: see the InVM test of daemon/storage")
	}
}

// Config says what a VM needs.
type Config struct {
	Package string            // import path of the package under test
	Run     string            // -test.run of the guest
	Bench   string            // -test.bench of the guest
	Modules []string          // kernel modules, each with its parameters behind a space
	Tools   map[string]string // path in the guest: Debian package whose file of that path it is
	Debs    []string          // packages that hold the tools' libraries
	Disks   []int             // sizes in MiB: /dev/vda, /dev/vdb...
	Memory  int               // MiB, default 512
	Env     []string
	Timeout time.Duration // default 9 minutes, less when the test's deadline is nearer
	Extra   []string      // further arguments of QEMU's, such as devices

	// Init is a package whose program is the first process, in the place of
	// vmtest's own. It finds Files (its settings) and /vmtest, a service that
	// runs the tests and then asks it, by SIGUSR2, to power off.
	Init    string
	Files   []image.File
	Cmdline string // more for the kernel
	Resets  bool   // a reset starts the VM again, with its memory, instead of ending it

	// Virtual runs one CPU on virtual time (QEMU's icount), so that times
	// measured in the guest repeat.
	Virtual bool
}

// Run runs the package's tests in a VM and fails t when they fail. It returns
// the console's output.
func Run(t *testing.T, cfg Config) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a VM: skipped with -short")
	}
	if InGuest() {
		t.Skip("is the host side")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64: apt install qemu-system-x86")
	}
	ctx, cancel := deadline(t, cfg.Timeout)
	defer cancel()
	dir := t.TempDir()
	kernel, initrd, err := build(ctx, dir, cfg)
	if errors.Is(err, image.ErrNoPackages) {
		t.Skipf("needs Debian's packages: %v", err)
	}
	if err != nil {
		t.Fatalf("vmtest: build: %v", err)
	}
	args, err := arguments(dir, kernel, initrd, cfg)
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	out, err := boot(ctx, qemu, args, t.Output())
	status, ended := exitStatus(out)
	switch {
	case !ended:
		t.Fatalf("vmtest: the VM ended without a status (%v); run it again by hand:\n%s %s", err, qemu, strings.Join(args, " "))
	case status != 0:
		t.Errorf("vmtest: tests in the VM ended with status %d", status)
	}
	return out
}

func deadline(t *testing.T, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		limit = 9 * time.Minute
	}
	end := time.Now().Add(limit)
	if d, ok := t.Deadline(); ok && d.Add(-10*time.Second).Before(end) {
		end = d.Add(-10 * time.Second)
	}
	return context.WithDeadline(t.Context(), end)
}

// build makes the kernel and the initramfs in dir.
func build(ctx context.Context, dir string, cfg Config) (kernel, initrd string, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", "", err
	}
	test, guest := filepath.Join(dir, "test"), filepath.Join(dir, "guest")
	if err := goTool(ctx, root, "test", "-c", "-o", test, cfg.Package); err != nil {
		return "", "", err
	}
	if err := goTool(ctx, root, "build", "-trimpath", "-ldflags", "-s -w", "-o", guest, "./internal/vmtest/guest"); err != nil {
		return "", "", err
	}
	cache := os.Getenv("BAYSTREAM_CACHE")
	if cache == "" {
		cache = filepath.Join(root, "build", "cache")
	}
	files, vmlinux, err := debian(ctx, cache, cfg)
	if err != nil {
		return "", "", err
	}
	programs := map[string]string{"init": guest, "test": test}
	if cfg.Init != "" {
		first := filepath.Join(dir, "init")
		if err := goTool(ctx, root, "build", "-trimpath", "-ldflags", "-s -w", "-o", first, cfg.Init); err != nil {
			return "", "", err
		}
		programs["init"], programs["vmtest"] = first, guest
	}
	files = append(files, cfg.Files...)
	for at, from := range programs {
		b, err := os.ReadFile(from)
		if err != nil {
			return "", "", err
		}
		files = append(files, image.Program(at, b))
	}
	o, err := json.Marshal(orders.Orders{Modules: cfg.Modules, Args: testArgs(cfg), Env: cfg.Env})
	if err != nil {
		return "", "", err
	}
	files = append(files, image.Text("vmtest.json", string(o)))
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "etc"} {
		files = append(files, image.Dir(d))
	}
	var cpio bytes.Buffer
	if err := image.Pack(&cpio, files); err != nil {
		return "", "", err
	}
	kernel, initrd = filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd")
	return kernel, initrd, errors.Join(os.WriteFile(kernel, vmlinux, 0o600), os.WriteFile(initrd, cpio.Bytes(), 0o600))
}

// debian takes modules and programs out of Debian's packages.
func debian(ctx context.Context, cache string, cfg Config) ([]image.File, []byte, error) {
	kpkg := image.KernelPackage(image.FlavourGeneric)
	names := []string{kpkg, "libc6"}
	names = append(names, cfg.Debs...)
	for _, p := range cfg.Tools {
		names = append(names, p)
	}
	paths, err := image.FetchDebs(ctx, cache, unique(names)...)
	if err != nil {
		return nil, nil, err
	}
	k, err := image.KernelFromDeb(paths[kpkg])
	if err != nil {
		return nil, nil, err
	}
	var modules []string
	for _, m := range cfg.Modules {
		name, _, _ := strings.Cut(m, " ")
		modules = append(modules, name)
	}
	files, err := k.ModuleFiles(modules...)
	if err != nil {
		return nil, nil, err
	}
	var debs []*image.Deb
	byName := map[string]*image.Deb{}
	for name, p := range paths {
		if name == kpkg {
			continue
		}
		d, err := image.OpenDeb(p)
		if err != nil {
			return nil, nil, err
		}
		debs, byName[name] = append(debs, d), d
	}
	for tool, pkg := range cfg.Tools {
		f, err := byName[pkg].Files(strings.TrimPrefix(tool, "/"))
		if err != nil {
			return nil, nil, fmt.Errorf("package %s: %w", pkg, err)
		}
		files = append(files, f...)
	}
	if len(cfg.Tools) > 0 {
		if files, err = image.Closure(files, debs...); err != nil {
			return nil, nil, err
		}
	}
	vmlinux, err := k.Vmlinux()
	return files, vmlinux, err
}

func unique(in []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range in {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func testArgs(cfg Config) []string {
	args := []string{"-test.v", "-test.timeout=0"}
	if cfg.Run != "" {
		args = append(args, "-test.run="+cfg.Run)
	}
	if cfg.Bench != "" {
		args = append(args, "-test.bench="+cfg.Bench)
	}
	return args
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

func goTool(ctx context.Context, root string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// arguments builds QEMU's command line and makes the disks, sparse.
func arguments(dir, kernel, initrd string, cfg Config) ([]string, error) {
	mem := cfg.Memory
	if mem == 0 {
		mem = 512
	}
	// Without the two features: TCG runs REP MOVSB and REP STOSB byte by byte.
	args := []string{"-nodefaults", "-no-user-config", "-machine", "q35,graphics=off", "-cpu", "max,-erms,-fsrm", "-smp", "1",
		"-m", strconv.Itoa(mem), "-display", "none", "-monitor", "none", "-serial", "stdio",
		"-kernel", kernel, "-initrd", initrd}
	if !cfg.Resets {
		args = append(args, "-no-reboot")
	}
	cmdline := "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr"
	if cfg.Virtual {
		args = append(args, "-accel", "tcg,thread=single", "-icount", "shift=2,sleep=off")
	} else {
		args = append(args, "-accel", "tcg,tb-size=256")
		cmdline += " no_timer_check tsc=reliable"
	}
	args = append(args, "-append", strings.TrimSpace(cmdline+" "+cfg.Cmdline))
	for i, mib := range cfg.Disks {
		file := path.Join(dir, "disk"+strconv.Itoa(i))
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(file, int64(mib)<<20); err != nil {
			return nil, err
		}
		id := "d" + strconv.Itoa(i)
		args = append(args, "-drive", "if=none,format=raw,discard=unmap,cache=unsafe,id="+id+",file="+file,
			"-device", "virtio-blk-pci,drive="+id+",serial=baystream-"+id)
	}
	return append(args, cfg.Extra...), nil
}

// boot runs QEMU to its end and copies the console to w.
func boot(ctx context.Context, qemu string, args []string, w io.Writer) (string, error) {
	cmd := exec.CommandContext(ctx, qemu, args...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	var out strings.Builder
	for s := bufio.NewReader(pipe); ; {
		line, rerr := s.ReadString('\n')
		line = strings.ReplaceAll(line, "\r", "")
		out.WriteString(line)
		io.WriteString(w, line)
		if rerr != nil {
			break
		}
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if stderr.Len() > 0 {
		err = errors.Join(err, errors.New(stderr.String()))
	}
	return out.String(), err
}

// exitStatus finds the guest's last line.
func exitStatus(console string) (status int, ended bool) {
	_, tail, ok := strings.Cut(console, "vmtest: exit status ")
	if !ok {
		return 0, false
	}
	num, _, _ := strings.Cut(tail, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(num))
	return n, err == nil
}
