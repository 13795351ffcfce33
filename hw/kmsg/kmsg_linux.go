// Package kmsg follows the kernel's log, for what the kernel tells nowhere else:
// that a disk ended a command in an error.
package kmsg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Follow calls each with the text of every message that the kernel logged since it
// started, as far as its ring has them, and then of each new one, until ctx ends.
// They are read below root (dev/kmsg, Documentation/ABI/testing/dev-kmsg).
func Follow(ctx context.Context, root string, each func(text string)) error {
	f, err := os.OpenFile(filepath.Join(root, "dev/kmsg"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("kernel log: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	buf := make([]byte, 8<<10) // the kernel gives one record at a time
	for {
		n, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EPIPE): // some were overwritten before they were read
			continue
		case err != nil:
			return fmt.Errorf("kernel log: %w", err)
		}
		if text, ok := parse(string(buf[:n])); ok {
			each(text)
		}
	}
}

// facilityShift is where a record's prefix has the facility; 0 is the kernel's.
const facilityShift = 3

// parse takes the text out of a record: "PREFIX,SEQUENCE,TIME,FLAGS[,...];TEXT",
// then lines of keys. Programs write to the log too; only the kernel's word counts.
func parse(record string) (text string, ok bool) {
	head, rest, ok := strings.Cut(record, ";")
	var prefix int
	if _, err := fmt.Sscanf(head, "%d,", &prefix); !ok || err != nil || prefix>>facilityShift != 0 {
		return "", false
	}
	text, _, _ = strings.Cut(rest, "\n")
	return text, true
}

// DiskError finds the disk that a message of the block layer complains of
// ("I/O error, dev vda, sector 8 ...", blk_print_req_error).
func DiskError(text string) (disk string, ok bool) {
	_, rest, ok := strings.Cut(text, " error, dev ")
	disk, rest, found := strings.Cut(rest, ", sector ")
	if !ok || !found || rest == "" || disk == "" || strings.ContainsAny(disk, " /") {
		return "", false
	}
	return disk, true
}
