package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"baystream/image"
	"baystream/qemu"
)

// machine says where a run was made.
type machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`      // of this machine
	Guest  string `json:"guestKernel"` // of the VMs
	QEMU   string `json:"qemu"`
	Go     string `json:"go"`
	Commit string `json:"commit,omitempty"`
	Load   string `json:"load"` // averages when the run began
}

// machine asks what there is to know; what it cannot find out stays empty.
func (b *bench) machine(ctx context.Context) machine {
	m := machine{CPU: field("/proc/cpuinfo", "model name"), CPUs: runtime.NumCPU(), Memory: field("/proc/meminfo", "MemTotal"), Go: runtime.Version()}
	m.Kernel = strings.TrimSpace(text("/proc/sys/kernel/osrelease"))
	m.Load, _, _ = strings.Cut(text("/proc/loadavg"), "/")
	if i := strings.LastIndexByte(m.Load, ' '); i > 0 {
		m.Load = m.Load[:i]
	}
	if built, err := image.Load(b.image); err == nil {
		m.Guest = "Debian " + built.Manifest.Kernel
	}
	m.QEMU = output(ctx, qemu.Binary, "--version")
	m.Commit = output(ctx, "git", "describe", "--always", "--dirty")
	return m
}

func text(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}

func field(file, name string) string {
	s := bufio.NewScanner(strings.NewReader(text(file)))
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// output is the first line that a program prints.
func output(ctx context.Context, name string, args ...string) string {
	b, _ := exec.CommandContext(ctx, name, args...).Output()
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}
