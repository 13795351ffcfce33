package block

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Sector is the unit that a drive writes whole or not at all.
const Sector = 512

// cacheSize is how much of what was overwritten is on record. Beyond it the
// oldest writes count as done, as a drive's cache is of that size, too.
const cacheSize = 64 << 20

// Errors of a drive, as the protocol knows them.
var (
	ErrIO    = errors.New("input/output error")
	ErrFull  = errors.New("no space left on the medium")
	ErrRange = errors.New("beyond the end of the drive")
)

// A Drive is a file that behaves like a disk drive. Its methods are safe for
// concurrent use; requests that overlap may take effect in any order.
type Drive struct {
	file *os.File
	size int64

	mu      sync.Mutex // held while the file and the record of it change
	rng     *rand.Rand
	undo    []undone // what unflushed writes overwrote, the oldest first
	undoLen int
	faults  faults
	clients int
	idle    chan struct{} // closed when there are none; nil: nobody waits
}

// undone is what was in a place before a write.
type undone struct {
	at  int64
	old []byte // nil: zeroes
	n   int
}

// Open opens the file of a drive, which must exist and has its size.
func Open(path string, seed uint64) (*Drive, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size()%Sector != 0 {
		err = fmt.Errorf("%s: size %d is no multiple of %d", path, st.Size(), Sector)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	d := &Drive{file: f, size: st.Size(), rng: rand.New(rand.NewPCG(seed, seed))}
	d.faults.init()
	return d, nil
}

// Size returns the drive's size in bytes.
func (d *Drive) Size() int64 { return d.size }

// Close closes the file. Requests that stall end with an error.
func (d *Drive) Close() error {
	d.Heal()
	return d.file.Close()
}

func (d *Drive) check(at int64, n int) error {
	if at < 0 || n < 0 || at > d.size-int64(n) {
		return ErrRange
	}
	return nil
}

// ReadAt reads, see io.ReaderAt.
func (d *Drive) ReadAt(b []byte, at int64) (int, error) {
	if err := errors.Join(d.check(at, len(b)), d.faults.before(opRead, at, len(b))); err != nil {
		return 0, err
	}
	return d.file.ReadAt(b, at)
}

// WriteAt writes into the cache, see io.WriterAt.
func (d *Drive) WriteAt(b []byte, at int64) (int, error) {
	if err := errors.Join(d.check(at, len(b)), d.faults.before(opWrite, at, len(b))); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.record(at, len(b)); err != nil {
		return 0, err
	}
	return d.file.WriteAt(b, at)
}

// Zero writes zeroes, and gives the file's blocks back.
func (d *Drive) Zero(at int64, n int) error {
	if err := errors.Join(d.check(at, n), d.faults.before(opWrite, at, n)); err != nil {
		return err
	}
	return d.punch(at, n)
}

// Trim gives blocks back. They read as zeroes afterwards.
func (d *Drive) Trim(at int64, n int) error {
	if err := errors.Join(d.check(at, n), d.faults.before(opTrim, at, n)); err != nil {
		return err
	}
	return d.punch(at, n)
}

func (d *Drive) punch(at int64, n int) error {
	const step = 4 << 20 // a record holds what it overwrites in memory
	d.mu.Lock()
	defer d.mu.Unlock()
	extents, err := d.data(at, at+int64(n))
	if err != nil {
		return err
	}
	for _, e := range extents { // holes stay holes
		for from := e[0]; from < e[1]; from += step {
			part := int(min(step, e[1]-from))
			if err := errors.Join(d.record(from, part), d.hole(from, part)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Drive) hole(at int64, n int) error {
	return unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, int64(n))
}

// Flush makes all that was written before durable.
func (d *Drive) Flush() error {
	if err := d.faults.before(opFlush, 0, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.undo, d.undoLen = nil, 0
	return nil
}

// WriteThrough is WriteAt of which nothing is lost. It says nothing of the
// writes before.
func (d *Drive) WriteThrough(b []byte, at int64) (int, error) {
	if err := errors.Join(d.check(at, len(b)), d.faults.before(opWrite, at, len(b))); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file.WriteAt(b, at)
	// An older write to the same place cannot come back over this one.
	for i := range d.undo {
		d.undo[i].settle(at, b)
	}
	return n, err
}

// settle makes what is restored in a place the new contents.
func (u *undone) settle(at int64, b []byte) {
	from, to := max(u.at, at), min(u.at+int64(u.n), at+int64(len(b)))
	if from >= to {
		return
	}
	if u.old == nil {
		u.old = make([]byte, u.n)
	}
	copy(u.old[from-u.at:to-u.at], b[from-at:to-at])
}

// record keeps what a write is about to overwrite.
func (d *Drive) record(at int64, n int) error {
	u := undone{at: at, n: n, old: make([]byte, n)}
	if _, err := d.file.ReadAt(u.old, at); err != nil && err != io.EOF {
		return err
	}
	if zeroes(u.old) {
		u.old = nil
	}
	d.undo = append(d.undo, u)
	d.undoLen += n
	for d.undoLen > cacheSize {
		d.undoLen -= d.undo[0].n
		d.undo = d.undo[1:]
	}
	return nil
}

func zeroes(b []byte) bool { return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// Loss says what becomes of the unflushed writes at a power cut. The rest of
// both probabilities is that a write is lost whole.
type Loss struct {
	Keep float64 // that a write is there
	Torn float64 // that some of its sectors are
}

// DefaultLoss is a drive that had no time to do much.
var DefaultLoss = Loss{Keep: 0.4, Torn: 0.2}

// A Cut tells what a power cut did.
type Cut struct{ Kept, Torn, Lost int }

// PowerCut takes the power from the drive: its cache is gone.
func (d *Drive) PowerCut(l Loss) (Cut, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var c Cut
	// Backwards to the state of the last flush, keeping what each write wrote.
	written := make([][]byte, len(d.undo))
	for i := len(d.undo) - 1; i >= 0; i-- {
		u := d.undo[i]
		written[i] = make([]byte, u.n)
		if _, err := d.file.ReadAt(written[i], u.at); err != nil {
			return c, err
		}
		if err := d.restore(u); err != nil {
			return c, err
		}
	}
	for i, u := range d.undo {
		switch dice := d.rng.Float64(); {
		case dice < l.Keep:
			c.Kept++
			if _, err := d.file.WriteAt(written[i], u.at); err != nil {
				return c, err
			}
		case dice < l.Keep+l.Torn:
			c.Torn++
			if err := d.tear(u, written[i]); err != nil {
				return c, err
			}
		default:
			c.Lost++
		}
	}
	d.undo, d.undoLen = nil, 0
	return c, nil
}

func (d *Drive) restore(u undone) error {
	if u.old == nil {
		return d.hole(u.at, u.n)
	}
	_, err := d.file.WriteAt(u.old, u.at)
	return err
}

// tear writes each sector of a write, or not.
func (d *Drive) tear(u undone, written []byte) error {
	for at := 0; at < u.n; at += Sector {
		if d.rng.IntN(2) == 0 {
			continue
		}
		if _, err := d.file.WriteAt(written[at:min(at+Sector, u.n)], u.at+int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// Unflushed tells how many writes a power cut could lose.
func (d *Drive) Unflushed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.undo)
}
