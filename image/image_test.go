package image

import (
	"bytes"
	"context"
	"debug/pe"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cacheDir is where tests keep packages: $BAYSTREAM_CACHE or the build folder.
func cacheDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("BAYSTREAM_CACHE")
	if dir == "" {
		dir = "../build/cache"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// realDebs fetches packages or skips.
func realDebs(t *testing.T, names ...string) map[string]string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Debian packages: skipped with -short")
	}
	paths, err := FetchDebs(t.Context(), cacheDir(t), names...)
	if errors.Is(err, ErrNoPackages) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// realImage builds an image with the mkimage program, whose first process is
// testdata/bootcheck, or skips.
func realImage(t *testing.T, dir string) *Built {
	t.Helper()
	realDebs(t, debNames()...)
	programs := t.TempDir()
	for name, pkg := range map[string]string{"mkimage": "./cmd/mkimage", "init": "./image/testdata/bootcheck"} {
		if err := GoBuild(t.Context(), "..", pkg, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	check := filepath.Join(programs, "init")
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "mkimage"),
		"-o", dir, "-cache", cacheDir(t), "-init", check, "-daemon", check, "-fence", check, "-service", "check="+check)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("mkimage: %v\n%s", err, out)
	}
	t.Logf("mkimage:\n%s", out)
	built, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func TestImageRepeats(t *testing.T) {
	dir := t.TempDir()
	one := realImage(t, filepath.Join(dir, "one"))
	two := realImage(t, filepath.Join(dir, "two", "deeper"))
	if diff := cmp.Diff(one.Manifest, two.Manifest); diff != "" {
		t.Errorf("manifests of two builds differ (-one +two):\n%s", diff)
	}
	for _, pair := range [][2]string{{one.BzImage, two.BzImage}, {one.Kernel, two.Kernel}, {one.Initramfs, two.Initramfs}} {
		a, err1 := os.ReadFile(pair[0])
		b, err2 := os.ReadFile(pair[1])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs between two builds", filepath.Base(pair[0]))
		}
	}
	if size := one.Manifest.BootSize(); size > Limit {
		t.Errorf("kernel and initramfs have %d bytes, the limit is %d", size, Limit)
	}
	if one.Cmdline != DefaultCmdline {
		t.Errorf("command line %q, want %q", one.Cmdline, DefaultCmdline)
	}
	t.Run("nothing to do", func(t *testing.T) { testRebuild(t, one) })
	t.Run("cut short", func(t *testing.T) {
		if err := os.Truncate(one.Initramfs, 1000); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(filepath.Dir(one.Initramfs)); err == nil {
			t.Error("Load of an image cut short = nil, want an error")
		}
		again := realImage(t, filepath.Dir(one.Initramfs))
		if diff := cmp.Diff(two.Manifest, again.Manifest); diff != "" {
			t.Errorf("image built over a damaged one differs (-want +got):\n%s", diff)
		}
	})
}

// testRebuild builds once more into the same folder and finds the parts
// untouched.
func testRebuild(t *testing.T, built *Built) {
	before := make(map[string]os.FileInfo)
	for _, file := range []string{built.BzImage, built.Kernel, built.Initramfs} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		before[file] = info
	}
	realImage(t, filepath.Dir(built.Kernel))
	for file, old := range before {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(old, info) {
			t.Errorf("%s was written again though nothing changed", filepath.Base(file))
		}
	}
}

// TestImageBootsInVM boots the image and has its own first process load each
// module and run each program.
func TestImageBootsInVM(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64: apt install qemu-system-x86")
	}
	built := realImage(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256",
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nodefaults",
		"-kernel", built.Kernel, "-initrd", built.Initramfs, "-append", built.Cmdline)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	console := string(out)
	if strings.Contains(console, "bootcheck: FAIL") || !strings.Contains(console, "bootcheck: end") {
		t.Errorf("%v\n%s", cmd.Args, console)
	}
	if ok := strings.Count(console, "bootcheck: ok module"); ok < len(BootModules)+len(DriverModules)+len(DaemonModules) {
		t.Errorf("%d modules loaded, want more than the list has\n%s", ok, console)
	}
}

