package netcfg

import (
	"os"
	"testing"

	"baystream/internal/vmtest"
)

var vmModules = []string{"bonding max_bonds=0", "8021q", "veth", "bridge", "af_packet"}

// TestInVM runs what needs bonds and VLANs, which this machine's kernel may not
// have, in a VM with Debian's: the kernel's half of this package, the bond with
// probes, and LACP.
func TestInVM(t *testing.T) {
	vmtest.Run(t, vmtest.Config{
		Package: "baystream/netcfg", Run: "^(TestSync|TestGuest|TestAnnounce)", Modules: vmModules, Memory: 256, Virtual: true,
	})
}

// TestBenchInVM measures how long a bond's traffic stops. It is for bench, which
// reads the console.
func TestBenchInVM(t *testing.T) {
	if os.Getenv("BAYSTREAM_BENCH") == "" {
		t.Skip("measures: run make bench")
	}
	vmtest.Run(t, vmtest.Config{
		Package: "baystream/netcfg", Run: "^TestGuestFailover$", Modules: vmModules, Memory: 256, Virtual: true,
		Env: []string{"BAYSTREAM_BENCH=1"},
	})
}
