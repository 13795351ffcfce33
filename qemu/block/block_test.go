package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func newDrive(t *testing.T, size int64, seed uint64) *Drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// model is what a drive may hold: for each sector the durable contents, and
// those written since.
type model struct {
	durable []uint64
	since   [][]uint64
}

func (m *model) write(sector int, v uint64) { m.since[sector] = append(m.since[sector], v) }

func (m *model) confirm(sector int) {
	if n := len(m.since[sector]); n > 0 {
		m.durable[sector], m.since[sector] = m.since[sector][n-1], nil
	}
}

// latest is what a sector reads as while the drive has power.
func (m *model) latest(sector int) uint64 {
	if s := m.since[sector]; len(s) > 0 {
		return s[len(s)-1]
	}
	return m.durable[sector]
}

// stamp fills sectors with a value that tells which write it was.
func stamp(v uint64, sectors int) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, v), sectors*Sector/8)
}

// After a power cut everything that was confirmed is there, and each sector is
// as one of the writes since left it.
func TestPowerCutLosesOnlyWhatWasNotFlushed(t *testing.T) {
	const sectors = 64
	for seed := range uint64(200) {
		d := newDrive(t, sectors*Sector, seed)
		rng := rand.New(rand.NewPCG(seed, 1))
		m := &model{durable: make([]uint64, sectors), since: make([][]uint64, sectors)}
		var version uint64
		check := func(when string, ok func(sector int, got uint64) bool) {
			t.Helper()
			b := make([]byte, sectors*Sector)
			if _, err := d.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			for s := range sectors {
				got := binary.BigEndian.Uint64(b[s*Sector:])
				if !bytes.Equal(b[s*Sector:(s+1)*Sector], stamp(got, 1)) {
					t.Fatalf("seed %d, %s: sector %d is a mixture", seed, when, s)
				}
				if !ok(s, got) {
					t.Fatalf("seed %d, %s: sector %d holds write %d; durable %d, since then %v", seed, when, s, got, m.durable[s], m.since[s])
				}
			}
		}
		for range 3 {
			for range 60 {
				at := rng.IntN(sectors)
				n := 1 + rng.IntN(min(8, sectors-at))
				version++
				var err error
				switch rng.IntN(10) {
				case 0:
					err = d.Flush()
					for s := range sectors {
						m.confirm(s)
					}
				case 1:
					_, err = d.WriteThrough(stamp(version, n), int64(at)*Sector)
					for s := at; s < at+n; s++ {
						m.write(s, version)
						m.confirm(s)
					}
				case 2:
					err = d.Trim(int64(at)*Sector, n*Sector)
					for s := at; s < at+n; s++ {
						m.write(s, 0)
					}
				default:
					_, err = d.WriteAt(stamp(version, n), int64(at)*Sector)
					for s := at; s < at+n; s++ {
						m.write(s, version)
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			check("with power", func(s int, got uint64) bool { return got == m.latest(s) })
			if _, err := d.PowerCut(DefaultLoss); err != nil {
				t.Fatal(err)
			}
			check("after a cut", func(s int, got uint64) bool { return got == m.durable[s] || slices.Contains(m.since[s], got) })
			b := make([]byte, sectors*Sector) // what is there now is there to stay
			if _, err := d.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			for s := range sectors {
				m.durable[s], m.since[s] = binary.BigEndian.Uint64(b[s*Sector:]), nil
			}
		}
	}
}

func TestPowerCutKeepsTearsAndLoses(t *testing.T) {
	run := func(seed uint64) (Cut, []byte) {
		d := newDrive(t, 1<<20, seed)
		for i := range 100 {
			if _, err := d.WriteAt(stamp(uint64(i+1), 8), int64(i)*4096); err != nil {
				t.Fatal(err)
			}
		}
		if n := d.Unflushed(); n != 100 {
			t.Errorf("%d writes unflushed, want 100", n)
		}
		c, err := d.PowerCut(DefaultLoss)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<20)
		if _, err := d.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		return c, b
	}
	c, first := run(7)
	if c.Kept == 0 || c.Torn == 0 || c.Lost == 0 || c.Kept+c.Torn+c.Lost != 100 {
		t.Errorf("a cut = %+v, want some of each", c)
	}
	if again, second := run(7); again != c || !bytes.Equal(first, second) {
		t.Errorf("the same seed gave %+v, then %+v", c, again)
	}
	if _, other := run(8); bytes.Equal(first, other) {
		t.Error("another seed lost the same")
	}
}

func TestFaults(t *testing.T) {
	d := newDrive(t, 1<<20, 1)
	b := make([]byte, 4096)
	for _, c := range []struct {
		name       string
		fault      Fault
		read, near error // of offset 0, of the range 64K to 128K
		write      error
	}{
		{"none", Fault{}, nil, nil, nil},
		{"read errors", Fault{ReadErrors: true}, ErrIO, ErrIO, nil},
		{"read errors in a range", Fault{ReadErrors: true, From: 64 << 10, To: 128 << 10}, nil, ErrIO, nil},
		{"write errors", Fault{WriteErrors: true}, nil, nil, ErrIO},
		{"full", Fault{Full: true}, nil, nil, ErrFull},
	} {
		if err := d.SetFault(c.fault); err != nil {
			t.Fatal(err)
		}
		_, read := d.ReadAt(b, 0)
		_, near := d.ReadAt(b, 100<<10)
		_, write := d.WriteAt(b, 0)
		if !errors.Is(read, c.read) || !errors.Is(near, c.near) || !errors.Is(write, c.write) {
			t.Errorf("%s: read %v, in the range %v, write %v; want %v, %v, %v", c.name, read, near, write, c.read, c.near, c.write)
		}
	}
	d.Heal()
	if _, err := d.ReadAt(b, 1<<20-512); !errors.Is(err, ErrRange) {
		t.Errorf("read over the end: %v", err)
	}
	if err := d.SetFault(Fault{From: 2, To: 1}); err == nil {
		t.Error("a range that ends before it begins is fine")
	}
}

func TestStallAndThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDrive(t, 1<<20, 1)
		b := make([]byte, 512)
		set := func(f Fault) {
			if err := d.SetFault(f); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		read := func() (took time.Duration, err error) {
			start := time.Now()
			_, err = d.ReadAt(b, 0)
			return time.Since(start), err
		}
		set(Fault{Stall: true})
		wg.Go(func() {
			if took, err := read(); took != time.Minute || err != nil {
				t.Errorf("a stall of a minute took %v, %v", took, err)
			}
		})
		time.Sleep(time.Minute)
		d.Heal()
		wg.Wait()

		set(Fault{Stall: true})
		wg.Go(func() {
			if _, err := read(); !errors.Is(err, ErrIO) {
				t.Errorf("aborted stall: %v", err)
			}
		})
		time.Sleep(time.Second)
		d.Abort(true)
		wg.Wait()
		d.Abort(false)
		d.Heal()

		set(Fault{PerSecond: 10})
		start := time.Now()
		for range 21 {
			read()
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("21 reads at 10/s took %v", took)
		}
		set(Fault{Delay: time.Second})
		if took, _ := read(); took != time.Second {
			t.Errorf("delayed read took %v", took)
		}
	})
}

