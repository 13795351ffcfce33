package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Flavours of Debian's kernel.
const (
	FlavourGeneric = "amd64"       // all drivers: appliances
	FlavourCloud   = "cloud-amd64" // virtual machines only: the sample OS
)

// KernelPackage is the meta package of a flavour, a name for FetchDebs.
func KernelPackage(flavour string) string { return "linux-image-" + flavour }

// A Kernel is a Debian kernel package, opened.
type Kernel struct {
	Version string // the release, as uname -r prints it
	BzImage []byte
	Config  Config

	deb     *Deb
	modules moduleIndex
}

// Config is a kernel's configuration: CONFIG_EXT4_FS is "m" or "y" or absent.
type Config map[string]string

// KernelFromDeb opens the kernel package at path. The first call unpacks it
// beside the file, which takes half a minute; the next ones take milliseconds.
func KernelFromDeb(path string) (*Kernel, error) {
	deb, err := OpenDeb(path)
	if err != nil {
		return nil, err
	}
	k := &Kernel{deb: deb}
	if err := k.load(); err != nil {
		return nil, fmt.Errorf("kernel package %s: %w", filepath.Base(path), err)
	}
	return k, nil
}

func (k *Kernel) load() error {
	found, err := k.deb.Glob("boot/vmlinuz-*")
	if err != nil || len(found) != 1 {
		return fmt.Errorf("%d files boot/vmlinuz-*, want one", len(found))
	}
	k.Version = strings.TrimPrefix(found[0], "boot/vmlinuz-")
	if k.BzImage, err = os.ReadFile(filepath.Join(k.deb.Root, found[0])); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(k.deb.Root, "boot/config-"+k.Version))
	if err != nil {
		return err
	}
	k.Config = parseConfig(string(text))
	k.modules, err = k.indexModules()
	return err
}

func parseConfig(text string) Config {
	config := make(Config)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(key, "CONFIG_") {
			config[key] = strings.Trim(value, `"`)
		}
	}
	return config
}

// DebVersion is the version of the package, as opposed to the kernel's release.
func (k *Kernel) DebVersion() string { return k.deb.Version }

// Vmlinux is ExtractVmlinux of the kernel, kept beside the unpacked package
// for the next call.
func (k *Kernel) Vmlinux() ([]byte, error) {
	kept := filepath.Join(filepath.Dir(k.deb.Root), "vmlinux")
	data, err := os.ReadFile(kept)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = ExtractVmlinux(k.BzImage); err != nil {
		return nil, err
	}
	return data, replaceFile(kept, data)
}
