package storage

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const tableDisk = minDisk

// cutDisk is a sparse disk with a volatile cache whose power fails.
type cutDisk struct {
	*os.File // what is durable, and what is in the cache and survives by chance
	left     int
	lucky    bool // what was not flushed survives
	undo     []func() error
}

var errPower = errors.New("power cut")

func newCutDisk(t *testing.T) *cutDisk {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err == nil {
		err = f.Truncate(tableDisk)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &cutDisk{File: f}
}

func (d *cutDisk) WriteAt(b []byte, at int64) (int, error) {
	if d.left--; d.left < 0 {
		return 0, errPower
	}
	old := make([]byte, len(b))
	if _, err := d.ReadAt(old, at); err != nil {
		return 0, err
	}
	d.undo = append(d.undo, func() error { _, err := d.File.WriteAt(old, at); return err })
	return d.File.WriteAt(b, at)
}

func (d *cutDisk) Sync() error {
	d.undo = nil
	return nil
}

// lose drops what the cache held.
func (d *cutDisk) lose(t *testing.T) {
	t.Helper()
	for len(d.undo) > 0 && !d.lucky {
		if err := d.undo[len(d.undo)-1](); err != nil {
			t.Fatal(err)
		}
		d.undo = d.undo[:len(d.undo)-1]
	}
	d.undo = nil
}

func (d *cutDisk) facts() DiskFacts {
	f := DiskFacts{Path: "/dev/vda", Size: tableDisk, Sector: 512}
	f.contents(d.File)
	return f
}

var _ fs.File = (*cutDisk)(nil)

func TestInitialisationGoesOnAfterAPowerCutAtAnyWrite(t *testing.T) {
	want := Layout(tableDisk)
	same := cmpopts.IgnoreFields(Slice{}, "Type", "UUID")
	for _, lucky := range []bool{false, true} {
		for cut := 0; ; cut++ {
			d := newCutDisk(t)
			d.left, d.lucky = cut, lucky
			err := writeTable(d, tableDisk, want)
			if err != nil && d.left >= 0 { // not the power cut
				t.Fatal(err)
			}
			d.lose(t)
			f, begin, cerr := ChooseDisk([]DiskFacts{d.facts()})
			if cerr != nil {
				t.Fatalf("cut at write %d, unflushed writes kept %v: %v", cut, lucky, cerr)
			}
			if begin {
				d.left = 1 << 20
				if err := writeTable(d, tableDisk, want); err != nil {
					t.Fatal(err)
				}
				f = d.facts()
			}
			if diff := cmp.Diff(want, f.Slices, same); diff != "" || f.Damaged {
				t.Fatalf("cut at write %d: damaged %v, %s", cut, f.Damaged, diff)
			}
			if err == nil {
				if begin || cut < 7 {
					t.Errorf("%d writes were enough, begin anew %v", cut, begin)
				}
				break
			}
		}
	}
}

func TestDamagedPrimaryTableIsMendedFromItsBackup(t *testing.T) {
	d := newCutDisk(t)
	d.left = 1 << 20
	if err := writeTable(d, tableDisk, Layout(tableDisk)); err != nil {
		t.Fatal(err)
	}
	good := make([]byte, 34*512)
	if _, err := d.ReadAt(good, 0); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int64{"header": 512, "entries": 1024 + 100, "signature": 512 + 4} {
		if _, err := d.File.WriteAt([]byte{0xa5}, at); err != nil {
			t.Fatal(err)
		}
		f, begin, err := ChooseDisk([]DiskFacts{d.facts()})
		if err != nil || begin || !f.Damaged || len(f.Slices) != 3 {
			t.Fatalf("%s: ChooseDisk = damaged %v, %d slices, begin %v, %v", name, f.Damaged, len(f.Slices), begin, err)
		}
		if err := mendTable(d, tableDisk/512); err != nil {
			t.Fatal(err)
		}
		now := make([]byte, len(good))
		if _, err := d.ReadAt(now, 0); err != nil || !bytes.Equal(now, good) {
			t.Errorf("%s: the mended table is not as it was (%v)", name, err)
		}
	}
}

func TestForeignDiskIsNeverTakenForABegunOne(t *testing.T) {
	d := newCutDisk(t)
	b := bytes.Clone(initMark)
	b[len(b)-1] = 1
	if _, err := d.File.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ChooseDisk([]DiskFacts{d.facts()}); !errors.Is(err, ErrNoDisk) {
		t.Errorf("ChooseDisk = %v, want ErrNoDisk", err)
	}
	if marked, err := isMarked(bytes.NewReader(nil)); marked || !errors.Is(err, io.EOF) {
		t.Errorf("isMarked(nothing) = %v, %v", marked, err)
	}
}
