package plan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeMounter notes what it is asked for; the volume is a plain directory.
type fakeMounter struct {
	log  []string
	busy bool
}

func (m *fakeMounter) mount(d Device, fs string, ro bool, dir string) error {
	m.log = append(m.log, "mount "+d.Name+" "+fs+" "+filepath.Base(dir))
	return nil
}

func (m *fakeMounter) unmount(dir string) error {
	m.log = append(m.log, "unmount "+filepath.Base(dir))
	if m.busy {
		return errors.New("busy")
	}
	return nil
}

func (m *fakeMounter) fileSystem(Device) string { return "" }

// newSession is a session on directories, with a shell that is not confined and
// so must get harmless lines only.
func newSession(t *testing.T) (*session, *fakeMounter, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	m, out := &fakeMounter{}, &bytes.Buffer{}
	s := &session{
		vol: &tree{filepath.Join(dir, "vol"), -1}, scratch: &tree{filepath.Join(dir, "scratch"), -1},
		devices: []Device{{"/dev/sda", "", ""}, {"/dev/sda1", "", "vfat"}, {"/dev/sda2", "", "ext4"}, {"/dev/sda3", "", "LVM2_member"}, {"/dev/sda4", "", "ntfs"}, {"/dev/sda5", "", ""}},
		mounter: m, out: out,
	}
	s.shell = func(ctx context.Context, line string, stdin io.Reader, stdout io.Writer) error {
		return interpret(ctx, line, s.scratch.dir, stdin, stdout, out).err()
	}
	for _, d := range []string{s.vol.dir, s.scratch.dir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s, m, out
}

func runSession(t *testing.T, s *session, script string) error {
	t.Helper()
	p, err := Parse(Expanded{Script: "s", Text: script})
	if err != nil {
		t.Fatal(err)
	}
	return s.run(t.Context(), p)
}

func TestWords(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{"echo", "\n"},
		{"echo a  'b  c'", "a b  c\n"},
		{"list-filesystems", "/dev/sda1: vfat\n/dev/sda2: ext4\n/dev/sda4: ntfs\n/dev/sda5: unknown\n"},
		{"list-devices\nlist-partitions", "/dev/sda\n/dev/sda1\n/dev/sda2\n/dev/sda3\n/dev/sda4\n/dev/sda5\n"},
		{"vgs\nlvs", ""},
		{"version", "major: 1\nminor: 0\nrelease: 0\nextra: baystream\n"},
		{"M\nmkdir /a\nmkdir-p /a/b/c\nmkdir-p /a/b\ntouch /a/f\nls /a", "b\nf\n"},
		{"M\nupload -<<E /f\na\n\nE\ncat /f", "a\n\n"},
		{"M\nwrite /f one\nwrite-append /f ' two'\ncat /f", "one two"},
		{"M\nupload -<<E ./f\nx\nE\nupload f /f\ncat /f\ndownload /f /sub\n!cat sub", "x\nx\n"},
		{"M\nwrite /f x\nchmod 755 /f\ncp /f /g\ncp-a /f /h\nmkdir /d\nmv /h /d\ncp /g /d\nls /d", "g\nh\n"},
		{"M\nmkdir-p /a/b\nwrite /a/b/f deep\ncp-a /a /z\ncat /z/b/f\nrm-rf /a\nrm-rf /a\nls /", "deepz\n"},
		{"M\nwrite /f x\nln-s f /l\ncat /l\nln-f /f /h\nln-f /f /h\ncat /h\nrm /l\nrm-f /l\nls /", "xxf\nh\n"},
		{"M\nwrite /a1 x\nwrite /a2 x\nwrite /b x\nglob rm /a*\nglob rm /none*\nls /", "b\n"},
		{"M\nwrite /a x\nrm-rf /\nls /", ""},
		{"M\n!mkdir -p d/e; echo hi > d/e/f\ncopy-in d d/e /\ncat /d/e/f\ncat /e/f", "hi\nhi\n"},
		{"M\nmkdir-p /d/e\nwrite /d/e/f hi\n!mkdir out\ncopy-out /d out\n!cat out/d/e/f", "hi"},
		{"M\nwrite /f 'some text'\ncompress-out gzip /f ./f.gz\n!gunzip f.gz; cat f", "some text"},
		{"M\nwrite /f 'a b'\ncat /f | read x y; echo $y", "b\n"},
		{"!echo 'echo one' > c; echo 'echo two' >> c\n<!cat c", "one\ntwo\n"},
		{"<!printf 'upload -<<E ./x\\nin here\\nE\\n'\n!cat x", "in here\n"},
		{"!seq 3 | wc -l; seq 5 -2 1 | head -n 2; echo a:b:c | cut -d: -f2-; echo 'x1y' | grep -o '[0-9]\\+'; basename /a/b.c .c; dirname /a/b", "3\n5\n3\nb:c\n1\nb\n/a\n"},
		{"!printf 'a\\nB\\n' > f; grep -i b f; grep -c . f; grep -v a f; if grep -q z f; then echo bad; fi; unix2dos f; wc -c f", "B\n2\nB\n6 f\n"},
		{"!source ./none || echo failed; f() { echo in f $1; }; f x; let n=2+3; echo $n; [[ abc =~ b ]] && echo match > /dev/null && echo yes", "s"},
		{"!/bin/cat /dev/null; exit 0", ""},
		{"M\nln-s /f /abs\nwrite /f root\ncat /abs", "root"},
		{"-nonsense\n-!false\necho on", "plan script s line 1: nonsense: unknown command (ignored)\nplan script s line 2: shell: exit status 1 (ignored)\non\n"},
		{"inspect-os", ""},
	} {
		s, _, out := newSession(t)
		script := strings.Replace(tt.script, "M\n", "mount /dev/sda1 /\n", 1)
		err := runSession(t, s, script)
		if tt.want == "s" { // bash: the message about the missing file is the library's
			if err != nil || !strings.HasSuffix(out.String(), "failed\nin f x\n5\nyes\n") {
				t.Errorf("%q: %v, output %q", tt.script, err, out)
			}
			continue
		}
		if err != nil || out.String() != tt.want {
			t.Errorf("%q: %v, output %q, want %q", tt.script, err, out, tt.want)
		}
	}
}

