package main

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"baystream/image"
	"github.com/google/go-cmp/cmp"
)

func TestSpecTakesPrograms(t *testing.T) {
	o, err := parse([]string{"-init", "i", "-daemon", "d", "-fence", "h", "-service", "one=f1", "-service", "two=f2"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := o.spec(t.Context(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{"init": "i", "bin/baystreamd": "d", "bin/bayfence": "h", "bin/one": "f1", "bin/two": "f2"}
	if diff := cmp.Diff(programs, spec.Programs); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
	var names []string
	for _, s := range spec.Services {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "baystreamd console health one two" {
		t.Errorf("services %q, want baystreamd console health one two", got)
	}
}

func TestSpecBuildsProgramsFromSource(t *testing.T) {
	o, err := parse([]string{"-o", t.TempDir(), "-C", filepath.Join(t.TempDir(), "no module here"), "-daemon", "none"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.spec(t.Context(), func(string) {}); err == nil || !strings.Contains(err.Error(), "./init") {
		t.Errorf("spec without sources = %v, want an error that names ./init", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range []string{"extra", "-service name", "-service =file", "-service a/b=file", "-nonsense"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("parse(%s) = nil, want an error", args)
		}
	}
}

func TestTableNamesEveryPart(t *testing.T) {
	var out bytes.Buffer
	sum := strings.Repeat("0123456789abcdef", 4)
	err := table(&out, image.Manifest{
		Kernel: "6.1", Parts: []image.Part{{Name: "bzImage", Size: 8 << 20, SHA256: sum}, {Name: "initramfs", Size: 2 << 20, SHA256: sum}},
		Frames: []image.Frame{{Name: "debian", Size: 1 << 20, PlainSize: 3 << 20}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bzImage", "8388608", "debian", "3.0 MiB unpacked", "10.0 MiB", "of 40 MiB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, out.String())
		}
	}
}
