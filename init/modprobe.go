package main

import (
	"fmt"
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
	dir, err := moduleDir()
	if err != nil {
		return err
	}
	began := time.Now()
	var names []string
	index, err := readModuleIndex(dir)
	if err == nil {
		names, err = index.find(name)
	}
	if err == nil {
		err = loadModules(names...)
	}
	// To the kernel's log, at its level for debugging: it shows what a boot
	// could load in advance.
	note := fmt.Sprintf("<7>init: module %s on demand: %v, %v, %d ms\n", printable(name), names, err, time.Since(began).Milliseconds())
	os.WriteFile("/dev/kmsg", []byte(note), 0)
	return err
}

// moduleDir is where the running kernel's modules are.
func moduleDir() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])), nil
}

// moduleIndex knows the modules of an image by name and by alias.
type moduleIndex struct {
	names   map[string]string        // as the file is called, by canonical name
	aliases map[string][]moduleAlias // by bus: what is before the colon
}

// moduleAlias is a line of modules.alias. The pattern is canonical.
type moduleAlias struct{ pattern, module string }

// readModuleIndex reads modules.dep and modules.alias in dir, see depmod(8).
func readModuleIndex(dir string) (moduleIndex, error) {
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return moduleIndex{}, err
	}
	alias, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return moduleIndex{}, err
	}
	return parseModuleIndex(string(dep), string(alias)), nil
}

func parseModuleIndex(dep, alias string) moduleIndex {
	x := moduleIndex{names: map[string]string{}, aliases: map[string][]moduleAlias{}}
	for line := range strings.Lines(dep) {
		file, _, ok := strings.Cut(line, ":")
		if name, ko := strings.CutSuffix(path.Base(file), ".ko"); ok && ko {
			x.names[canonical(name)] = name
		}
	}
	for line := range strings.Lines(alias) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			bus := busOf(f[1])
			x.aliases[bus] = append(x.aliases[bus], moduleAlias{canonical(f[1]), f[2]})
		}
	}
	return x
}

// busOf is what is before the colon of an alias, without a wildcard as in
// "acpi*:PNP0C0C:*"; names without a colon are on none.
func busOf(alias string) string {
	bus, _, ok := strings.Cut(alias, ":")
	if !ok {
		return ""
	}
	return strings.TrimSuffix(bus, "*")
}

// find returns the module of that name, else all with that alias.
func (x moduleIndex) find(name string) ([]string, error) {
	want := canonical(name)
	if n, ok := x.names[want]; ok {
		return []string{n}, nil
	}
	if names := x.byAlias(want); len(names) > 0 {
		return names, nil
	}
	return nil, fmt.Errorf("module %s: %w in this image", name, os.ErrNotExist)
}

// byAlias returns the modules with an alias for a canonical name, sorted.
func (x moduleIndex) byAlias(name string) []string {
	var out []string
	for _, a := range x.aliases[busOf(name)] {
		if aliasMatches(a.pattern, name) && !slices.Contains(out, a.module) {
			out = append(out, a.module)
		}
	}
	slices.Sort(out)
	return out
}

// aliasMatches tells whether a pattern stands for a name, both canonical.
func aliasMatches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// canonical writes a name or alias with underscores for hyphens, which modules
// do not tell apart, but leaves ranges in brackets alone. A slash becomes a
// letter like others, which it is not to path.Match.
func canonical(s string) string {
	if !strings.ContainsAny(s, "-/") {
		return s
	}
	in := false
	return strings.Map(func(c rune) rune {
		switch {
		case c == '[':
			in = true
		case c == ']':
			in = false
		case c == '-' && !in:
			return '_'
		case c == '/':
			return '|'
		}
		return c
	}, s)
}
