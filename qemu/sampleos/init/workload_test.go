package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseBlockReturnsTheNumberWritten(t *testing.T) {
	b := make([]byte, blockSize)
	if n, err := parseBlock(b); n != 0 || err != nil {
		t.Errorf("parseBlock(zeros) = %d, %v, want 0, nil", n, err)
	}
	for _, seq := range []uint64{1, 2, 1 << 40} {
		fillBlock(b, seq)
		if n, err := parseBlock(b); n != seq || err != nil {
			t.Errorf("parseBlock(fillBlock(%d)) = %d, %v", seq, n, err)
		}
		for _, at := range []int{0, 9, 512, blockSize - 1} {
			b[at] ^= 1
			if _, err := parseBlock(b); !errors.Is(err, errTorn) {
				t.Errorf("block %d with byte %d changed: error %v, want %v", seq, at, err, errTorn)
			}
			b[at] ^= 1
		}
	}
}

func TestExpectedFollowsFromTheLastWrite(t *testing.T) {
	// Writing in turn is the definition; expected must agree with it.
	for _, slots := range []uint64{1, 3, 8} {
		have := make([]uint64, slots)
		for last := uint64(0); last < 4*slots; last++ {
			have[last%slots] = last
			got := make([]uint64, slots)
			for slot := range got {
				got[slot] = expected(uint64(slot), slots, last)
			}
			if diff := cmp.Diff(have, got); diff != "" {
				t.Fatalf("%d slots, write %d (-want +got):\n%s", slots, last, diff)
			}
		}
	}
}

func TestJudgeFindsWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		name string
		seqs []uint64
		torn int // slot with a wrong checksum, -1 for none
		must uint64
		want verdict
	}{
		{"never written", []uint64{0, 0, 0}, -1, 0, verdict{Blocks: 3}},
		{"first round", []uint64{0, 1, 2}, -1, 2, verdict{Blocks: 3, Last: 2}},
		{"later", []uint64{6, 7, 5}, -1, 7, verdict{Blocks: 3, Last: 7}},
		{"one more than acknowledged", []uint64{6, 7, 5}, -1, 6, verdict{Blocks: 3, Last: 7}},
		{"the last is lost", []uint64{6, 4, 5}, -1, 7,
			verdict{Blocks: 3, Last: 6, Lost: 1, First: "highest write is 6, write 7 was acknowledged"}},
		{"one in the middle is lost", []uint64{3, 7, 5}, -1, 7,
			verdict{Blocks: 3, Last: 7, Lost: 1, First: "slot 0 holds write 3, must hold 6"}},
		{"torn", []uint64{6, 0, 8}, 1, 8, verdict{Blocks: 3, Last: 8, Torn: 1, First: "slot 1: checksum does not match"}},
		{"misplaced", []uint64{7, 7, 5}, -1, 7, verdict{Blocks: 3, Last: 7, Alien: 1, First: "slot 0 holds write 7"}},
	} {
		errs := make([]error, len(tc.seqs))
		if tc.torn >= 0 {
			errs[tc.torn] = errTorn
		}
		got := judge(tc.seqs, errs, tc.must)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: judge (-want +got):\n%s", tc.name, diff)
		}
		if bad := tc.want.First != ""; (got.Err() != nil) != bad {
			t.Errorf("%s: Err() = %v, want error: %v", tc.name, got.Err(), bad)
		}
	}
}

// memory is a device that fails when it is told to.
type memory struct {
	data      []byte
	failWrite error
	forget    bool // acknowledge writes and drop them
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return copy(p, m.data[off:]), nil }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.failWrite != nil {
		return 0, m.failWrite
	}
	if !m.forget {
		copy(m.data[off:], p)
	}
	return len(p), nil
}

func (m *memory) Sync() error { return nil }

func newTestWorkload(t *testing.T, m *memory, out io.Writer) *workload {
	t.Helper()
	w, err := newWorkload(m, uint64(len(m.data)/blockSize), newConsole(out), 0)
	if err != nil {
		t.Fatalf("newWorkload: %v", err)
	}
	return w
}

func TestWorkloadContinuesAfterARestart(t *testing.T) {
	m := &memory{data: make([]byte, 5*blockSize)}
	w := newTestWorkload(t, m, io.Discard)
	for range 7 {
		w.once()
	}
	if again := newTestWorkload(t, m, io.Discard); again.Seq() != 7 || again.mismatches.Load() != 0 {
		t.Errorf("after 7 writes a new workload starts at %d with %d mismatches, want 7 and 0", again.Seq(), again.mismatches.Load())
	}
	v, err := w.Verify()
	if err != nil || v.Err() != nil {
		t.Errorf("Verify() = %v, %v, %v", v, err, v.Err())
	}
}

func TestWorkloadPrintsErrorsAndRetriesTheSameWrite(t *testing.T) {
	m := &memory{data: make([]byte, 4*blockSize), failWrite: unix.EIO}
	var out bytes.Buffer
	w := newTestWorkload(t, m, &out)
	w.once()
	m.failWrite = nil
	w.once()
	if w.Seq() != 1 || w.errors.Load() != 1 {
		t.Errorf("seq %d and %d errors, want 1 and 1", w.Seq(), w.errors.Load())
	}
	if want := "SAMPLE-OS IOERROR write seq=1: input/output error\r\n"; out.String() != want {
		t.Errorf("console %q, want %q", out.String(), want)
	}
}

func TestWorkloadSeesAWriteThatWasNotDone(t *testing.T) {
	m := &memory{data: make([]byte, 4*blockSize), forget: true}
	var out bytes.Buffer
	w := newTestWorkload(t, m, &out)
	w.once()
	if w.mismatches.Load() != 1 || !strings.HasPrefix(out.String(), "SAMPLE-OS MISMATCH wrote seq=1") {
		t.Errorf("%d mismatches, console %q", w.mismatches.Load(), out.String())
	}
}

func TestHaltStopsTheWorkload(t *testing.T) {
	w := newTestWorkload(t, &memory{data: make([]byte, 4*blockSize)}, io.Discard)
	w.once()
	w.Halt()
	if w.once() {
		t.Error("once() = true after Halt")
	}
	if got := w.synced.Load(); got != 1 {
		t.Errorf("Halt left synced at %d, want 1", got)
	}
}
