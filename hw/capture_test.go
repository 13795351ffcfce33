package hw

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata/*/want.json from what Probe says now")

// TestProbeCaptures reads real machines. Each directory of testdata is one:
// its files under sys and proc, SOURCE about where they come from, and
// want.json, which a reviewer reads.
func TestProbeCaptures(t *testing.T) {
	machines, err := filepath.Glob("testdata/*/SOURCE")
	if err != nil || len(machines) < 2 {
		t.Fatalf("captures: %v, %v", machines, err)
	}
	for _, source := range machines {
		dir := filepath.Dir(source)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			got, err := Probe(dir)
			if err != nil {
				t.Errorf("Probe: %v", err)
			}
			file := filepath.Join(dir, "want.json")
			if *update {
				b, err := json.MarshalIndent(got, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v: run go test ./hw -update and read what it writes", err)
			}
			var want Inventory
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want.json +Probe):\n%s", diff)
			}
			for _, nic := range got.NICs {
				if nic.PCI == "" {
					continue
				}
				if n, err := FindSlot(dir, nic.PCI); n != nic.Slot || err != nil {
					t.Errorf("FindSlot(%s) = %d, %v, want %d", nic.PCI, n, err, nic.Slot)
				}
				if other, ok := got.NICBySlot(nic.Slot); ok != (nic.Slot > 0) || ok && other.Slot != nic.Slot {
					t.Errorf("NICBySlot(%d) = %+v, %v", nic.Slot, other, ok)
				}
			}
		})
	}
}