func TestKernelFlavours(t *testing.T) {
	for flavour, wants := range map[string]struct{ ext4, ipmi bool }{
		FlavourGeneric: {ext4: true, ipmi: true}, // as modules
		FlavourCloud:   {ext4: false, ipmi: false},
	} {
		k, err := KernelFromDeb(realDebs(t, KernelPackage(flavour))[KernelPackage(flavour)])
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(k.Version, flavour) || k.Config["CONFIG_PVH"] != "y" {
			t.Errorf("kernel %s, CONFIG_PVH=%q, want one of flavour %s with PVH", k.Version, k.Config["CONFIG_PVH"], flavour)
		}
		if module, _ := k.HasModule("ext4"); module != wants.ext4 {
			t.Errorf("%s: ext4 as a module %v, want %v", flavour, module, wants.ext4)
		}
		if module, builtin := k.HasModule("ipmi_si"); module != wants.ipmi || builtin {
			t.Errorf("%s: ipmi_si as a module %v, built in %v, want %v, false", flavour, module, builtin, wants.ipmi)
		}
		files, err := k.ModuleFiles("virtio_net", "ext4", "af_packet", "drbd")
		if err != nil {
			t.Errorf("%s: %v", flavour, err)
		}
		if len(files) < 8 {
			t.Errorf("%s: %d files, want modules and their lists", flavour, len(files))
		}
		if _, err := k.ModuleFiles("no_such_module"); err == nil {
			t.Errorf("%s: ModuleFiles of an unknown module = nil, want an error", flavour)
		}
	}
}

func TestClosureNamesWhatIsMissing(t *testing.T) {
	paths := realDebs(t, "e2fsprogs", "libc6")
	tools, err := OpenDeb(paths["e2fsprogs"])
	if err != nil {
		t.Fatal(err)
	}
	libc, err := OpenDeb(paths["libc6"])
	if err != nil {
		t.Fatal(err)
	}
	files, err := tools.Files("sbin/mke2fs")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Closure(files, libc)
	if err == nil || !strings.Contains(err.Error(), "libext2fs.so.2") || !strings.Contains(err.Error(), "mke2fs") {
		t.Errorf("Closure without libext2fs = %v, want an error with its name and the program's", err)
	}
}

func TestUKI(t *testing.T) {
	stub, err := OpenDeb(realDebs(t, StubPackage)[StubPackage])
	if err != nil {
		t.Fatal(err)
	}
	files, err := stub.Files(StubPath)
	if err != nil {
		t.Fatal(err)
	}
	parts := UKIParts{
		Stub: files[0].Data, OSRelease: []byte("ID=test\n"), Cmdline: "quiet\n", Uname: "6.1",
		Linux: bytes.Repeat([]byte("kernel"), 1000), Initrd: bytes.Repeat([]byte("initrd"), 3000),
	}
	uki, err := UKI(parts)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		t.Fatalf("read the image back: %v", err)
	}
	var end uint32
	for _, s := range f.Sections {
		if s.VirtualAddress < end {
			t.Errorf("section %s starts at %#x, inside the one before", s.Name, s.VirtualAddress)
		}
		end = s.VirtualAddress + s.VirtualSize
	}
	if size := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfImage; size < end {
		t.Errorf("SizeOfImage is %#x, sections end at %#x", size, end)
	}
	for name, want := range map[string][]byte{
		".osrel": parts.OSRelease, ".cmdline": []byte("quiet"), ".uname": []byte("6.1"), ".linux": parts.Linux, ".initrd": parts.Initrd,
	} {
		s := f.Section(name)
		if s == nil {
			t.Errorf("section %s is missing", name)
			continue
		}
		got, err := io.ReadAll(io.LimitReader(s.Open(), int64(s.VirtualSize)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("section %s: %v, %d bytes that differ from the %d given", name, err, len(got), len(want))
		}
	}
	again, err := UKI(parts)
	if err != nil || !bytes.Equal(uki, again) {
		t.Errorf("a second image of the same parts differs (%v)", err)
	}
	parts.Initrd = nil
	if _, err := UKI(parts); err == nil {
		t.Error("UKI without initrd = nil, want an error")
	}
}

func TestUKIRefusesAStubThatIsNone(t *testing.T) {
	for _, stub := range []string{"", "MZ", strings.Repeat("MZ", 1000)} {
		if _, err := UKI(UKIParts{Stub: []byte(stub)}); err == nil {
			t.Errorf("UKI of a stub of %d bytes = nil, want an error", len(stub))
		}
	}
}

func TestBuildNeedsAFirstProcess(t *testing.T) {
	if _, err := ours(Spec{}); err == nil {
		t.Error("an image without /init = nil, want an error")
	}
	if _, err := ours(Spec{Programs: map[string]string{"init": filepath.Join(t.TempDir(), "none")}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image with a missing program = %v, want that it does not exist", err)
	}
}

func TestLoadOfAnEmptyFolder(t *testing.T) {
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "mkimage") {
		t.Errorf("Load of an empty folder = %v, want an error that names mkimage", err)
	}
}
