package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel is configfs itself, below /sys/kernel/config/target.
type kernel struct{ root string }

func openKernel(root string) (kernel, error) {
	if _, err := os.Stat(root); err != nil {
		return kernel{}, fmt.Errorf("%w: load target_core_mod and mount configfs", err)
	}
	k := kernel{root}
	// The fabric and the backstore's adapter appear by mkdir, once. The kernel
	// keeps persistent reservations below /var/target (DB_ROOT_DEFAULT) and
	// complains when its folders are missing.
	for _, d := range []string{"/var/target/alua", "/var/target/pr"} {
		_ = os.MkdirAll(d, 0o755)
	}
	for _, d := range []string{"iscsi", hba} {
		if err := k.Mkdir(d); err != nil && !errors.Is(err, os.ErrExist) {
			return kernel{}, fmt.Errorf("%w: load iscsi_target_mod and target_core_iblock", err)
		}
	}
	return k, nil
}

func (k kernel) path(p string) string { return filepath.Join(k.root, p) }

func (k kernel) Mkdir(d string) error { return os.Mkdir(k.path(d), 0o755) }

func (k kernel) Remove(d string) error { return unixError("rmdir", d, unix.Rmdir(k.path(d))) }

func (k kernel) Write(attr, value string) error {
	f, err := os.OpenFile(k.path(attr), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Read returns an attribute. The kernel shows identity attributes with a label
// ("T10 VPD Unit Serial Number: x"): the label goes.
func (k kernel) Read(attr string) (string, error) {
	b, err := os.ReadFile(k.path(attr))
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\n")
	if strings.Contains(attr, "/wwn/") {
		if _, v, ok := strings.Cut(s, ": "); ok {
			s = v
		}
	}
	return s, nil
}

func (k kernel) Link(to, from string) error { return os.Symlink(k.path(to), k.path(from)) }

func (k kernel) Unlink(l string) error { return unixError("unlink", l, unix.Unlink(k.path(l))) }

// Readlink answers the link's end relative to the root. Configfs shows links
// as relative paths.
func (k kernel) Readlink(l string) (string, error) {
	to, err := os.Readlink(k.path(l))
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(k.path(l)), to)
	}
	return filepath.Rel(k.root, to)
}

func (k kernel) List(d string) ([]string, error) {
	es, err := os.ReadDir(k.path(d))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range es {
		if e.Type().IsRegular() {
			continue // attributes
		}
		out = append(out, e.Name())
	}
	return out, nil
}

func unixError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

func busy(err error) bool {
	return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY)
}
