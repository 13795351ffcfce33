package qemu

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A machine with a firmware and nothing to boot.
func TestQMPDrivesAMachine(t *testing.T) {
	NeedQEMU(t)
	s := newTestSwitch(t, "net")
	mac := place{1, ComputeBay, 1}.mac(3)
	vm, err := NewVM(VMConfig{
		Name: "m", Dir: t.TempDir(), RunDir: shortDir(t), MemoryMiB: 64, Firmware: BIOS, Display: true,
		NICs: []NIC{{Slot: 3, MAC: mac, Network: s, Port: PortConfig{Name: "m", Access: 1}}},
	}, silent)
	must(t, err)
	t.Cleanup(vm.Close)
	ctx := Context(t, 20*time.Second)
	must(t, vm.PowerOn(ctx))
	must(t, vm.PowerOn(ctx)) // again: nothing happens

	must(t, vm.Pause(ctx))
	var status struct{ Status string }
	must(t, vm.Do(ctx, "query-status", nil, &status))
	if status.Status != "paused" {
		t.Errorf("after Pause the machine is %s", status.Status)
	}
	must(t, vm.Resume(ctx))
	must(t, vm.SetLink(ctx, 3, false))
	must(t, vm.Reset(ctx))
	for e := range vm.Events() {
		if e.Name == "RESET" {
			break
		}
	}
	png := filepath.Join(t.TempDir(), "screen.png")
	must(t, vm.Screendump(ctx, png))
	if err := vm.Do(ctx, "no-such-command", nil, nil); err == nil || !strings.Contains(err.Error(), "CommandNotFound") {
		t.Errorf("an unknown command = %v", err)
	}
	if _, err := vm.Port(4); err == nil {
		t.Error("a NIC in slot 4")
	}
	vm.PowerOff()
	vm.PowerOff() // again: nothing happens
}

func TestPowerOnTellsWhatQEMUSaid(t *testing.T) {
	NeedQEMU(t)
	vm, err := NewVM(VMConfig{Name: "m", Dir: t.TempDir(), RunDir: shortDir(t), Firmware: BIOS, Extra: []string{"-no-such-option"}}, silent)
	must(t, err)
	t.Cleanup(vm.Close)
	err = vm.PowerOn(Context(t, 10*time.Second))
	if err == nil || !strings.Contains(err.Error(), "no-such-option: invalid option") {
		t.Errorf("PowerOn = %v, want QEMU's words", err)
	}
}
