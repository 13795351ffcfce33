package image

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A module is what depmod(8) would find in one module file.
type module struct {
	Path    string   `json:"path"` // below lib/modules/VERSION
	Depends []string `json:"depends,omitempty"`
	SoftPre []string `json:"softPre,omitempty"` // names or aliases to load before, when they exist
	Aliases []string `json:"aliases,omitempty"` // other names
	Devices []string `json:"devices,omitempty"` // aliases that are patterns of a bus, as pci:v00008086d*
}

// A moduleIndex knows a kernel's modules by name, in the form with
// underscores.
type moduleIndex struct {
	Modules map[string]module `json:"modules"`
	Builtin map[string]bool   `json:"builtin"`
}

// requests are modules that others ask for by name at run time. An image need not have
// a modprobe that would answer, so they are loaded beforehand, like soft
// dependencies.
var requests = map[string][]string{
	"iscsi_target_mod": {"crypto-crc32c"},                           // digests, allocated at each log-in
	"vfat":             {"nls_cp437", "nls_ascii", "nls_iso8859_1"}, // at mount
	"dm_thin_pool":     {"crypto-crc32c"},                           // metadata checksums, by libcrc32c
}

// canonical is the name the kernel knows a module by.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// HasModule tells whether name is a module of this kernel; builtin, whether it
// is compiled in instead.
func (k *Kernel) HasModule(name string) (module, builtin bool) {
	_, module = k.modules.Modules[canonical(name)]
	return module, k.modules.Builtin[canonical(name)]
}

// ModuleFiles returns the wanted modules with all that they depend on, below
// lib/modules/VERSION, and the modules.dep and modules.builtin that describe
// this selection. Names may be spelt with hyphens or underscores. Modules
// compiled into the kernel are passed over; a name it does not know is an
// error.
//
// modules.alias holds the selection's other names, in the form of depmod(8),
// for whoever loads drivers by what a bus reports in modalias, or what the
// kernel asks its modprobe for.
//
// modules.dep lists soft dependencies as if they were hard, for the first
// process has no other source to learn them from: u-root's kmodule loads all
// that a line names. A file whose name mixes hyphens and underscores is
// renamed to underscores, because kmodule finds no mixed names.
func (k *Kernel) ModuleFiles(wanted ...string) ([]File, error) {
	order, err := k.modules.closure(wanted)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Version, err)
	}
	base := "lib/modules/" + k.Version
	var files []File
	var aliases strings.Builder
	for _, name := range order {
		m := k.modules.Modules[name]
		for _, alias := range slices.Concat(m.Aliases, m.Devices) {
			fmt.Fprintf(&aliases, "alias %s %s\n", alias, name)
		}
		data, err := os.ReadFile(filepath.Join(k.deb.Root, base, m.Path))
		if err != nil {
			return nil, fmt.Errorf("kernel %s: module %s: %w", k.Version, name, err)
		}
		files = append(files, File{Path: path.Join(base, imagePath(m.Path)), Mode: 0o644, Data: data})
	}
	builtin, err := os.ReadFile(filepath.Join(k.deb.Root, base, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Version, err)
	}
	return append(files,
		Text(base+"/modules.dep", k.modules.depText(order)),
		Text(base+"/modules.alias", aliases.String()),
		Text(base+"/modules.builtin", string(builtin))), nil
}

// imagePath is where a module of the package stands in an image.
func imagePath(p string) string {
	name := path.Base(p)
	if strings.Contains(name, "-") && strings.Contains(name, "_") {
		name = canonical(name)
	}
	return path.Join(path.Dir(p), name)
}

