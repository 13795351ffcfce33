package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const oopsText = `<6>[    1.000000] init: this start follows crashes in a row: 1
<1>[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000360
<0>[   12.400000] Kernel panic - not syncing: Fatal exception
`

func TestCrashesInRow(t *testing.T) {
	for _, tc := range []struct {
		name, text, what string
		row              int
	}{
		{"nothing left", "", "", 0},
		{"the first", "<0>[   12.4] Kernel panic - not syncing: sysrq triggered crash\n", "sysrq triggered crash", 1},
		{"another soon after", oopsText, "BUG: kernel NULL pointer dereference, address: 0000000000000360", 2},
		{"another, after a good while", strings.ReplaceAll(oopsText, "[   12.4", "[ 3601.4"), "BUG: kernel NULL pointer dereference, address: 0000000000000360", 1},
		{"one that does not say why", "\x00\xff[", "no line says why", 1},
	} {
		var records []record
		if tc.text != "" {
			records = []record{{n: 1, part: 1, text: "an oops before"}, {n: 2, part: 1, text: tc.text}}
		}
		row, what := crashesInRow(records)
		if row != tc.row || what != tc.what {
			t.Errorf("%s: %d, %q, want %d, %q", tc.name, row, what, tc.row, tc.what)
		}
	}
}

func TestRecordsAreReadInOrder(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"dmesg-ramoops-0":   "Oops#1 Part1\nfirst\n",
		"dmesg-ramoops-1":   "Panic#2 Part1\nend\n",
		"dmesg-ramoops-2":   "Panic#2 Part2\nbegin\n",
		"console-ramoops-0": "not the kernel's",
		"dmesg-ramoops-3":   "\x00\x01 garbage",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	records, err := readRecords(dir)
	if err != nil || len(records) != 4 {
		t.Fatalf("%d records, %v, want 4", len(records), err)
	}
	if got := lastText(records); got != "begin\nend\n" {
		t.Errorf("text = %q", got)
	}
	kept := t.TempDir()
	for _, r := range records {
		if err := keepRecord(kept, r); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(kept, "dmesg-ramoops-2.txt")); err != nil || string(b) != "Panic#2 Part2\nbegin\n" {
		t.Errorf("kept %q, %v", b, err)
	}
}

// Memory that the kernel uses is never taken for reserved.
func TestReservedMemory(t *testing.T) {
	const iomem = `00001000-0009fbff : System RAM
00100000-07ffffff : System RAM
  01000000-01e00000 : Kernel code
08000000-080fffff : Reserved
08100000-7ffdcfff : System RAM
fffc0000-ffffffff : Reserved
`
	for _, tc := range []struct {
		cmdline     string
		start, size uint64
		ok          bool
	}{
		{"console=ttyS0 memmap=1M$128M quiet", 128 << 20, 1 << 20, true},
		{"memmap=0x100000$0x8000000", 128 << 20, 1 << 20, true},
		{"memmap=2M$128M", 0, 0, false}, // half of it is in use
		{"memmap=1M$512M", 0, 0, false},
		{"memmap=1M@128M memmap=exactmap memmap= memmap=$ memmap=x$y", 0, 0, false},
		{"", 0, 0, false},
	} {
		start, size, ok := reservedMemory(tc.cmdline, iomem)
		if ok != tc.ok || start != tc.start || size != tc.size {
			t.Errorf("reservedMemory(%q) = %#x, %#x, %v", tc.cmdline, start, size, ok)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("Panic#2 Part1\n" + oopsText)
	f.Fuzz(func(t *testing.T, s string) {
		if _, what := crashesInRow([]record{parseRecord("f", s)}); what != printable(what) {
			t.Errorf("%q is not printable", what)
		}
	})
}
