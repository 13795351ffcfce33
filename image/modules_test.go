package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/kmodule"
)

func TestParseModinfo(t *testing.T) {
	section := "license=GPL\x00alias=crypto-crc32c\x00alias=pci:v00008086d0000100Esv*sd*bc*sc*i*\x00" +
		"softdep=pre: crc32c crct10dif post: other\x00depends=jbd2,mbcache\x00\x00name=ext4\x00"
	want := module{
		Depends: []string{"jbd2", "mbcache"},
		SoftPre: []string{"crc32c", "crct10dif"},
		Aliases: []string{"crypto-crc32c"},
		Devices: []string{"pci:v00008086d0000100Esv*sd*bc*sc*i*"},
	}
	if diff := cmp.Diff(want, parseModinfo([]byte(section))); diff != "" {
		t.Errorf("parseModinfo (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(module{}, parseModinfo([]byte("depends=\x00"))); diff != "" {
		t.Errorf("parseModinfo of no dependencies (-want +got):\n%s", diff)
	}
}

// testIndex is a small kernel: a file system with a soft dependency that a
// processor's module and a generic one satisfy, and a mixed file name.
var testIndex = moduleIndex{
	Modules: map[string]module{
		"fs":             {Path: "kernel/fs/fs.ko", Depends: []string{"journal", "builtin-crc"}, SoftPre: []string{"crypto-sum"}},
		"journal":        {Path: "kernel/fs/journal.ko", Depends: []string{"low_level"}},
		"low_level":      {Path: "kernel/lib/low-level.ko"},
		"sum_intel":      {Path: "kernel/arch/x86/sum-intel.ko", Aliases: []string{"crypto-sum"}},
		"sum_generic":    {Path: "kernel/crypto/sum_generic.ko", Aliases: []string{"crypto-sum"}},
		"nls_iso_8859_1": {Path: "kernel/fs/nls/nls_iso-8859-1.ko"},
		"ring_a":         {Path: "kernel/ring_a.ko", Depends: []string{"ring_b"}},
		"ring_b":         {Path: "kernel/ring_b.ko", Depends: []string{"ring_a"}},
		"orphan":         {Path: "kernel/orphan.ko", Depends: []string{"gone"}},
	},
	Builtin: map[string]bool{"builtin_crc": true},
}

func TestModuleClosure(t *testing.T) {
	for _, c := range []struct {
		wanted string
		want   string
	}{
		{"low-level", "low_level"},
		{"low_level journal", "low_level journal"},
		{"fs", "low_level journal sum_generic fs"},
		{"sum-intel fs", "sum_intel low_level journal sum_generic fs"},
		{"builtin-crc", ""},
		{"nls_iso-8859-1", "nls_iso_8859_1"},
	} {
		got, err := testIndex.closure(strings.Fields(c.wanted))
		if err != nil {
			t.Errorf("closure(%s): %v", c.wanted, err)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("closure(%s) = %q, want %q", c.wanted, got, c.want)
		}
	}
	for _, wanted := range []string{"ring_a", "orphan", "unknown"} {
		if got, err := testIndex.closure([]string{wanted}); err == nil {
			t.Errorf("closure(%s) = %q, want an error", wanted, got)
		}
	}
}

// TestModulesDepIsReadByKmodule has the reader that the image uses resolve
// the file.
func TestModulesDepIsReadByKmodule(t *testing.T) {
	order, err := testIndex.closure([]string{"fs", "nls_iso-8859-1"})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), []byte(testIndex.depText(order)), 0o644); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan string, 100)
	p, err := kmodule.NewProber(kmodule.ProbeOpts{
		RootDir: root, KVer: "6.1", IgnoreProcMods: true,
		DryRunCB: func(file string) { loaded <- strings.TrimSuffix(filepath.Base(file), ".ko") },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fs", "nls_iso-8859-1"} {
		if err := p.Probe(canonical(name), ""); err != nil {
			t.Errorf("Probe(%s): %v", name, err)
		}
	}
	close(loaded)
	at := make(map[string]int)
	for name := range loaded {
		at[name] = len(at) + 1
	}
	if len(at) != len(order) {
		t.Errorf("kmodule loads %v, want the %d of %q", at, len(order), order)
	}
	for _, pair := range [][2]string{{"low-level", "journal"}, {"journal", "fs"}, {"sum_generic", "fs"}} {
		if at[pair[0]] == 0 || at[pair[0]] > at[pair[1]] {
			t.Errorf("kmodule loads %v, want %s before %s", at, pair[0], pair[1])
		}
	}
}

func TestDepTextNamesLastWhatIsLoadedFirst(t *testing.T) {
	order, err := testIndex.closure([]string{"journal"})
	if err != nil {
		t.Fatal(err)
	}
	const want = "kernel/lib/low-level.ko:\nkernel/fs/journal.ko: kernel/lib/low-level.ko\n"
	if got := testIndex.depText(order); got != want {
		t.Errorf("depText = %q, want %q", got, want)
	}
}
