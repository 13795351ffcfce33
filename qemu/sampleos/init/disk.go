package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the partitions in the GPT, as the builder writes them.
const (
	espName  = "sample-esp"
	rootName = "sample-root"
	workName = "sample-work"
)

// disk holds the kernel names of the volume's partitions, such as "sda2".
type disk struct{ ESP, Root, Work string }

// waitDisk waits for the three partitions of the volume on one disk whose
// kernel name begins with prefix.
func waitDisk(root, prefix string, limit time.Duration) (disk, error) {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		d, err := findDisk(root, prefix)
		if err == nil || time.Now().After(end) {
			return d, err
		}
	}
}

func findDisk(root, prefix string) (disk, error) {
	uevents, err := filepath.Glob(filepath.Join(root, "sys/class/block", prefix+"*", "uevent"))
	if err != nil {
		return disk{}, err
	}
	var d disk
	for _, file := range uevents {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // gone again
		}
		dev := filepath.Base(filepath.Dir(file))
		switch partName(string(b)) {
		case espName:
			d.ESP = dev
		case rootName:
			d.Root = dev
		case workName:
			d.Work = dev
		}
	}
	if d.ESP == "" || d.Root == "" || d.Work == "" {
		return d, fmt.Errorf("no disk %s* holds the partitions %s, %s and %s", prefix, espName, rootName, workName)
	}
	return d, nil
}

// partName takes PARTNAME out of a uevent file.
func partName(uevent string) string {
	for line := range strings.Lines(uevent) {
		if name, ok := strings.CutPrefix(line, "PARTNAME="); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}
