// Package golden builds the golden image of the demo: a real Debian 12, from
// Debian's packages as they are, that boots from its OS volume by UEFI and
// takes its personality from its EFI partition.
//
// Debian makes the image file: mmdebstrap installs the packages with the
// machine's own apt sources, the files of rootfs/ are laid over them, and
// kernel, initramfs and command line become one UEFI program on the ESP. The
// result is kept in a cache folder under a hash of all that went in, so a
// second call costs nothing. PlanScript is the other half: run on a clone of
// the image it leaves what rootfs/late/usr/lib/baystream/personality reads.
//
// The image shows on its serial console, before the log-in prompt, the lines
//
//	BAYSTREAM PERSONALITY hostname=H address=A key=SHA256:... hostkey=SHA256:...
//	BAYSTREAM BOOT n=2 id=BOOT-ID previous=BOOT-ID
//
// and nobody can log in with a password: the user admin has the keys given by
// the personality, and may use sudo.
//
// Golden owns its cache folder. Building needs root (packages are configured
// in a chroot) and may run more than once at a time.
package golden

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"baystream/image"
)

// Suite is the Debian release inside the image.
const Suite = "bookworm"

const (
	rootLabel = "debian"
	espName   = "BAYSTREAM" // in the GPT; rootfs/late names it too
	espSize   = 64 << 20
	rootSize  = 1 << 30
	// recipe changes whenever the same inputs would give another image.
	recipe = "2"

	cmdline = "root=LABEL=" + rootLabel + " ro rootfstype=ext4 net.ifnames=0 console=tty0 console=ttyS0,115200n8 loglevel=4"
)

// packages go on top of mmdebstrap's minbase, without what they recommend.
var packages = []string{
	"systemd-sysv", "udev", "kmod", "dbus", "login", "linux-image-cloud-amd64", "initramfs-tools", "zstd",
	"open-iscsi", "iproute2", "openssh-server", "sudo", image.StubPackage,
}

// dpkgOptions leave out what a server without a reader does not need.
var dpkgOptions = []string{
	"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/locale/*",
	"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
}

//go:embed all:rootfs
var rootfs embed.FS

// Debian writes the golden image to outFile, compressed with zstd. Progress,
// which may be nil, hears what is being done and how much of the whole is
// behind, from 0 to 1.
//
// The errors say what to install or to change: no root, no mmdebstrap, no
// apt sources for the suite. After a failed installation its output is in
// cacheDir/debian-build.log.
func Debian(ctx context.Context, cacheDir, outFile string, progress func(step string, done float64)) error {
	if progress == nil {
		progress = func(string, float64) {}
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return err
	}
	key, err := cacheKey(rootfs)
	if err != nil {
		return err
	}
	cached := filepath.Join(cacheDir, "debian-12-"+key+".raw.zst")
	if _, err := os.Stat(cached); errors.Is(err, fs.ErrNotExist) {
		err = build(ctx, cacheDir, cached, progress)
		if err != nil {
			return fmt.Errorf("Debian golden image: %w", err)
		}
	} else if err != nil {
		return err
	}
	progress("golden image ready", 1)
	return place(cached, outFile)
}

// cacheKey is a hash of everything of ours that the image depends on. New
// versions in Debian's archive do not change it: delete the file to follow
// them.
func cacheKey(files fs.FS) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, recipe, Suite, espName, espSize, rootSize, cmdline, packages, dpkgOptions, masked, wanted)
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, p)
		fmt.Fprintf(h, "%s %d\n%s", p, len(b), b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

func build(ctx context.Context, cacheDir, outFile string, progress func(string, float64)) error {
	if os.Geteuid() != 0 {
		return errors.New("installing packages needs root: run this as root or with sudo")
	}
	work, err := os.MkdirTemp(cacheDir, "debian-work-")
	if err != nil {
		return err
	}
	defer removeTree(work)
	if work, err = filepath.Abs(work); err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	progress("installing Debian packages", 0)
	b := bootstrap{work: work, root: root, log: filepath.Join(cacheDir, "debian-build.log")}
	if err := b.run(ctx, func(done float64) { progress("installing Debian packages", 0.85*done) }); err != nil {
		return err
	}
	progress("writing settings", 0.85)
	if err := finish(root); err != nil {
		return err
	}
	progress("making the disk", 0.87)
	disk := filepath.Join(work, "disk.raw")
	if err := makeDisk(ctx, root, work, disk); err != nil {
		return err
	}
	progress("compressing", 0.92)
	part := filepath.Join(work, "disk.zst")
	if err := compress(ctx, disk, part); err != nil {
		return err
	}
	return os.Rename(part, outFile)
}

// compress writes the file in as zstd to out.
func compress(ctx context.Context, in, out string) error {
	src, err := os.Open(in)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(out)
	if err != nil {
		return err
	}
	defer dst.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	// Whoever unpacks it then knows the size of the disk beforehand.
	enc.ResetContentSize(dst, st.Size())
	if _, err := io.Copy(enc, contextReader{ctx, src}); err != nil {
		return fmt.Errorf("compress %s: %w", in, err)
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("compress %s: %w", in, err)
	}
	return dst.Sync()
}

// contextReader ends a copy when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// place makes out the same file as cached, by a link where it can.
func place(cached, out string) error {
	if a, err := os.Stat(cached); err == nil {
		if b, err := os.Stat(out); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	tmp := out + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(cached, tmp); err == nil {
		return os.Rename(tmp, out)
	}
	src, err := os.Open(cached)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return fmt.Errorf("copy golden image: %w", err)
	}
	return os.Rename(tmp, out)
}

// removeTree deletes dir unless something is still mounted below it, as a
// killed chroot might leave: deleting through a mount would reach the machine.
func removeTree(dir string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), " "+dir+"/") {
		return
	}
	os.RemoveAll(dir)
}
