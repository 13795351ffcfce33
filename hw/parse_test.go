package hw

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLocation(t *testing.T) {
	for _, tc := range []struct {
		in   string
		kind Kind
		n    int
	}{
		{"appliance bay 1", Appliance, 1},
		{"Interconnect  Bay 6", Interconnect, 6},
		{" DEVICE BAY 12\n", Device, 12},
		{"device bay 99", Device, 99},
		{"device bay 0", Unknown, 0},
		{"device bay 100", Unknown, 0},
		{"device bay -1", Unknown, 0},
		{"device bay +1", Unknown, 0},
		{"device bay", Unknown, 0},
		{"device bay 1 2", Unknown, 0},
		{"fan bay 1", Unknown, 0},
		{"unknown bay 1", Unknown, 0},
		{"Part Component", Unknown, 0},
		{"", Unknown, 0},
	} {
		kind, n := ParseLocation(tc.in)
		if kind != tc.kind || n != tc.n {
			t.Errorf("ParseLocation(%q) = %s, %d, want %s, %d", tc.in, kind, n, tc.kind, tc.n)
		}
	}
}

func TestBoardsThatDisagreeHaveNoPlace(t *testing.T) {
	b, err := bayOf(tables{location: []string{"Riser", "appliance bay 1", "appliance bay 2"}, chassis: "F1"})
	if err == nil || b.Kind != Unknown || b.Number != 0 {
		t.Errorf("bayOf = %v, %v, want an unknown bay and an error", b, err)
	}
	b, err = bayOf(tables{location: []string{"Riser", "appliance bay 1", "appliance bay 1"}, chassis: "F1"})
	if err != nil || b.String() != "appliance bay 1 of frame F1" || b.Location != "appliance bay 1" {
		t.Errorf("bayOf = %v, %v, want appliance bay 1 of frame F1", b, err)
	}
}

func TestParseSettings(t *testing.T) {
	for _, tc := range []struct {
		name string
		oem  []string
		want map[string]string
		err  string
	}{
		{"none", nil, map[string]string{}, ""},
		{"others' strings", []string{"Dell System", "vendor:a=b", "baystreamx:a=b"}, map[string]string{}, ""},
		{
			"ours", []string{"baystream:management=address:192.0.2.10/24,gateway:192.0.2.1", "x", "baystream:role=witness", "baystream:empty="},
			map[string]string{"management": "address:192.0.2.10/24,gateway:192.0.2.1", "role": "witness", "empty": ""}, "",
		},
		{"equals sign in the value", []string{"baystream:a=b=c"}, map[string]string{"a": "b=c"}, ""},
		{"the same twice", []string{"baystream:a=b", "baystream:a=b"}, map[string]string{"a": "b"}, ""},
		{"a clash", []string{"baystream:a=b", "baystream:a=c", "baystream:a=b", "baystream:z=1"}, map[string]string{"z": "1"}, "setting a: given more than once"},
		{"no value", []string{"baystream:a", "baystream:z=1"}, map[string]string{"z": "1"}, `"baystream:a"`},
		{"no key", []string{"baystream:=b"}, map[string]string{}, `"baystream:=b"`},
		{"capitals", []string{"baystream:Role=b"}, map[string]string{}, `"baystream:Role=b"`},
	} {
		got, err := ParseSettings(tc.oem)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", tc.name, diff)
		}
		if (tc.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.err)
		}
	}
}

func TestParseFields(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want map[string]string
		ok   bool
	}{
		{"", map[string]string{}, true},
		{"address:192.0.2.10/24,gateway:192.0.2.1", map[string]string{"address": "192.0.2.10/24", "gateway": "192.0.2.1"}, true},
		{" address:2001:db8::1/64 , mtu:9000", map[string]string{"address": "2001:db8::1/64", "mtu": "9000"}, true},
		{"vlan:1300,vlan:1301", nil, false},
		{"vlan", nil, false},
		{"vlan:1,", nil, false},
		{":1", nil, false},
	} {
		got, err := ParseFields(tc.in)
		if diff := cmp.Diff(tc.want, got); diff != "" || tc.ok != (err == nil) {
			t.Errorf("ParseFields(%q): error %v, ok %v (-want +got):\n%s", tc.in, err, tc.ok, diff)
		}
	}
}

