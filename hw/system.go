package hw

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// TPM is a trusted platform module.
type TPM struct {
	Present bool `json:"present"`
	// Version is 2 for TPM 2.0, 1 for TPM 1.2, 0 if the kernel does not say.
	Version int `json:"version"`
}

func readTPM(root string) (TPM, error) {
	names, err := readNames(root, "sys/class/tpm")
	if err != nil || len(names) == 0 {
		return TPM{}, err
	}
	s, err := readAttr(root, "sys/class/tpm/"+names[0]+"/tpm_version_major")
	if err != nil {
		return TPM{Present: true}, err
	}
	v, err := parseCount(s)
	if err != nil || v > 9 {
		return TPM{Present: true}, fmt.Errorf("%s: version %q", names[0], s)
	}
	return TPM{Present: true, Version: int(v)}, nil
}

func readMemory(root string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return 0, err
	}
	return parseMemTotal(string(b))
}

// parseMemTotal finds MemTotal, which the kernel gives in KiB and calls kB
// (proc(5)), and returns bytes.
func parseMemTotal(meminfo string) (int64, error) {
	for line := range strings.Lines(meminfo) {
		v, ok := strings.CutPrefix(line, "MemTotal:")
		if !ok {
			continue
		}
		f := strings.Fields(v)
		if len(f) != 2 || f[1] != "kB" {
			return 0, fmt.Errorf("meminfo: line %q: want a number of kB", strings.TrimSpace(line))
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/1024 {
			return 0, fmt.Errorf("meminfo: line %q: want a number of kB", strings.TrimSpace(line))
		}
		return n * 1024, nil
	}
	return 0, fmt.Errorf("meminfo: no MemTotal")
}

func readCPUs(root string) (int, error) {
	s, err := readAttr(root, "sys/devices/system/cpu/online")
	if err != nil || s == "" {
		return 0, err
	}
	return parseCPUList(s)
}

// parseCPUList counts the CPUs of a list such as "0-3,8"
// (Documentation/admin-guide/cputopology.rst of the kernel).
func parseCPUList(s string) (int, error) {
	const limit = 1 << 16
	total := 0
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		if !isRange {
			hi = lo
		}
		a, errA := strconv.ParseUint(lo, 10, 16)
		b, errB := strconv.ParseUint(hi, 10, 16)
		if errA != nil || errB != nil || b < a {
			return 0, fmt.Errorf("cpu list %q: want numbers and ranges", s)
		}
		if total += int(b-a) + 1; total > limit {
			return 0, fmt.Errorf("cpu list %q: more than %d CPUs", s, limit)
		}
	}
	return total, nil
}