func TestWordsThatFail(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{"M\nmkdir /a/b", "mkdir: /a/b: no such file or directory"},
		{"M\nmkdir /a\nmkdir /a", "mkdir: /a: file exists"},
		{"M\nmkdir /a\nrm /a", "rm: /a: is a directory"},
		{"M\ncat /", "cat: /: is a directory"},
		{"M\nrm /..", "rm: /..: not allowed for the root directory"},
		{"M\nupload none /x", "upload: scratch file none: no such file or directory"},
		{"M\nupload ../../../../etc/passwd /x", "upload: scratch file ../../../../etc/passwd: no such file or directory"},
		{"M\nchmod rwx /", `chmod: mode "rwx" is not octal`},
		{"M\ncopy-in x /none", "copy-in: /none: no such directory in the volume"},
		{"M\ncopy-out / none", "copy-out: scratch file none: no such directory; make it with !mkdir"},
		{"M\nmkdir /a\ncp-a /a /a/b", "cp-a: /a/b: is /a itself, or inside it"},
		{"M\nwrite /a x\ncp /a /a", "cp: /a: is /a itself, or inside it"},
		{"M\ncompress-out xz /a ./b", "compress-out: method xz is not supported; use gzip"},
		{"M\nmount /dev/sda1 /", "mount: /dev/sda1 is mounted on / already"},
		{"M\nmkdir /x\nmount /dev/sda1 /x", "mount: /dev/sda1 is mounted already, on /"},
		{"M\nln-s / /x\nmount /dev/sda2 /x", "mount: /x is no directory"},
		{"mount /dev/sda2 /x", "mount: nothing is mounted; write a line such as mount /dev/sda1 / before it"},
		{"mount /dev/sda4 /", "mount: /dev/sda4: file system ntfs cannot be mounted here; personalise by files on the EFI partition (vfat)"},
		{"mount /dev/sda5 /", "mount: /dev/sda5: no file system found there"},
		{"mount /dev/rhel/root /", "mount: /dev/rhel/root: no such device; the volume has /dev/sda, /dev/sda1, /dev/sda2, /dev/sda3, /dev/sda4, /dev/sda5"},
		{"umount /", "umount: /: not mounted"},
		{"M\nmkdir /x\nmount /dev/sda2 /x\numount /", "umount: /: /dev/sda2 is mounted below it"},
		{"M\ncat /none | cat", "cat: /none: no such file or directory"},
		{"!./none", "shell: exit status 127 (command not found: ./none)"},
		{"!cat /dev/sda", "shell: exit status 1"},
		{"<!echo '\"'", "output line 1: a double quote is not closed"},
		{"glob rm", ""},
		{"glob glob rm /x", "glob: usage: glob COMMAND PATTERNS"},
	} {
		s, _, _ := newSession(t)
		err := runSession(t, s, strings.Replace(tt.script, "M\n", "mount /dev/sda1 /\n", 1))
		var re *RunError
		if !errors.As(err, &re) || tt.want != "" && re.Msg != tt.want {
			t.Errorf("%q: %v, want %q", tt.script, err, tt.want)
		}
	}
}

