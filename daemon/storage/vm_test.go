package storage

import (
	"cmp"
	"os"
	"testing"

	"baystream/internal/vmtest"
)

// TestInVM runs this package's guest tests, which cover pool, mirror and
// target too, in one VM.
func TestInVM(t *testing.T) {
	vmtest.Run(t, vmtest.Config{
		Package: "baystream/daemon/storage",
		Run:     cmp.Or(os.Getenv("BAYSTREAM_GUEST"), "Guest"), // a pattern, while one of them is worked on
		Modules: vmModules,
		Tools: map[string]string{
			"/lib/drbd/drbdsetup-84": "drbd-utils",
			"/sbin/drbdmeta":         "drbd-utils",
			"/usr/sbin/pdata_tools":  "thin-provisioning-tools",
			"/usr/sbin/thin_check":   "thin-provisioning-tools",
			"/sbin/mke2fs":           "e2fsprogs",
			"/sbin/e2fsck":           "e2fsprogs",
			"/etc/mke2fs.conf":       "e2fsprogs",
		},
		Debs:   []string{"libstdc++6", "libgcc-s1", "libexpat1", "libext2fs2", "libcom-err2", "libblkid1", "libuuid1", "libss2", "libaio1"},
		Disks:  []int{4096, 64, 16},
		Memory: 768,
	})
}

var vmModules = []string{
	"virtio_pci", "virtio_blk", "dm-mod", "dm-thin-pool", "configfs", "drbd",
	"target_core_mod", "target_core_iblock", "iscsi_target_mod", "crc32c_generic", "ext4",
}
