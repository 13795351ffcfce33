package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Binary is the emulator that VMs run.
const Binary = "qemu-system-x86_64"

// An Accel is a way to run guest code.
type Accel struct {
	Name string // "kvm" or "tcg"
	CPU  string // the CPU model that goes with it
	arg  string
}

var (
	// TCG runs REP MOVSB and REP STOSB byte by byte. A kernel or C library that
	// is told they are fast (ERMS, FSRM) clears and copies pages with them; a
	// server boots in two thirds of the time when it is not.
	tcg = Accel{Name: "tcg", CPU: "max,-erms,-fsrm", arg: "tcg,thread=multi"}
	// arch-capabilities is an MSR that a nested or unusual KVM refuses.
	kvm = Accel{Name: "kvm", CPU: "host,-arch-capabilities", arg: "kvm"}
)

// tcgStretch is how much longer things take in a VM without KVM on a machine
// with two cores and other work (measured: a boot 4 to 8 times as long).
const tcgStretch = 8

const probeLimit = 2 * time.Second

var chosen = sync.OnceValue(func() Accel {
	switch os.Getenv("BAYSTREAM_ACCEL") {
	case "kvm":
		return kvm
	case "tcg":
		return tcg
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return tcg
	}
	if _, err := probe(context.Background(), kvm, probeLimit); err != nil {
		return tcg
	}
	return kvm
})

// ChooseAccel returns the accelerator for this machine: KVM if it runs ring 0
// in long mode at a speed that deserves the name, else TCG. It tries once per
// process; BAYSTREAM_ACCEL=kvm or tcg decides without a trial.
func ChooseAccel() Accel { return chosen() }

// Deadline stretches a time that is generous with KVM to one that is generous
// with the accelerator in use.
func Deadline(d time.Duration) time.Duration {
	if chosen().Name == tcg.Name {
		return d * tcgStretch
	}
	return d
}

// probe runs the probe ROM and returns its letters; the error says why the
// accelerator is of no use.
func probe(ctx context.Context, a Accel, limit time.Duration) (letters string, err error) {
	dir, err := os.MkdirTemp("", "vprobe")
	if err != nil {
		return "", fmt.Errorf("probe %s: %w", a.Name, err)
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, probeROM(), 0o600); err != nil {
		return "", fmt.Errorf("probe %s: %w", a.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, Binary, "-machine", "q35", "-accel", a.arg, "-cpu", a.CPU, "-m", "16",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", rom,
		"-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1").Output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return string(out), fmt.Errorf("probe %s: reached %q in %v: too slow", a.Name, out, limit)
	case errors.As(err, &exit) && exit.ExitCode() == 33:
		return string(out), nil
	case err == nil:
		err = errors.New("ended with status 0, want 33")
	}
	return string(out), fmt.Errorf("probe %s: reached %q: %w", a.Name, out, err)
}
