package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func ibftTree() map[string]string {
	return map[string]string{
		"sys/firmware/ibft/initiator/initiator-name": "iqn.2026-11.test:initiator\n",
		"sys/firmware/ibft/target0/target-name":      "iqn.2026-11.test:volume\n",
		"sys/firmware/ibft/target0/ip-addr":          "198.51.100.2\n",
		"sys/firmware/ibft/target0/port":             "3260\n",
		"sys/firmware/ibft/ethernet0/mac":            "52:54:00:00:00:01\n",
		"sys/firmware/ibft/ethernet0/ip-addr":        "198.51.100.100\n",
		"sys/firmware/ibft/ethernet0/subnet-mask":    "255.255.255.0\n",
	}
}

func TestReadIBFT(t *testing.T) {
	fw, err := readIBFT(writeTree(t, ibftTree()))
	if err != nil {
		t.Fatalf("readIBFT: %v", err)
	}
	want := &firmware{
		Initiator: "iqn.2026-11.test:initiator",
		Target:    "iqn.2026-11.test:volume",
		Portal:    netip.MustParseAddrPort("198.51.100.2:3260"),
		MAC:       net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1},
		Address:   netip.MustParsePrefix("198.51.100.100/24"),
	}
	if diff := cmp.Diff(want, fw, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("readIBFT (-want +got):\n%s", diff)
	}
}

func TestNoIBFTIsNoError(t *testing.T) {
	if fw, err := readIBFT(t.TempDir()); fw != nil || err != nil {
		t.Errorf("readIBFT(empty) = %v, %v, want nil, nil", fw, err)
	}
}

func TestIncompleteIBFTIsAnError(t *testing.T) {
	for name := range ibftTree() {
		if strings.Contains(name, "initiator-name") {
			continue // its absence means that there is no table
		}
		files := ibftTree()
		files[name] = "nonsense of 300.1.2.3\n"
		if strings.Contains(name, "target-name") {
			delete(files, name)
		}
		if fw, err := readIBFT(writeTree(t, files)); err == nil {
			t.Errorf("bad %s: readIBFT = %+v, want an error", name, fw)
		}
	}
}

func TestPersonality(t *testing.T) {
	dir := writeTree(t, map[string]string{
		"hostname": "node-3\r\n", "address": "\n198.51.100.50/24\n", "message": "two words\nsecond line\n", "rate": "7",
	})
	want := personality{Hostname: "node-3", Address: "198.51.100.50/24", Message: "two words", Rate: 7}
	if diff := cmp.Diff(want, readPersonality(dir)); diff != "" {
		t.Errorf("readPersonality (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(personality{Rate: defaultRate}, readPersonality(t.TempDir())); diff != "" {
		t.Errorf("no personality (-want +got):\n%s", diff)
	}
}

func TestBootsAreCounted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "boots")
	for want := 1; want <= 3; want++ {
		if n, err := countBoot(file); n != want || err != nil {
			t.Errorf("countBoot = %d, %v, want %d", n, err, want)
		}
	}
}

func TestFindDisk(t *testing.T) {
	files := map[string]string{
		"sys/class/block/sda/uevent":  "DEVNAME=sda\nDEVTYPE=disk\n",
		"sys/class/block/sda1/uevent": "DEVNAME=sda1\nPARTNAME=sample-esp\n",
		"sys/class/block/sda2/uevent": "DEVNAME=sda2\nPARTNAME=sample-root\n",
		"sys/class/block/sda3/uevent": "DEVNAME=sda3\nPARTNAME=sample-work\n",
	}
	root := writeTree(t, files)
	if d, err := findDisk(root, "sd"); err != nil || d != (disk{ESP: "sda1", Root: "sda2", Work: "sda3"}) {
		t.Errorf("findDisk(sd) = %+v, %v", d, err)
	}
	if d, err := findDisk(root, "vd"); err == nil {
		t.Errorf("findDisk(vd) = %+v, want an error", d)
	}
}

func TestKernelWarning(t *testing.T) {
	for _, tc := range []struct {
		record, want string
		ok           bool
	}{
		{"3,339,5140900,-; connection1:0: detected conn error (1020)\n", " connection1:0: detected conn error (1020)", true},
		{"6,340,5140900,-;virtio_net loaded\n SUBSYSTEM=x\n", "", false},
		{"12,1,2,-;a user program warns\n", "a user program warns", true},
		{"nonsense", "", false},
	} {
		if got, ok := kernelWarning(tc.record); got != tc.want || ok != tc.ok {
			t.Errorf("kernelWarning(%q) = %q, %v, want %q, %v", tc.record, got, ok, tc.want, tc.ok)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1/24": "192.0.2.1/24", "192.0.2.1": "192.0.2.1/32", "here": ""} {
		p, err := parseAddress(in)
		if (err != nil) != (want == "") || err == nil && p.String() != want {
			t.Errorf("parseAddress(%q) = %v, %v, want %q", in, p, err, want)
		}
	}
}
