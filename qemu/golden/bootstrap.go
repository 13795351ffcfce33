package golden

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bootstrap is one run of mmdebstrap.
type bootstrap struct {
	work string // folder for the files laid under the packages
	root string // where the system goes
	log  string // file that keeps the output
}

// run installs the packages in b.root and tells progress the part that is
// done, from 0 to 1.
func (b bootstrap) run(ctx context.Context, progress func(float64)) error {
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("install the package mmdebstrap: %w", err)
	}
	sources, err := aptSources("/")
	if err != nil {
		return err
	}
	early := filepath.Join(b.work, "early")
	if err := layFiles(rootfs, "rootfs/early", early); err != nil {
		return err
	}
	log, err := os.Create(b.log)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.CommandContext(ctx, program, b.args(aptProxies(ctx))...)
	cmd.Env = append(os.Environ(), "BAYSTREAM_EARLY="+early, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdin = strings.NewReader(sources)
	// mmdebstrap unmounts what it mounted when it is asked to end.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	tail := make(chan []string)
	go func() { tail <- watch(io.TeeReader(r, log), progress) }()
	err = cmd.Run()
	w.Close()
	last := <-tail
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w; the whole output is in %s and ends:\n%s", err, b.log, strings.Join(last, "\n"))
	}
	return nil
}

func (b bootstrap) args(proxies []string) []string {
	args := []string{
		"--verbose", "--mode=root", "--variant=minbase", "--format=directory", "--architectures=amd64",
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		// In place before the packages: their scripts make the initramfs.
		`--essential-hook=cp -RT --no-preserve=ownership "$BAYSTREAM_EARLY" "$1"`,
	}
	for _, o := range dpkgOptions {
		args = append(args, "--dpkgopt="+o)
	}
	for _, p := range proxies {
		args = append(args, "--aptopt="+p)
	}
	return append(args, Suite, b.root, "-")
}

// aptProxies returns the machine's proxy settings: mmdebstrap starts from an
// empty apt configuration.
func aptProxies(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil
	}
	var proxies []string
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, " ")
		if strings.HasPrefix(name, "Acquire::") && strings.Contains(name, "::Proxy") && !strings.Contains(line, `""`) {
			proxies = append(proxies, strings.TrimRight(strings.TrimSpace(line), ";"))
		}
	}
	return proxies
}

// expectedLines is about how many packages are fetched, unpacked and set up;
// only the progress depends on it.
const expectedLines = 3 * 160

// watch follows the output and returns its last lines.
func watch(r io.Reader, progress func(float64)) []string {
	var tail []string
	n := 0
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if tail = append(tail, line); len(tail) > 15 {
			tail = slices.Delete(tail, 0, 1)
		}
		for _, p := range []string{"Get:", "Unpacking ", "Setting up "} {
			if strings.HasPrefix(line, p) {
				n++
				progress(min(float64(n)/expectedLines, 1))
			}
		}
	}
	io.Copy(io.Discard, r) // a line too long must not stop the writer
	return tail
}

// layFiles writes the tree dir of files below root. Scripts, which begin with
// "#!", become executable; the rest is readable by all.
func layFiles(files fs.FS, dir, root string) error {
	return fs.WalkDir(files, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		to := filepath.Join(root, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := fs.ReadFile(files, p)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(string(b), "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(to, b, mode); err != nil {
			return err
		}
		return os.Chmod(to, mode) // the file may have been there, the umask may be strict
	})
}
