// Command guest is what benchmarks run inside an appliance's VM.
//
// As the first process it is the empty Go init that the appliance's boot is
// compared with: it says how long ago the power came on and ends the machine.
// As a service beside the daemon it waits until REST answers, says the same,
// and then does what bench=MODE on the kernel's command line asks for:
//
//	boot  end the machine in order
//	init  tell how the boot went by; restart the daemon under load
//	ram   have 32 volumes exported, and say how much memory is used
//
// Its lines on the console are "bench NAME VALUE"; the last one is "bench end"
// or "bench failed: REASON".
//
// Time since power-on is the processor's time-stamp counter: under QEMU's
// icount it counts nanoseconds of virtual time.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticks reads the time-stamp counter.
func ticks() uint64

func main() {
	now := ticks()
	if os.Getpid() == 1 {
		fmt.Printf("bench boot-ms %.1f\nbench end\n", float64(now)/1e6)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		return
	}
	if err := run(); err != nil {
		say("bench failed: %v", err)
	}
	power()
}

// say writes a line to the console, whatever PID 1 does with our output.
func say(format string, args ...any) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, format+"\n", args...)
}

func run() error {
	a := newAppliance(setting("bench.address"))
	for !a.answers() {
		time.Sleep(10 * time.Millisecond)
	}
	say("bench boot-ms %.1f", float64(ticks())/1e6)
	var err error
	switch setting("bench") {
	case "ram":
		err = ram(context.Background(), a)
	case "init":
		err = errors.Join(sayBoot(), restart(context.Background(), a))
	}
	if err != nil {
		return err
	}
	say("bench end")
	return nil
}

// setting is a value on the kernel's command line.
func setting(key string) string {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return ""
	}
	for _, w := range strings.Fields(string(b)) {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return ""
}

// power asks PID 1 to end the machine.
func power() {
	if err := unix.Kill(1, unix.SIGUSR2); err != nil {
		say("bench failed: %v", err)
	}
	select {}
}

// memory reads figures in KiB, "MemTotal: 1 kB", from a file of /proc.
func memory(file string) (map[string]int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for line := range strings.Lines(string(b)) {
		var n int
		name, value, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscan(value, &n); err == nil {
			out[name] = n
		}
	}
	return out, nil
}

// process finds a process by its name.
func process(name string) (dir string, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Dir(f), nil
		}
	}
	return "", fmt.Errorf("no process %s", name)
}