func TestBitRot(t *testing.T) {
	d := newDrive(t, 1<<20, 3)
	if _, err := d.Rot(1); err == nil {
		t.Error("an empty drive rots")
	}
	if _, err := d.WriteAt(stamp(0, 8), 512<<10); err != nil {
		t.Fatal(err)
	}
	places, err := d.Rot(3)
	if err != nil || len(places) != 3 {
		t.Fatalf("rot: %v, %v", places, err)
	}
	for _, at := range places {
		var b [1]byte
		if _, err := d.ReadAt(b[:], at); err != nil || b[0] == 0 || at < 512<<10 || at >= 516<<10 {
			t.Errorf("byte %d = %#x, %v: want one bit set among the data", at, b[0], err)
		}
	}
	if err := d.RotAt(1 << 20); !errors.Is(err, ErrRange) {
		t.Errorf("rot beyond the end: %v", err)
	}
}

func TestTrimGivesBlocksBack(t *testing.T) {
	d := newDrive(t, 16<<20, 1)
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 8<<20), 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := d.Zero(0, 16<<20); err != nil {
		t.Fatal(err)
	}
	if e, err := d.data(0, d.size); err != nil || len(e) != 0 {
		t.Errorf("data after trim: %v, %v", e, err)
	}
	if _, err := d.PowerCut(Loss{}); err != nil { // the trim is lost, too
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := d.ReadAt(b, 4<<20); err != nil || b[0] != 0 {
		t.Errorf("after a cut that lost write and trim: %v, %v", b, err)
	}
}

// QEMU's own tool reads and writes over the protocol.
func TestNBDWithQEMU(t *testing.T) {
	tool, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skipf("needs qemu-io: %v; apt-get install qemu-utils", err)
	}
	d := newDrive(t, 64<<20, 1)
	socket := filepath.Join(t.TempDir(), "nbd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { d.Serve(l, func(err error) { t.Error(err) }) })
	defer serving.Wait()
	defer l.Close()
	io := func(commands ...string) string {
		t.Helper()
		args := []string{"-f", "raw", "--discard=unmap"}
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		out, err := exec.CommandContext(t.Context(), tool, append(args, "nbd+unix:///?socket="+socket)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", commands, err, out)
		}
		return string(out)
	}
	io("write -P 0x5a 1M 3M", "write -f -P 0xa5 9M 64k", "flush", "read -P 0x5a 1M 3M", "read -P 0xa5 9M 64k", "write -z -u 2M 1M", "read -P 0 2M 1M", "discard 0 2M", "read -P 0 1M 512")
	if err := d.SetFault(Fault{ReadErrors: true}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "-f", "raw", "-c", "read 0 512", "nbd+unix:///?socket="+socket).CombinedOutput(); !strings.Contains(string(out), "Input/output error") {
		t.Errorf("read of a broken drive: %v, %s", err, out)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("NBD"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := readRequest(bytes.NewReader(b)); err == nil && q.n > maxPayload && (q.kind == cmdRead || q.kind == cmdWrite) {
			t.Errorf("a request of %d bytes passed", q.n)
		}
	})
}
