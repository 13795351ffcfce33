package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A Manifest says what an image consists of. It holds no times and no paths
// of the machine that built it.
type Manifest struct {
	Version  string    `json:"version"` // of the appliance
	Kernel   string    `json:"kernel"`  // release, as uname -r
	Parts    []Part    `json:"parts"`
	Frames   []Frame   `json:"frames"` // of initramfs, in order
	Packages []Package `json:"packages"`
}

// A Part is one file of the image.
type Part struct {
	Name   string `json:"name"` // in the folder of the manifest
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// A Frame is one archive of the initramfs.
type Frame struct {
	Name      string `json:"name"`
	Size      int64  `json:"size"`      // bytes in the file
	PlainSize int64  `json:"plainSize"` // bytes unpacked
}

// A Package is a Debian package that went in.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// BootSize is the size in bytes of what is loaded to boot, bzImage and
// initramfs: the one that Limit limits.
func (m Manifest) BootSize() int64 {
	var sum int64
	for _, p := range m.Parts {
		if p.Name == partBzImage || p.Name == partInitramfs {
			sum += p.Size
		}
	}
	return sum
}

// Load finds the image that Build made in dir. It compares sizes, not hashes:
// a part that is missing or cut short is an error.
func Load(dir string) (*Built, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, fmt.Errorf("image in %s: %w (build one with mkimage -o)", dir, err)
	}
	for _, p := range m.Parts {
		info, err := os.Stat(filepath.Join(dir, p.Name))
		if err != nil {
			return nil, fmt.Errorf("image in %s: %w", dir, err)
		}
		if info.Size() != p.Size {
			return nil, fmt.Errorf("image in %s: %s has %d bytes, the manifest says %d", dir, p.Name, info.Size(), p.Size)
		}
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, partCmdline))
	if err != nil {
		return nil, fmt.Errorf("image in %s: %w", dir, err)
	}
	return &Built{
		Kernel:    filepath.Join(dir, partVmlinux),
		BzImage:   filepath.Join(dir, partBzImage),
		Initramfs: filepath.Join(dir, partInitramfs),
		Cmdline:   strings.TrimSpace(string(cmdline)),
		Manifest:  m,
	}, nil
}

func readManifest(dir string) (Manifest, error) {
	var m Manifest
	text, err := os.ReadFile(filepath.Join(dir, partManifest))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", partManifest, err)
	}
	return m, nil
}

// writeManifest is the last step of a build: with it the image is complete.
func writeManifest(dir string, m Manifest) error {
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, partManifest), append(text, '\n'))
}