// structure encodes an SMBIOS structure (DSP0134, 6.1.2 and 6.1.3).
func structure(kind byte, body []byte, strs ...string) []byte {
	b := append([]byte{kind, byte(4 + len(body)), 0, 0}, body...)
	for _, s := range strs {
		b = append(append(b, s...), 0)
	}
	if len(strs) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// sample is a table of the structures that we read.
func sample() []byte {
	uuid := []byte{0x3d, 0x2c, 0x1b, 0x5a, 1, 0, 0, 0x40, 0x80, 0, 0, 0, 0, 0, 0, 1}
	system := append(append([]byte{1, 2, 0, 3}, uuid...), 6, 0, 0)
	board := []byte{1, 2, 0, 0, 0, 9, 3, 0, 3, 10, 0}
	chassis := []byte{1, 1, 0, 2, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	var b []byte
	b = append(b, structure(1, system, "Maker", "Model", "S1")...)
	b = append(b, structure(2, board, "Maker", "Board", "appliance bay 2")...)
	b = append(b, structure(3, chassis, "Maker", "F1")...)
	b = append(b, structure(11, []byte{2}, "baystream:role=witness", "other", "beyond the count")...)
	return append(b, structure(127, nil)...)
}

func TestParseTables(t *testing.T) {
	want := tables{
		manufacturer: "Maker", product: "Model", serial: "S1",
		uuid:     "5a1b2c3d-0001-4000-8000-000000000001",
		location: []string{"appliance bay 2"}, chassis: "F1",
		oem: []string{"baystream:role=witness", "other"},
	}
	opt := cmp.AllowUnexported(tables{})
	got, err := parseTables(append(sample(), 0xff, 0xff, 0xff)) // padding after the end marker
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, got, opt); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	cut := sample()
	got, err = parseTables(cut[:len(cut)-20]) // within the OEM strings
	if err == nil {
		t.Error("a table that is cut off is no error")
	}
	want.oem = nil
	if diff := cmp.Diff(want, got, opt); diff != "" {
		t.Errorf("cut off (-want +got):\n%s", diff)
	}
	// Firmware's ways to say that there is no UUID.
	for _, fill := range []byte{0, 0xff} {
		body := []byte{0, 0, 0, 0}
		for range 16 {
			body = append(body, fill)
		}
		got, err := parseTables(structure(1, append(body, 6, 0, 0)))
		if err != nil || got.uuid != "" || got.serial != "" {
			t.Errorf("no UUID: %+v, %v, want none", got, err)
		}
	}
}

func TestPCISlots(t *testing.T) {
	slots := []slot{{1, "0000:01:00"}, {3, "0000:03:00"}, {7, "0000:07"}}
	for _, tc := range []struct {
		path string
		want int
	}{
		{"sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/virtio1", 1},
		{"sys/devices/pci0000:00/0000:00:02.0/0000:01:00.1", 1}, // second port
		{"sys/devices/pci0000:00/0000:00:04.0/0000:03:00.0/0000:04:01.0/0000:05:00.0", 3},
		{"sys/devices/pci0000:00/0000:00:05.0/0000:07:1f.2", 7}, // a whole bus
		{"sys/devices/pci0000:00/0000:00:03.0/virtio0", 0},      // on the board
		{"sys/devices/platform/ethernet", 0},
		{"", 0},
	} {
		if got := slotOf(slots, pciChain(tc.path)); got != tc.want {
			t.Errorf("slot of %s = %d, want %d", tc.path, got, tc.want)
		}
	}
}

func TestPhysicalDisk(t *testing.T) {
	const pci = "sys/devices/pci0000:00/0000:00:03.0/"
	for _, tc := range []struct {
		name, path string
		hidden     bool
		scsi       string
		want       bool
		bus        string
	}{
		{"vda", pci + "virtio1/block/vda", false, "", true, "virtio"},
		{"sda", pci + "ata1/host0/target0:0:0/0:0:0:0/block/sda", false, "0", true, "ata"},
		{"sdb", pci + "usb1/1-1/1-1:1.0/host3/target3:0:0/3:0:0:0/block/sdb", false, "0", true, "usb"},
		{"sdc", "sys/devices/platform/host4/session1/target4:0:0/4:0:0:0/block/sdc", false, "0", true, "iscsi"},
		{"sdd", pci + "host5/port-5:0/end_device-5:0/target5:0:0/5:0:0:0/block/sdd", false, "0", true, "scsi"},
		{"nvme0n1", pci + "nvme/nvme0/nvme0n1", false, "", true, "nvme"},
		{"nvme1n1", "sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1", false, "", true, "nvme"},
		{"nvme1c1n1", pci + "nvme/nvme1/nvme1c1n1", true, "", false, "nvme"},
		{"sr0", pci + "ata2/host1/target1:0:0/1:0:0:0/block/sr0", false, "5", false, "ata"},
		{"fd0", "sys/devices/platform/floppy.0/block/fd0", false, "", false, ""},
		{"loop0", "sys/devices/virtual/block/loop0", false, "", false, ""},
		{"drbd1", "sys/devices/virtual/block/drbd1", false, "", false, ""},
		{"dm-0", "sys/devices/virtual/block/dm-0", false, "", false, ""},
	} {
		if got := physicalDisk(tc.name, tc.path, tc.hidden, tc.scsi); got != tc.want {
			t.Errorf("physicalDisk(%s) = %v, want %v", tc.name, got, tc.want)
		}
		if got := diskBus(tc.path); got != tc.bus {
			t.Errorf("diskBus(%s) = %q, want %q", tc.name, got, tc.bus)
		}
	}
}

func TestParseVPDSerial(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"\x00\x80\x00\x06 WD-1 more", "WD-1"},
		{"\x00\x80\x00\xffWD-1", "WD-1"}, // a length that lies
		{"\x00\x80\x00\x04\x01\x02AB", "01024142"},
		{"\x00\x83\x00\x04WD-1", ""},
		{"\x00\x80", ""},
	} {
		if got := parseVPDSerial([]byte(tc.in)); got != tc.want {
			t.Errorf("parseVPDSerial(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestParseSystemFiles(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want int
	}{{"0", 1}, {"0-3", 4}, {"0-1,4,6-7", 5}} {
		if got, err := parseCPUList(tc.in); err != nil || got != tc.want {
			t.Errorf("parseCPUList(%q) = %d, %v, want %d", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{"", "a", "3-1", "0,", "0-70000"} {
		if got, err := parseCPUList(in); err == nil {
			t.Errorf("parseCPUList(%q) = %d, want an error", in, got)
		}
	}
	if got, err := parseMemTotal("MemTotal:  2048 kB\nMemFree: 1 kB\n"); err != nil || got != 2<<20 {
		t.Errorf("parseMemTotal = %d, %v, want 2 MiB", got, err)
	}
	for _, in := range []string{"", "MemTotal: x kB\n", "MemTotal: 1 MB\n", "MemTotal: -1 kB\n", "MemTotal: 9223372036854775807 kB\n"} {
		if got, err := parseMemTotal(in); err == nil {
			t.Errorf("parseMemTotal(%q) = %d, want an error", in, got)
		}
	}
}

// build makes a root with the given files and links ("-> target").
func build(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestProbeKeepsWhatItCouldRead(t *testing.T) {
	root := build(t, map[string]string{
		"proc/meminfo":                         "MemTotal: 1024 kB\n",
		"proc/sys/kernel/osrelease":            "6.1.0\n",
		"sys/devices/system/cpu/online":        "nonsense\n",
		"sys/firmware/dmi/tables/DMI":          string(sample()),
		"sys/devices/pci0/a/block/vda/size":    "many\n",
		"sys/block/vda":                        "-> ../devices/pci0/a/block/vda",
		"sys/class/tpm/tpm0/tpm_version_major": "2\n",
	})
	inv, err := Probe(root)
	if err == nil || !strings.Contains(err.Error(), "nonsense") || !strings.Contains(err.Error(), "many") {
		t.Errorf("error = %v, want both the CPUs' and the disk's", err)
	}
	want := Inventory{
		Bay: Bay{
			Kind: Appliance, Number: 2, Location: "appliance bay 2", Frame: "F1", Serial: "S1",
			UUID: "5a1b2c3d-0001-4000-8000-000000000001", Manufacturer: "Maker", Product: "Model",
		},
		Settings: map[string]string{"role": "witness"},
		Disks:    []Disk{{Name: "vda"}}, NICs: []NIC{},
		TPM: TPM{Present: true, Version: 2}, MemoryBytes: 1 << 20, Kernel: "6.1.0",
	}
	if diff := cmp.Diff(want, inv); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProbeBayWithoutFirmwareTables(t *testing.T) {
	b, err := ProbeBay(t.TempDir())
	if !errors.Is(err, fs.ErrNotExist) || b.Kind != Unknown {
		t.Errorf("ProbeBay = %v, %v, want an unknown bay and fs.ErrNotExist", b, err)
	}
}

func TestBondedNICKeepsItsOwnAddress(t *testing.T) {
	const dev = "sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/"
	root := build(t, map[string]string{
		dev + "net/eth7/address":                   "52:54:00:00:00:ff\n",
		dev + "net/eth7/bonding_slave/perm_hwaddr": "52:54:00:00:00:01\n",
		dev + "net/eth7/speed":                     "-1\n",
		dev + "net/eth7/device":                    "-> ../..",
		"sys/class/net/eth7":                       "-> ../../devices/pci0000:00/0000:00:02.0/0000:01:00.0/net/eth7",
		"sys/bus/pci/devices/0000:01:00.0":         "-> ../../../devices/pci0000:00/0000:00:02.0/0000:01:00.0",
		"sys/devices/virtual/net/bond0/address":    "52:54:00:00:00:ff\n",
		"sys/class/net/bond0":                      "-> ../../devices/virtual/net/bond0",
		"sys/class/net/bonding_masters":            "bond0\n",
		"sys/bus/pci/slots/3/address":              "0000:01:00\n",
		"sys/bus/pci/slots/0-2/address":            "0000:01:00\n",
	})
	got, err := readNICs(root)
	want := []NIC{{Name: "eth7", MAC: "52:54:00:00:00:01", PCI: "0000:01:00.0", Slot: 3}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if n, err := FindSlot(root, "0000:01:00.0"); n != 3 || err != nil {
		t.Errorf("FindSlot = %d, %v, want 3", n, err)
	}
	if _, err := FindSlot(root, "0000:09:00.0"); err == nil {
		t.Error("FindSlot of a device that is not there: no error")
	}
}

func FuzzParseTables(f *testing.F) {
	f.Add(sample())
	f.Add([]byte{11, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, _ := parseTables(b)
		for _, s := range append(append(tab.oem, tab.location...), tab.serial, tab.chassis, tab.product) {
			if strings.ContainsRune(s, 0) || strings.ToValidUTF8(s, "") != s {
				t.Errorf("string %q", s)
			}
		}
		if bay, err := bayOf(tab); err == nil && (bay.Number == 0) != (bay.Kind == Unknown) {
			t.Errorf("bay %+v", bay)
		}
	})
}

func FuzzParseSettings(f *testing.F) {
	f.Add("baystream:management=address:192.0.2.10/24,gateway:192.0.2.1", "baystream:a=b")
	f.Add("baystream:a", "a=b")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := ParseSettings([]string{a, b})
		for k, v := range got {
			if !validKey(k) {
				t.Errorf("key %q", k)
			}
			if again, err := ParseSettings([]string{settingPrefix + k + "=" + v}); strings.TrimSpace(v) == v && (err != nil || again[k] != v) {
				t.Errorf("setting %q=%q does not come back: %v, %v", k, v, again, err)
			}
			ParseFields(v)
		}
		ours := strings.HasPrefix(strings.TrimSpace(a), settingPrefix) || strings.HasPrefix(strings.TrimSpace(b), settingPrefix)
		if !ours && (err != nil || len(got) > 0) {
			t.Errorf("foreign strings %q, %q = %v, %v", a, b, got, err)
		}
	})
}

func FuzzParseLocation(f *testing.F) {
	f.Add("appliance bay 1")
	f.Add("device bay 99")
	f.Fuzz(func(t *testing.T, s string) {
		kind, n := ParseLocation(s)
		switch kind {
		case Unknown:
			if n != 0 {
				t.Errorf("unknown bay %d", n)
			}
		case Appliance, Interconnect, Device:
			if n < 1 || n > maxBay {
				t.Errorf("bay %d", n)
			}
			if k, m := ParseLocation((Bay{Kind: kind, Number: n}).String()); k != kind || m != n {
				t.Errorf("%s bay %d comes back as %s, %d", kind, n, k, m)
			}
		default:
			t.Errorf("kind %q", kind)
		}
	})
}

func FuzzParseVPDSerial(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x06 WD-1 more"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []byte(parseVPDSerial(b)) {
			if c < ' ' || c > '~' {
				t.Errorf("byte %#x", c)
			}
		}
	})
}

func FuzzParseSystemFiles(f *testing.F) {
	f.Add("0-3,8")
	f.Add("MemTotal: 12 kB\n")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseCPUList(s); err == nil && n < 1 {
			t.Errorf("parseCPUList = %d", n)
		}
		if n, err := parseMemTotal(s); err == nil && n < 0 {
			t.Errorf("parseMemTotal = %d", n)
		}
		slotOf([]slot{{1, s}}, pciChain(s))
		parseCount(s)
	})
}

func FuzzStructureWalk(f *testing.F) {
	f.Add(uint8(1), []byte{1, 2, 3}, "a")
	f.Fuzz(func(t *testing.T, kind uint8, body []byte, s string) {
		body = body[:min(len(body), 200)]
		b := structure(kind, body, s)
		binary.LittleEndian.PutUint16(b[2:], 7)
		parseTables(append(b, sample()...))
	})
}