// closure is the wanted modules and all they need, each after what it needs.
func (x moduleIndex) closure(wanted []string) ([]string, error) {
	var order []string
	state := make(map[string]int) // 1 being visited, 2 done
	var visit func(name string) error
	visit = func(name string) error {
		switch {
		case state[name] == 2:
			return nil
		case state[name] == 1:
			return fmt.Errorf("module %s depends on itself", name)
		}
		if _, ok := x.Modules[name]; !ok {
			return fmt.Errorf("module %s: not in this kernel", name)
		}
		state[name] = 1
		for _, need := range x.needs(name) {
			if err := visit(need); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		state[name] = 2
		order = append(order, name)
		return nil
	}
	for _, name := range wanted {
		name = canonical(name)
		if x.Builtin[name] {
			continue
		}
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// needs are the modules to load directly before name, sorted.
func (x moduleIndex) needs(name string) []string {
	var needs []string
	for _, dep := range x.Modules[name].Depends {
		if dep = canonical(dep); !x.Builtin[dep] {
			needs = append(needs, dep)
		}
	}
	for _, soft := range slices.Concat(x.Modules[name].SoftPre, requests[name]) {
		if provider := x.provider(soft); provider != "" && provider != name {
			needs = append(needs, provider)
		}
	}
	slices.Sort(needs)
	return slices.Compact(needs)
}

// provider is the module of that name, or the one with that alias which runs
// on every processor; empty when the kernel has none or has it built in.
func (x moduleIndex) provider(name string) string {
	plain := canonical(name)
	if _, ok := x.Modules[plain]; ok {
		return plain
	}
	var found []string
	for candidate, m := range x.Modules {
		if !strings.HasPrefix(m.Path, "kernel/arch/") && slices.Contains(m.Aliases, name) {
			found = append(found, candidate)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}

// depText is modules.dep(5): after each module all it needs, those to be
// loaded first at the end. A line without needs ends at the colon, for kmodule
// takes a space as the start of a name.
func (x moduleIndex) depText(order []string) string {
	var b strings.Builder
	for _, name := range order {
		b.WriteString(imagePath(x.Modules[name].Path) + ":")
		below, _ := x.closure([]string{name}) // order came from closure: no error
		for _, need := range slices.Backward(below[:len(below)-1]) {
			b.WriteString(" " + imagePath(x.Modules[need].Path))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// indexModules reads all module files, once; the result is kept beside the
// unpacked package.
func (k *Kernel) indexModules() (moduleIndex, error) {
	kept := filepath.Join(filepath.Dir(k.deb.Root), "modules-2.json") // the number counts changes of moduleIndex
	var x moduleIndex
	text, err := os.ReadFile(kept)
	if err == nil && json.Unmarshal(text, &x) == nil {
		return x, nil
	}
	base := filepath.Join(k.deb.Root, "lib/modules", k.Version)
	builtin, err := os.ReadFile(filepath.Join(base, "modules.builtin"))
	if err != nil {
		return x, err
	}
	x = moduleIndex{Modules: make(map[string]module), Builtin: make(map[string]bool)}
	for line := range strings.Lines(string(builtin)) {
		x.Builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = fs.WalkDir(os.DirFS(base), "kernel", func(p string, d fs.DirEntry, err error) error {
		if err != nil || path.Ext(p) != ".ko" {
			return err
		}
		m, err := readModule(filepath.Join(base, p))
		if err != nil {
			return fmt.Errorf("module %s: %w", p, err)
		}
		m.Path = p
		x.Modules[moduleName(p)] = m
		return nil
	})
	if err != nil {
		return x, err
	}
	if text, err = json.Marshal(x); err != nil {
		return x, err
	}
	return x, replaceFile(kept, text)
}

func moduleName(p string) string { return canonical(strings.TrimSuffix(path.Base(p), ".ko")) }

func readModule(file string) (module, error) {
	f, err := elf.Open(file)
	if err != nil {
		return module{}, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return module{}, errors.New("no .modinfo section")
	}
	data, err := section.Data()
	if err != nil {
		return module{}, err
	}
	return parseModinfo(data), nil
}

// parseModinfo reads the key=value strings, ended by zero bytes, of a .modinfo
// section.
func parseModinfo(data []byte) module {
	var m module
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "depends":
			m.Depends = append(m.Depends, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			m.SoftPre = append(m.SoftPre, softPre(value)...)
		case "alias":
			if strings.Contains(value, ":") {
				m.Devices = append(m.Devices, value)
			} else {
				m.Aliases = append(m.Aliases, value)
			}
		}
	}
	return m
}

// softPre is the part of a softdep value that is to be loaded before:
// "pre: a b post: c".
func softPre(value string) []string {
	var names []string
	pre := false
	for _, word := range strings.Fields(value) {
		switch word {
		case "pre:":
			pre = true
		case "post:":
			pre = false
		default:
			if pre {
				names = append(names, word)
			}
		}
	}
	return names
}
