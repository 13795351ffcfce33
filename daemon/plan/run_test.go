package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sandboxDir holds the program that sandboxProgram has built, if it has.
var sandboxDir string

var sandboxProgram = sync.OnceValues(func() (string, error) {
	if static("/proc/self/exe") == nil {
		return "", nil // built with CGO_ENABLED=0: Run takes this program
	}
	dir, err := os.MkdirTemp("", "plan-test-")
	if err != nil {
		return "", err
	}
	sandboxDir = dir
	exe := filepath.Join(dir, "sandbox")
	cmd := exec.Command("go", "build", "-o", exe, "./testdata/sandbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return exe, nil
})

func TestMain(m *testing.M) {
	MaybeSandbox()
	if dir := os.Getenv("PLAN_TEST_CONFINE"); dir != "" {
		os.Exit(tryToEscape(dir))
	}
	code := m.Run()
	if sandboxDir != "" {
		os.RemoveAll(sandboxDir)
	}
	os.Exit(code)
}

// sandbox is the program to start sandboxes from; the test skips where there
// can be none.
func sandbox(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make namespaces and mounts")
	}
	exe, err := sandboxProgram()
	if err != nil {
		t.Skipf("needs the sandbox program: %v", err)
	}
	return exe
}

// loopDevice shows a part of a file as a block device.
func loopDevice(t *testing.T, file string, offset, size uint64) string {
	t.Helper()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs loop devices: %v", err)
	}
	defer ctl.Close()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 20 { // somebody may be faster with the free one
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("needs a free loop device: %v", err)
		}
		node := fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("needs a loop device: %v", err)
		}
		cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Offset: offset, Sizelimit: size}}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == unix.EBUSY {
			dev.Close()
			continue
		}
		if err != nil {
			dev.Close()
			t.Skipf("needs a loop device: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Errorf("%s: %v", node, err)
			}
			dev.Close()
		})
		return node
	}
	t.Skip("needs a free loop device")
	return ""
}

// ext4Volume is a volume with one empty file system and no partitions.
func ext4Volume(t *testing.T) []Device {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ext4")
	mkfs, err := exec.LookPath("mke2fs")
	if err != nil {
		if mkfs, err = exec.LookPath("/sbin/mke2fs"); err != nil {
			t.Skip("needs mke2fs (package e2fsprogs)")
		}
	}
	if out, err := exec.Command(mkfs, "-q", "-t", "ext4", file, "16M").CombinedOutput(); err != nil {
		t.Skipf("mke2fs: %v: %s", err, out)
	}
	return []Device{{Name: "/dev/sda", Node: loopDevice(t, file, 0, 0)}}
}

// runScript runs one script and returns its log.
func runScript(t *testing.T, devices []Device, script string, edit func(*Job)) (string, error) {
	t.Helper()
	var log bytes.Buffer
	job := Job{Scripts: []Expanded{{Script: "test", Text: script}}, Devices: devices, Log: &log, Exe: sandbox(t)}
	if edit != nil {
		edit(&job)
	}
	err := Run(t.Context(), job)
	t.Logf("%v\n%s", err, log.String())
	return log.String(), err
}