func TestSessionUnmountsWhatIsLeft(t *testing.T) {
	s, m, _ := newSession(t)
	if err := runSession(t, s, "mount /dev/sda1 /\nmkdir /x\nmount /dev/sda2 /x\nnonsense"); err == nil {
		t.Error("the plan succeeded")
	}
	want := []string{"mount /dev/sda1 vfat vol", "mount /dev/sda2 ext4 x", "unmount x", "unmount vol"}
	if diff := cmp.Diff(want, m.log); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	s, m, _ = newSession(t)
	m.busy = true
	if err := runSession(t, s, "mount /dev/sda1 /"); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("a plan whose file system stays mounted = %v", err)
	}
}

func TestFileSystemSigns(t *testing.T) {
	le := binary.LittleEndian
	ext := func(compat, incompat, ro uint32) func(b []byte) {
		return func(b []byte) {
			le.PutUint16(b[1024+0x38:], 0xef53)
			le.PutUint32(b[1024+0x5c:], compat)
			le.PutUint32(b[1024+0x60:], incompat)
			le.PutUint32(b[1024+0x64:], ro)
		}
	}
	fat := func(b []byte) {
		copy(b, []byte{0xeb, 0x58, 0x90})
		le.PutUint16(b[11:], 512)
		b[13], b[16], b[21], b[510], b[511] = 1, 2, 0xf8, 0x55, 0xaa
		le.PutUint16(b[14:], 32)
	}
	put := func(off int, s string) func(b []byte) { return func(b []byte) { copy(b[off:], s) } }
	for _, tt := range []struct {
		want string
		edit func(b []byte)
	}{
		{"", func([]byte) {}},
		{"", func(b []byte) { b[510], b[511] = 0x55, 0xaa }}, // a partition table
		{"vfat", fat},
		{"ntfs", func(b []byte) { fat(b); copy(b[3:], "NTFS    ") }},
		{"xfs", put(0, "XFSB")},
		{"btrfs", put(65536+64, "_BHRfS_M")},
		{"swap", put(4086, "SWAPSPACE2")},
		{"LVM2_member", func(b []byte) { copy(b[512:], "LABELONE"); copy(b[512+24:], "LVM2 001") }},
		{"ext2", ext(0, 2, 3)},
		{"ext3", ext(4, 2, 3)},
		{"ext4", ext(4, 0x242, 3)},
	} {
		b := make([]byte, 128<<10)
		tt.edit(b)
		if got := FileSystem(bytes.NewReader(b)); got != tt.want {
			t.Errorf("FileSystem of %s = %q", tt.want, got)
		}
	}
	if got := FileSystem(strings.NewReader("short")); got != "" {
		t.Errorf("FileSystem of five bytes = %q", got)
	}
}
