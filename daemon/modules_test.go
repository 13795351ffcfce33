package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestModuleFilesAreInLoadingOrder(t *testing.T) {
	got := moduleFiles("kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\nkernel/lib/crc16.ko:\nkernel/crypto/crc32c-intel.ko.xz:\n")
	want := map[string][]string{
		"ext4":         {"kernel/lib/crc16.ko", "kernel/fs/jbd2/jbd2.ko", "kernel/fs/ext4/ext4.ko"},
		"crc16":        {"kernel/lib/crc16.ko"},
		"crc32c_intel": {"kernel/crypto/crc32c-intel.ko.xz"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestHasModule(t *testing.T) {
	const proc = "crc32c_intel 24576 2 - Live 0x0\next4 1089536 1 - Live 0x0\n"
	for name, want := range map[string]bool{"crc32c-intel": true, "ext4": true, "ext": false, "32c_intel": false} {
		if got := hasModule(proc, name); got != want {
			t.Errorf("hasModule(%s) = %v", name, got)
		}
	}
}
