package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// libraryDirs are where Debian's dynamic linker looks, in its order, on a
// system where /lib and /usr/lib are one.
var libraryDirs = []string{
	"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib",
}

// Closure returns files and, beside them, the dynamic linker and the shared
// libraries that the programs among them need, directly or through each other,
// each found in debs, at the path the linker looks at.
func Closure(files []File, debs ...*Deb) ([]File, error) {
	out := append([]File(nil), files...)
	have := make(map[string]bool)
	for i := 0; i < len(out); i++ { // grows while it is walked
		libs, err := needed(out[i])
		if err != nil {
			return nil, fmt.Errorf("libraries of %s: %w", out[i].Path, err)
		}
		for _, lib := range libs {
			if have[lib] {
				continue
			}
			have[lib] = true
			found, err := findLibrary(lib, debs)
			if err != nil {
				return nil, fmt.Errorf("libraries of %s: %w", out[i].Path, err)
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

// needed are the names a program or library wants from the dynamic linker,
// and the path of the linker itself. Other files need nothing.
func needed(f File) ([]string, error) {
	if !f.Mode.IsRegular() || !bytes.HasPrefix(f.Data, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	obj, err := elf.NewFile(bytes.NewReader(f.Data))
	if err != nil {
		return nil, err
	}
	if obj.Type == elf.ET_REL { // a kernel module
		return nil, nil
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		if dirs, err := obj.DynString(tag); err == nil && len(dirs) > 0 {
			return nil, fmt.Errorf("wants its own library path %q, which is not supported", dirs)
		}
	}
	libs, err := obj.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, prog := range obj.Progs {
		if prog.Type == elf.PT_INTERP {
			name := make([]byte, prog.Filesz)
			if _, err := prog.ReadAt(name, 0); err != nil {
				return nil, fmt.Errorf("interpreter: %w", err)
			}
			libs = append(libs, strings.TrimRight(string(name), "\x00"))
		}
	}
	return libs, nil
}

// findLibrary takes a path for what it is and looks for a plain name in the
// linker's folders.
func findLibrary(lib string, debs []*Deb) ([]File, error) {
	places := []string{strings.TrimPrefix(lib, "/")}
	if !strings.Contains(lib, "/") {
		places = nil
		for _, dir := range libraryDirs {
			places = append(places, path.Join(dir, lib))
		}
	}
	for _, place := range places {
		for _, d := range debs {
			files, err := d.Files(place)
			if err == nil {
				return files, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("%s is in none of the packages given", lib)
}
