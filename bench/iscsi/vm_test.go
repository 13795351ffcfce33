package iscsi

import (
	"os"
	"testing"

	"baystream/internal/vmtest"
)

// TestBenchInVM is for `make bench`: it skips unless BAYSTREAM_BENCH is set.
func TestBenchInVM(t *testing.T) {
	if os.Getenv("BAYSTREAM_BENCH") == "" {
		t.Skip("measures: set BAYSTREAM_BENCH=1")
	}
	vmtest.Run(t, vmtest.Config{
		Package: "baystream/bench/iscsi",
		Run:     "^TestGuestISCSI$",
		Env:     []string{"BAYSTREAM_BENCH=1"},
		Modules: []string{
			"brd rd_nr=2 rd_size=786432", "dm-mod", "dm-thin-pool", "configfs", "drbd",
			"target_core_mod", "target_core_iblock", "iscsi_target_mod", "crc32c_generic",
			"sd_mod", "iscsi_tcp",
		},
		Tools: map[string]string{
			"/sbin/iscsistart": "open-iscsi",
			"/usr/sbin/tgtd":   "tgt",
			"/usr/sbin/tgtadm": "tgt",
		},
		Debs: []string{"libopeniscsiusr", "libisns0", "libssl3", "libkmod2", "libmount1", "libblkid1", "libselinux1",
			"libpcre2-8-0", "libsystemd0", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5", "libzstd1",
			"libaio1", "libibverbs1", "librdmacm1", "libnl-3-200", "libnl-route-3-200"},
		Memory:  1536,
		Virtual: true,
	})
}
