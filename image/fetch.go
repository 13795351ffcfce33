package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPackages is in the chain of an error that means this machine cannot
// obtain Debian packages: apt is missing, has no lists, or cannot download.
// Tests skip on it.
var ErrNoPackages = errors.New("no Debian packages to be had")

// A pin says which file a package name stands for in a cache folder.
type pin struct {
	Package string `json:"package"` // the real one, when the name was a meta package
	Version string `json:"version"`
	File    string `json:"file"` // in the cache folder
	Size    int64  `json:"size"` // bytes
	SHA256  string `json:"sha256"`
}

const pinsFile = "pins.json"

// FetchDebs returns the path of a package file in cacheDir for each name. What
// is not there yet is downloaded with apt-get, which needs no root and
// installs nothing, and compared with the size and SHA-256 in apt's signed
// package lists.
//
// The cache pins: a name keeps its version until RefreshDebs is called or the
// folder is removed, so that a build repeats. Files are hashed again at each
// call. A kernel's meta package (linux-image-amd64) stands for the newest
// kernel it depends on.
func FetchDebs(ctx context.Context, cacheDir string, names ...string) (map[string]string, error) {
	return fetchDebs(ctx, cacheDir, false, names)
}

// RefreshDebs is FetchDebs with the versions that apt's lists name now.
func RefreshDebs(ctx context.Context, cacheDir string, names ...string) (map[string]string, error) {
	return fetchDebs(ctx, cacheDir, true, names)
}

func fetchDebs(ctx context.Context, cacheDir string, refresh bool, names []string) (map[string]string, error) {
	unlock, err := lockDir(cacheDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	pins, err := readPins(cacheDir)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, name := range names {
		if p, ok := pins[name]; refresh || !ok || p.check(cacheDir) != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		fresh, err := download(ctx, cacheDir, missing)
		if err != nil {
			return nil, err
		}
		for name, p := range fresh {
			pins[name] = p
		}
		if err := writePins(cacheDir, pins); err != nil {
			return nil, err
		}
	}
	paths := make(map[string]string)
	for _, name := range names {
		paths[name] = filepath.Join(cacheDir, pins[name].File)
	}
	return paths, nil
}

func readPins(dir string) (map[string]pin, error) {
	pins := make(map[string]pin)
	text, err := os.ReadFile(filepath.Join(dir, pinsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return pins, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &pins)
	}
	if err != nil {
		return nil, fmt.Errorf("package cache: %w (remove %s to start again)", err, dir)
	}
	return pins, nil
}

func writePins(dir string, pins map[string]pin) error {
	text, err := json.MarshalIndent(pins, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, pinsFile), append(text, '\n'))
}

// check compares the file in dir with the pin.
func (p pin) check(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, p.File))
	if err != nil {
		return err
	}
	if int64(len(data)) != p.Size {
		return fmt.Errorf("%s: %d bytes, the package lists say %d", p.File, len(data), p.Size)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 {
		return fmt.Errorf("%s: SHA-256 differs from the package lists", p.File)
	}
	return nil
}

func download(ctx context.Context, dir string, names []string) (map[string]pin, error) {
	pins, err := candidates(ctx, names)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, ".download-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	args := []string{"-q", "download"}
	for _, name := range names {
		p := pins[name]
		if p.check(dir) != nil {
			args = append(args, p.Package+"="+p.Version)
		}
	}
	if len(args) > 2 {
		if _, err := apt(ctx, tmp, "apt-get", args...); err != nil {
			return nil, err
		}
	}
	return pins, settle(tmp, dir, pins)
}

// settle moves the files that apt-get downloaded to tmp into the cache, each
// under the name of its pin.
func settle(tmp, dir string, pins map[string]pin) error {
	for _, p := range pins {
		// apt-get writes the colon of an epoch as %3a.
		got := filepath.Join(tmp, strings.ReplaceAll(p.File, ":", "%3a"))
		if _, err := os.Stat(got); err == nil {
			if err := os.Rename(got, filepath.Join(dir, p.File)); err != nil {
				return err
			}
		}
		if err := p.check(dir); err != nil {
			return fmt.Errorf("download of %s: %w (run apt-get update)", p.Package, err)
		}
	}
	return nil
}

// candidates asks apt's lists which version each name stands for.
func candidates(ctx context.Context, names []string) (map[string]pin, error) {
	found, err := showPackages(ctx, names)
	if err != nil {
		return nil, err
	}
	pins := make(map[string]pin)
	for _, name := range names {
		fields, ok := found[name]
		if ok && isKernelMeta(name) {
			real, err := kernelBehind(fields)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			more, err := showPackages(ctx, []string{real})
			if err != nil {
				return nil, err
			}
			fields, ok = more[real]
		}
		if !ok {
			return nil, fmt.Errorf("package %s: not in apt's lists (run apt-get update): %w", name, ErrNoPackages)
		}
		p, err := pinOf(fields)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", name, err)
		}
		pins[name] = p
	}
	return pins, nil
}

// isKernelMeta tells linux-image-amd64 from linux-image-6.1.0-56-amd64.
func isKernelMeta(name string) bool {
	rest, ok := strings.CutPrefix(name, "linux-image-")
	return ok && rest != "" && (rest[0] < '0' || rest[0] > '9')
}

func kernelBehind(fields map[string]string) (string, error) {
	for dep := range strings.SplitSeq(fields["Depends"], ",") {
		if name, _, _ := strings.Cut(strings.TrimSpace(dep), " "); strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("depends on no kernel (%q)", fields["Depends"])
}

func pinOf(fields map[string]string) (pin, error) {
	size, err := strconv.ParseInt(fields["Size"], 10, 64)
	if err != nil || len(fields["SHA256"]) != 2*sha256.Size {
		return pin{}, errors.New("apt's lists give no size or SHA-256")
	}
	return pin{
		Package: fields["Package"],
		Version: fields["Version"],
		File:    fields["Package"] + "_" + fields["Version"] + "_" + fields["Architecture"] + ".deb",
		Size:    size,
		SHA256:  fields["SHA256"],
	}, nil
}

// showPackages is the stanza of each package's candidate version.
func showPackages(ctx context.Context, names []string) (map[string]map[string]string, error) {
	out, err := apt(ctx, "", "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...)
	if err != nil {
		return nil, err
	}
	return parseStanzas(out, names), nil
}

// parseStanzas reads apt-cache's output. A package that is installed may come
// twice, once from dpkg's status, which knows no hash: that one is skipped.
func parseStanzas(out []byte, names []string) map[string]map[string]string {
	found := make(map[string]map[string]string)
	for stanza := range bytes.SplitSeq(out, []byte("\n\n")) {
		fields := parseFields(string(stanza))
		name := fields["Package"]
		if _, dup := found[name]; !dup && fields["SHA256"] != "" && slices.Contains(names, name) {
			found[name] = fields
		}
	}
	return found
}

func apt(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w: %s", program, args[0], ErrNoPackages, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// replaceFile writes a file that is there whole or not at all.
func replaceFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
