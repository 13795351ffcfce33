package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel asks user space for modules by running the program named in
// kernel.modprobe with "-q -- NAME": for the checksum of a file system, the
// code page of a FAT, the back end of an iSCSI target. There is no modprobe in
// the image; this program answers to that, too.

// isModprobe tells whether the kernel runs this program as its modprobe.
func isModprobe(args []string) (name string, ok bool) {
	if len(args) == 4 && args[1] == "-q" && args[2] == "--" {
		return args[3], true
	}
	return "", false
}

// becomeModprobe makes the kernel run this program when it wants a module.
func becomeModprobe() error {
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte("/init"), 0)
}

// modprobe loads the modules of the running kernel that go by name: one with
// that name, else all that have it as an alias.
func modprobe(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	began := time.Now()
	names, err := modulesFor(dir, name)
	if err == nil {
		err = loadModules(names...)
	}
	// To the kernel's log, at its level for debugging: it shows what a boot
	// could load in advance.
	note := fmt.Sprintf("<7>init: module %s on demand: %v, %v, %d ms\n", printable(name), names, err, time.Since(began).Milliseconds())
	os.WriteFile("/dev/kmsg", []byte(note), 0)
	return err
}

// modulesFor finds the modules below dir that go by name. The image has few
// modules, so it looks into them instead of an index.
func modulesFor(dir, name string) ([]string, error) {
	want := canonical(name)
	files := map[string]string{} // by module
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if base, ok := strings.CutSuffix(filepath.Base(p), ".ko"); ok {
			files[base] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(files))
	for _, n := range names {
		if canonical(n) == want {
			return []string{n}, nil
		}
	}
	var out []string
	for _, n := range names {
		aliases, err := moduleAliases(files[n])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", files[n], err)
		}
		if slices.ContainsFunc(aliases, func(a string) bool { return aliasMatches(a, want) }) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("module %s: %w in %s", name, os.ErrNotExist, dir)
	}
	return out, nil
}

// aliasMatches tells whether an alias, which may have wildcards, stands for
// the canonical name.
func aliasMatches(alias, name string) bool {
	ok, err := path.Match(canonical(alias), name)
	return ok && err == nil
}

// canonical writes a name or alias with underscores for hyphens, which modules
// do not tell apart, but leaves ranges in brackets alone.
func canonical(s string) string {
	in := false
	return strings.Map(func(c rune) rune {
		switch {
		case c == '[':
			in = true
		case c == ']':
			in = false
		case c == '-' && !in:
			return '_'
		}
		return c
	}, s)
}

// moduleAliases returns the aliases that a module has for itself.
func moduleAliases(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo: not a kernel module")
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	return parseAliases(b), nil
}

// parseAliases picks the aliases out of a .modinfo section: strings of the
// form key=value, each ended by a NUL.
func parseAliases(modinfo []byte) []string {
	var out []string
	for s := range bytes.SplitSeq(modinfo, []byte{0}) {
		if a, ok := bytes.CutPrefix(s, []byte("alias=")); ok {
			out = append(out, string(a))
		}
	}
	return out
}
