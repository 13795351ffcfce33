package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Usage is what a service takes of its cgroup's limits, and how often it was
// kept within them; see the kernel's Documentation/admin-guide/cgroup-v2.rst.
type Usage struct {
	Memory      int64 `json:"memory,omitempty"`       // bytes, with what it has in the page cache
	MemoryMax   int64 `json:"memory_max,omitempty"`   // bytes; 0: no limit
	MemoryFull  int   `json:"memory_full,omitempty"`  // how often it was at its limit
	OOMKills    int   `json:"oom_kills,omitempty"`    // processes killed for want of memory
	Pids        int   `json:"pids,omitempty"`         // processes and threads
	PidsMax     int   `json:"pids_max,omitempty"`     // 0: no limit
	PidsRefused int   `json:"pids_refused,omitempty"` // forks that failed at the limit
}

// readUsage reads the usage of the cgroup in dir; what the kernel does not tell
// is 0.
func readUsage(dir string) Usage {
	number := func(file string) int64 {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return 0
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // "max" is no limit
		return n
	}
	memory, pids := readEvents(filepath.Join(dir, "memory.events")), readEvents(filepath.Join(dir, "pids.events"))
	return Usage{
		Memory: number("memory.current"), MemoryMax: number("memory.max"), MemoryFull: memory["max"], OOMKills: memory["oom_kill"],
		Pids: int(number("pids.current")), PidsMax: int(number("pids.max")), PidsRefused: pids["max"],
	}
}

// readEvents reads lines "name count".
func readEvents(file string) map[string]int {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	m := map[string]int{}
	for line := range strings.Lines(string(b)) {
		if name, count, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			m[name], _ = strconv.Atoi(count)
		}
	}
	return m
}

// totalMemory is the machine's memory in bytes; 0: unknown.
func totalMemory() int64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return int64(si.Totalram) * int64(si.Unit)
}

func (l *launcher) usage(svc Service) Usage {
	dir := l.cgroup(svc)
	if dir == "" {
		return Usage{}
	}
	return readUsage(dir)
}
