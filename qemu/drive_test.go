package qemu

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baystream/qemu/block"
)

// One frame whose disks are ours: what a module sees of their faults, and of
// what is plugged in and out.
func TestFrameDrivesFailAndComeAndGo(t *testing.T) {
	f := StartBare(t, guestImage(t), func(c *Config) { c.ServeDisks = true })
	a := f.Appliance()
	ready(t, a)
	drive, err := a.Drive("disk0")
	must(t, err)

	const mine = " VF0001A01 "
	set := func(fault block.Fault) {
		t.Helper()
		must(t, drive.SetFault(fault))
	}
	ask(t, a, "io write"+mine+"0 1048576")
	if n := drive.Unflushed(); n != 0 {
		t.Errorf("%d writes unflushed after fsync", n)
	}
	for _, c := range []struct {
		fault       block.Fault
		read, write string // errors; "": none
	}{
		{block.Fault{ReadErrors: true}, "input/output error", ""},
		{block.Fault{WriteErrors: true}, "", "input/output error"},
		{block.Fault{Full: true}, "", "input/output error"}, // virtio knows no other,
	} {
		set(c.fault)
		if got := ask(t, a, "io read"+mine+"0 4096"); !strings.Contains(got, c.read) {
			t.Errorf("%+v: read: %s, want %q", c.fault, got, c.read)
		}
		if got := ask(t, a, "io write"+mine+"0 4096"); !strings.Contains(got, c.write) {
			t.Errorf("%+v: write: %s, want %q", c.fault, got, c.write)
		}
	}
	drive.Heal()

	// Plugged in while the module runs: seen without a reboot.
	must(t, a.PlugDisk(t.Context(), Disk{Slot: 7, Path: filepath.Join(t.TempDir(), "spare"), Size: 16 << 20, Serial: "SPARE", Served: true}))
	must(t, a.PlugNIC(t.Context(), NIC{Slot: 8, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}, Network: f.Networks()[0], Port: PortConfig{Name: "spare", Access: 1}}))
	eventually(t, func() bool { return strings.Contains(ask(t, a, "disks"), "SPARE") })
	ask(t, a, "io write SPARE 0 4096")
	eventually(t, func() bool { return ask(t, a, "carrier 8") == "1" })
	if err := a.PlugDisk(t.Context(), Disk{Slot: 7}); err == nil || !strings.Contains(err.Error(), "unplug it first") {
		t.Errorf("two disks in one slot: %v", err)
	}
	must(t, a.Unplug(Context(t, 20*time.Second), 7))
	if got := ask(t, a, "disks"); strings.Contains(got, "SPARE") {
		t.Errorf("the disk that was unplugged is there: %s", got)
	}
	must(t, a.PlugDisk(t.Context(), Disk{Slot: 7, Path: filepath.Join(t.TempDir(), "spare"), Size: 16 << 20, Serial: "OTHER"}))

	// A stalled disk holds up neither reset nor power off.
	set(block.Fault{Stall: true})
	tellOff(a, "io write"+mine+"0 1048576")
	must(t, a.Reset(Context(t, 10*time.Second)))
	drive.Heal()
	ready(t, a)
	if got := ask(t, a, "disks"); !strings.Contains(got, "OTHER") {
		t.Errorf("after a reset the module has %s", got)
	}
	set(block.Fault{Stall: true})
	tellOff(a, "io write"+mine+"0 1048576")
	a.PowerOff()
	drive.Heal()
	must(t, a.PowerOn(Context(t, 10*time.Second)))
	ready(t, a)
	if got := ask(t, a, "disks"); !strings.Contains(got, "OTHER") {
		t.Errorf("after power off and on the module has %s", got)
	}
	tell(t, a, "addr 8 0 192.0.2.77/24")
}

// tellOff types a line that nobody will answer.
func tellOff(b *Bay, line string) { b.Console().Write([]byte(line + "\n")) }

// eventually asks until it is so. What is asked takes its time.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for ctx := Context(t, 10*time.Second); !so(); {
		if ctx.Err() != nil {
			t.Fatal("it did not happen")
		}
		time.Sleep(50 * time.Millisecond)
	}
}
