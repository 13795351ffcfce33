package hw

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree writes files below a new root.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestReadDiskStat(t *testing.T) {
	warm := 41.85
	root := tree(t, map[string]string{
		"sys/block/sda/stat":                            "     100        0     2048      10       50        0     4096       20        0     1500       30        0        0        0        0\n",
		"sys/block/sda/device/state":                    "running\n",
		"sys/block/sda/device/ioerr_cnt":                "0x1f\n",
		"sys/block/sda/device/hwmon/hwmon2/temp1_input": "41850\n",
		"sys/block/vda/stat":                            "1 2 3 4 5 6 7 8 9 10 11\n",
		"sys/block/bad/stat":                            "1 2 x\n",
	})
	for name, want := range map[string]DiskStat{
		"sda": {Reads: 100, ReadBytes: 1 << 20, Writes: 50, WrittenBytes: 2 << 20, BusySeconds: 1.5, Errors: 31, Celsius: &warm, State: "running"},
		"vda": {Reads: 1, ReadBytes: 1536, Writes: 5, WrittenBytes: 3584, BusySeconds: 0.01, Errors: -1},
	} {
		got, err := ReadDiskStat(root, name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	for _, name := range []string{"bad", "gone"} {
		if _, err := ReadDiskStat(root, name); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReadLinkStat(t *testing.T) {
	root := tree(t, map[string]string{
		"sys/class/net/eth0/carrier": "1\n", "sys/class/net/eth0/carrier_changes": "3\n", "sys/class/net/eth0/speed": "-1\n",
		"sys/class/net/eth0/statistics/rx_bytes": "10\n", "sys/class/net/eth0/statistics/tx_bytes": "20\n",
		"sys/class/net/eth0/statistics/rx_dropped": "5\n", "sys/class/net/eth0/statistics/tx_errors": "7\n",
	})
	got, err := ReadLinkStat(root, "eth0")
	want := LinkStat{Carrier: true, CarrierChanges: 3, ReceivedBytes: 10, SentBytes: 20, ReceiveDropped: 5, SendErrors: 7}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