func TestRunPersonalisesAVolume(t *testing.T) {
	sandbox(t)
	log, err := runScript(t, ext4Volume(t), `
echo start
list-filesystems
list-devices
mount /dev/sda /
mkdir-p /etc/deep/er
upload -<<END /etc/hostname
web1
END
cat /etc/hostname
download /etc/hostname ./name
!echo "from the shell: $(cat ./name)" && echo more >> name
upload name /etc/second
cat /etc/second
cat /etc/second | cat > ./piped
!cat /piped
<!echo "echo a command of the shell"
!mkdir d && echo x > d/f
copy-in d /etc
ls /etc
glob rm-rf /etc/d*
ls /etc
-rm /nothing/there
statvfs /
umount /
mount /dev/sda /
cat /etc/hostname
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "start\n/dev/sda: ext4\n/dev/sda\nweb1\nfrom the shell: web1\nweb1\nmore\nweb1\nmore\na command of the shell\nd\ndeep\nhostname\nsecond\nhostname\nsecond\nplan script test line 23: rm: /nothing/there: no such file or directory (ignored)\nbsize: "
	if !strings.HasPrefix(log, want) || !strings.HasSuffix(log, "\nweb1\n") {
		t.Errorf("log = %q, want it to begin with %q", log, want)
	}
}

func TestRunNamesTheFailingLine(t *testing.T) {
	sandbox(t)
	devices := ext4Volume(t)
	for _, tt := range []struct{ script, want string }{
		{"echo one\nIntentionally_Fail\necho two", "plan script test line 2: Intentionally_Fail: unknown command"},
		{"mount /dev/sda9 /", "plan script test line 1: mount: /dev/sda9: no such device; the volume has /dev/sda"},
		{"cat /x", "plan script test line 1: cat: nothing is mounted; write a line such as mount /dev/sda1 / before it"},
		{"mount /dev/sda /\n!frobnicate now", "plan script test line 2: shell: exit status 127 (command not found: frobnicate)"},
		{"!exit 3", "plan script test line 1: shell: exit status 3"},
		{"!if", "plan script test line 1: shell: 1:1: `if` must be followed by a statement list"},
		{"\n<!echo nonsense", "plan script test line 2: nonsense: unknown command"},
		{"command ls", "plan script test line 1: command: runs a program of the volume, which is not allowed here; let the server run it at its first boot"},
	} {
		log, err := runScript(t, devices, tt.script, nil)
		var re *RunError
		if !errors.As(err, &re) || err.Error() != tt.want {
			t.Errorf("Run(%q) = %v, want %s", tt.script, err, tt.want)
		}
		if !strings.HasSuffix(log, tt.want+"\n") || strings.Contains(log, "two\n") {
			t.Errorf("log of %q = %q, want it to end with the error", tt.script, log)
		}
	}
}

func TestRunIsContained(t *testing.T) {
	sandbox(t)
	devices := ext4Volume(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host data"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, script, want string }{
		{"host files", "!cat " + secret, ""},
		{"host files by dots", "!cat ../../../../../../../.." + secret, ""},
		{"no processes", "!cat /proc/1/environ", ""},
		{"not root", "!echo uid=$EUID", "uid=64321\n"},
		{"root is the scratch space", "!echo x > /made; ls /", "made\n"},
		{"nothing is executed", "!cp /exe ./exe; ./exe", ""},
		{"own binary", "!/exe", ""},
		{"no devices", "!cat /dev/sda", ""},
		{"no network", "!echo > /dev/tcp/127.0.0.1/22", ""},
		{"links of the shell", "mount /dev/sda /\n!ln -s / l; true\nupload /l/dev/sda /x", ""},
		{"links of the volume", "mount /dev/sda /\nln-s " + secret + " /l\ncat /l", ""},
		{"links of the volume to its root", "mount /dev/sda /\nwrite /a text\nln-s /a /abs\ncat /abs\nrm /a\nrm /abs", "text"},
		{"dots of the volume", "mount /dev/sda /\ncat /../../../.." + secret, ""},
		{"mount over a link", "mount /dev/sda /\nln-s / /m\nmount /dev/sda /m", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, err := runScript(t, devices, tt.script, nil)
			if strings.Contains(log, "host data") {
				t.Error("the script read a file of this machine")
			}
			if tt.want == "" && err == nil {
				t.Error("Run succeeded, want a failure")
			}
			if tt.want != "" && (err != nil || log != tt.want) {
				t.Errorf("log = %q, %v, want %q", log, err, tt.want)
			}
		})
	}
}

func TestRunEndsAtItsLimits(t *testing.T) {
	sandbox(t)
	devices := ext4Volume(t)
	for _, tt := range []struct {
		name, script string
		edit         func(*Job)
		want         string
	}{
		{"time", "echo\n!sleep 1000", func(j *Job) { j.Limits.Time = 300 * time.Millisecond }, "ran longer than 300ms, the limit"},
		{"endless loop", "!while true; do true; done", func(j *Job) { j.Limits.CPU = time.Second }, "line 1: shell: used the processor for more than 1s, the limit"},
		{"output", "!while true; do echo 0123456789; done", func(j *Job) { j.Limits.Output = 100000 }, "line 1: more than 100000 bytes of output, the limit"},
		{"output as commands", "<!while true; do echo echo; done", nil, "line 1: more than 1048576 bytes of output to be read as commands"},
		{"scratch", "!echo 0123456789abcdef0123456789abcdef > f; for i in 1 2 3 4 5 6 7 8 9 a b c d e f g h; do cat f f > g && mv g f || exit 9; done", func(j *Job) { j.Limits.Scratch = 1 << 20 }, "line 1: shell: "},
		{"volume full", "mount /dev/sda /\n!for i in 1 2 3 4 5 6 7 8 9; do echo 0123456789abcdef0123456789abcdef; done > f; for i in 1 2 3 4 5 6 7 8 9 a b c d e f g h; do cat f f > g; mv g f; done\nupload f /big\ncp /big /big2\ncp /big /big3", nil, "no space left on device"},
		{"memory", "!a=x; while true; do a=$a$a; done", func(j *Job) { j.Limits.Memory, j.Limits.CPU = 96<<20, 2*time.Second }, "line 1: shell: "},
		{"recursion", "!f() { f; }; f", func(j *Job) { j.Limits.Memory, j.Limits.CPU = 96<<20, 2*time.Second }, "line 1: shell: "},
		{"bomb", "!f() { f | f & }; f; wait; while true; do true; done", func(j *Job) { j.Limits.Memory, j.Limits.CPU = 96<<20, 2*time.Second }, "line 1: shell: "},
		{"commands of commands", "!echo '<!cat ./self' > self\n<!cat ./self", nil, "line 2: <! within <! more than 8 deep"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := runScript(t, devices, tt.script, tt.edit)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run = %v, want %q", err, tt.want)
			}
			if _, err := runScript(t, devices, "mount /dev/sda /\nls /", nil); err != nil {
				t.Errorf("the volume is not free afterwards: %v", err)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	exe := sandbox(t)
	devices := ext4Volume(t)
	ctx, cancel := context.WithCancel(t.Context())
	job := Job{Scripts: []Expanded{{Script: "test", Text: "mount /dev/sda /\necho ready\n!sleep 1000"}}, Devices: devices, Exe: exe}
	job.Log = writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	err := Run(ctx, job)
	var re *RunError
	if !errors.As(err, &re) || !strings.Contains(re.Msg, "stopped: context canceled") {
		t.Errorf("Run = %v, want it stopped", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestRunMasksSecrets(t *testing.T) {
	sandbox(t)
	log, err := runScript(t, nil, "echo the password is hunter22 !\n!printf hun; printf ter22\nhunter22", func(j *Job) { j.Secrets = []string{"hunter22"} })
	if strings.Contains(log+err.Error(), "hunter22") || !strings.Contains(log, mask+" !") {
		t.Errorf("log = %q, error %v, want the secret masked", log, err)
	}
}

// tryToEscape confines this process and then makes the calls that it must not.
func tryToEscape(dir string) int {
	if err := confine(dir, Limits{}.withDefaults()); err != nil {
		fmt.Println("confine:", err)
		return 1
	}
	_, socket := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	_, _, fork := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	_, _, clone3 := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	_, _, bpf := unix.Syscall(unix.SYS_BPF, 0, 0, 0)
	_, _, ioUring := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
	for _, call := range []struct {
		name string
		err  error
	}{
		{"socket", socket}, {"fork", fork}, {"clone3", clone3}, {"bpf", bpf}, {"io_uring", ioUring},
		{"execve", unix.Exec("/exe", []string{"x"}, nil)},
		{"unshare", unix.Unshare(unix.CLONE_NEWUSER)},
		{"mount", unix.Mount("tmpfs", "/", "tmpfs", 0, "")},
		{"chroot", unix.Chroot("/")},
		{"ptrace", unix.PtraceAttach(1)},
		{"kill", unix.Kill(1, 0)},
		{"reboot", unix.Reboot(0)},
		{"mknod", unix.Mknod("/w/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0)))},
		{"become root", unix.Setresuid(0, 0, 0)},
		{"raise a limit", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 9999, Max: 9999})},
	} {
		if call.err != unix.EPERM {
			fmt.Printf("%s: %v, want %v\n", call.name, call.err, unix.EPERM)
			return 1
		}
	}
	if os.Getuid() != shellUID || os.WriteFile("/made", nil, 0o600) == nil {
		fmt.Println("uid", os.Getuid(), "or could write where it must not")
		return 1
	}
	fmt.Println("confined")
	return 0
}

func TestConfinedProcessCanDoNothingElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to change the root directory and the uid")
	}
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/w", 0o777), os.Chmod(dir+"/w", 0o777), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PLAN_TEST_CONFINE="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "confined\n" {
		t.Errorf("%v: %s", err, out)
	}
}
