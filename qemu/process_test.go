package qemu

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rigHelper makes this test's process start a VM, tell its pid, and wait.
const rigHelper = "BAYSTREAM_TEST_RIG_DIR"

// A rig that is killed takes its VMs along, whatever they do.
func TestFrameKilledRigLeavesNoProcess(t *testing.T) {
	if dir := os.Getenv(rigHelper); dir != "" {
		vm, err := NewVM(VMConfig{Name: "vm", Dir: dir, RunDir: dir, MemoryMiB: 32, Firmware: BIOS}, slog.New(slog.DiscardHandler))
		must(t, err)
		must(t, vm.PowerOn(t.Context()))
		fmt.Printf("pid %d\n", vm.cmd.Process.Pid)
		select {}
	}
	NeedQEMU(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	dir, err := os.MkdirTemp("", "rig") // short: sockets are in it
	must(t, err)
	defer os.RemoveAll(dir)
	cmd.Env = append(os.Environ(), rigHelper+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		fmt.Sscanf(lines.Text(), "pid %d", &pid)
	}
	if pid == 0 {
		t.Fatalf("the rig did not start a VM: %v", cmd.Wait())
	}
	if state := stateOf(pid); state == "" {
		t.Fatalf("no process %d", pid)
	}
	must(t, cmd.Process.Signal(syscall.SIGKILL))
	cmd.Wait()
	for ctx := Context(t, 10*time.Second); stateOf(pid) != "" && stateOf(pid) != "Z"; {
		if ctx.Err() != nil {
			t.Fatalf("QEMU, pid %d, lives on in state %s", pid, stateOf(pid))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stateOf is a process's state (proc(5)), "" if there is none. A dead one may
// be Z for as long as nobody waits for it.
func stateOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}
