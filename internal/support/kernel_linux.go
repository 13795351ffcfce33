package support

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLog reads the kernel's log (syslog(2), SYSLOG_ACTION_READ_ALL).
func kernelLog(context.Context) ([]byte, error) {
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return nil, fmt.Errorf("kernel log: %w", err)
	}
	b := make([]byte, n)
	n, err = unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil {
		return nil, fmt.Errorf("kernel log: %w", err)
	}
	return b[:n], nil
}

// deviceMapper tells of the mapped devices what sysfs has.
func deviceMapper(root string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		found, err := filepath.Glob(filepath.Join(root, "sys/block/dm-*"))
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		for _, dir := range found {
			fmt.Fprintf(&out, "%s", filepath.Base(dir))
			for _, attr := range []string{"dm/name", "dm/uuid", "dm/suspended", "size", "ro", "stat", "inflight"} {
				b, err := readSome(filepath.Join(dir, attr), 4096)
				if err == nil {
					fmt.Fprintf(&out, "  %s=%s", filepath.Base(attr), strings.Join(strings.Fields(string(b)), ","))
				}
			}
			slaves, _ := os.ReadDir(filepath.Join(dir, "slaves"))
			for _, s := range slaves {
				fmt.Fprintf(&out, "  on=%s", s.Name())
			}
			out.WriteByte('\n')
		}
		return out.Bytes(), nil
	}
}
