package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Blocks of the workload. Write number S goes to slot S modulo the number of
// slots, so what every slot must hold follows from the highest number alone:
// a lost write shows even after the machine died, with no note kept elsewhere.
const (
	blockSize = 4096
	magic     = "SAMPLEOS"
	// gapLimit is the silence that is worth a line of its own.
	gapLimit = 500 * time.Millisecond
)

// fillBlock makes the block of write seq in b: magic, number, a pattern that
// depends on the number, and the SHA-256 of all that at the end.
func fillBlock(b []byte, seq uint64) {
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], seq)
	x := seq*0x9e3779b97f4a7c15 + 1
	for i := 16; i < blockSize-sha256.Size; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	sum := sha256.Sum256(b[:blockSize-sha256.Size])
	copy(b[blockSize-sha256.Size:], sum[:])
}

var errTorn = errors.New("checksum does not match")

// parseBlock returns the number of the write in b, 0 for a block never
// written.
func parseBlock(b []byte) (uint64, error) {
	if allZero(b) {
		return 0, nil
	}
	sum := sha256.Sum256(b[:blockSize-sha256.Size])
	if string(b[:8]) != magic || string(sum[:]) != string(b[blockSize-sha256.Size:]) {
		return 0, errTorn
	}
	return binary.LittleEndian.Uint64(b[8:]), nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// expected is the number that slot holds once write last is done: the highest
// number up to last that belongs to the slot, 0 if there is none.
func expected(slot, slots, last uint64) uint64 {
	back := (last + slots - slot) % slots // distance from last down to the slot
	if back > last {
		return 0
	}
	return last - back
}

// A verdict is the outcome of reading everything again.
type verdict struct {
	Blocks uint64 // slots read
	Last   uint64 // highest write found
	Torn   int    // blocks whose checksum is wrong
	Lost   int    // blocks older than they must be
	Alien  int    // blocks that belong elsewhere
	First  string // the first thing found wrong
}

func (v verdict) String() string {
	return fmt.Sprintf("blocks=%d last=%d torn=%d lost=%d alien=%d", v.Blocks, v.Last, v.Torn, v.Lost, v.Alien)
}

// Err is nil for a volume without a fault.
func (v verdict) Err() error {
	if v.Torn+v.Lost+v.Alien == 0 {
		return nil
	}
	return fmt.Errorf("%v, first: %s", v, v.First)
}

func (v *verdict) note(count *int, format string, args ...any) {
	if *count++; v.First == "" {
		v.First = fmt.Sprintf(format, args...)
	}
}

// judge compares what each slot holds. seqs and errs have an entry a slot;
// must is the number of the last write that certainly was acknowledged, or 0.
func judge(seqs []uint64, errs []error, must uint64) verdict {
	slots := uint64(len(seqs))
	v := verdict{Blocks: slots}
	for _, s := range seqs {
		v.Last = max(v.Last, s)
	}
	if v.Last < must {
		v.note(&v.Lost, "highest write is %d, write %d was acknowledged", v.Last, must)
	}
	for i, s := range seqs {
		slot := uint64(i)
		want := expected(slot, slots, v.Last)
		switch {
		case errs[i] != nil:
			v.note(&v.Torn, "slot %d: %v", slot, errs[i])
		case s != 0 && s%slots != slot:
			v.note(&v.Alien, "slot %d holds write %d", slot, s)
		case s < want:
			v.note(&v.Lost, "slot %d holds write %d, must hold %d", slot, s, want)
		}
	}
	return v
}

// device is the part of the disk the workload owns.
type device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// workload writes and checks blocks on a device.
type workload struct {
	con   *console
	dev   device
	slots uint64
	rate  atomic.Int64 // writes a second, 0 = no limit

	mu     sync.Mutex // held for one write and its check; guards buffers
	wbuf   []byte
	rbuf   []byte
	halted bool

	seq        atomic.Uint64 // last acknowledged write
	synced     atomic.Uint64 // last write known to be flushed
	writes     atomic.Uint64 // acknowledged since the start
	errors     atomic.Uint64
	mismatches atomic.Uint64
	lastDone   atomic.Int64 // when the last write was done and checked, monotonic ns
	busySince  atomic.Int64 // when the present operation began, 0 = idle
	maxGap     atomic.Int64 // longest gap of this second, ns
}

// openWorkload opens the partition without the page cache and continues after
// the highest write it finds there.
func openWorkload(file string, con *console, rate int) (*workload, error) {
	f, err := os.OpenFile(file, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("workload %s: size: %w", file, err)
	}
	if size < blockSize {
		return nil, fmt.Errorf("workload %s: %d bytes are too few", file, size)
	}
	return newWorkload(f, uint64(size/blockSize), con, rate)
}

func newWorkload(dev device, slots uint64, con *console, rate int) (*workload, error) {
	w := &workload{con: con, dev: dev, slots: slots, wbuf: aligned(blockSize), rbuf: aligned(scanSize)}
	w.rate.Store(int64(rate))
	w.mu.Lock()
	defer w.mu.Unlock()
	seqs, errs, err := w.scan()
	if err != nil {
		return nil, fmt.Errorf("workload: read what is there: %w", err)
	}
	v := judge(seqs, errs, 0)
	if err := v.Err(); err != nil {
		w.mismatches.Add(uint64(v.Torn + v.Lost + v.Alien))
		con.Printf("MISMATCH at start: %v", err)
	}
	w.seq.Store(v.Last)
	w.synced.Store(v.Last)
	return w, nil
}

// scanSize is the length of one read of a scan, in bytes.
const scanSize = 64 * blockSize

// scan reads every slot. The caller holds mu.
func (w *workload) scan() ([]uint64, []error, error) {
	seqs := make([]uint64, w.slots)
	errs := make([]error, w.slots)
	for slot := uint64(0); slot < w.slots; {
		n := min(uint64(scanSize/blockSize), w.slots-slot)
		buf := w.rbuf[:n*blockSize]
		if _, err := w.dev.ReadAt(buf, int64(slot*blockSize)); err != nil {
			return nil, nil, err
		}
		for ; len(buf) > 0; buf = buf[blockSize:] {
			seqs[slot], errs[slot] = parseBlock(buf[:blockSize])
			slot++
		}
	}
	return seqs, errs, nil
}

// Run writes and checks until Halt.
func (w *workload) Run() {
	w.lastDone.Store(monotonic())
	for {
		start := monotonic()
		if !w.once() {
			return
		}
		if rate := w.rate.Load(); rate > 0 {
			pause := time.Second/time.Duration(rate) - time.Duration(monotonic()-start)
			time.Sleep(max(pause, 0))
		}
	}
}

// once does one write with its check; it reports false after Halt.
func (w *workload) once() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.halted {
		return false
	}
	seq := w.seq.Load() + 1
	off := int64(seq % w.slots * blockSize)
	fillBlock(w.wbuf, seq)
	w.busySince.Store(monotonic())
	if _, err := w.dev.WriteAt(w.wbuf, off); err != nil {
		w.failed("write", seq, err)
		return true
	}
	w.seq.Store(seq)
	w.writes.Add(1)
	got := w.rbuf[:blockSize]
	clear(got)
	if _, err := w.dev.ReadAt(got, off); err != nil {
		w.failed("read", seq, err)
		return true
	}
	if n, err := parseBlock(got); err != nil || n != seq {
		w.mismatches.Add(1)
		w.con.Printf("MISMATCH wrote seq=%d, read %d (%v)", seq, n, err)
	}
	w.done()
	return true
}

// done closes the present operation and looks at the time since the last one.
func (w *workload) done() {
	now := monotonic()
	begin := w.busySince.Swap(0)
	w.lastDone.Store(now)
	gap := now - begin
	storeMax(&w.maxGap, gap)
	if time.Duration(gap) > gapLimit {
		w.con.Printf("GAP %.2f s", time.Duration(gap).Seconds())
	}
}

func (w *workload) failed(op string, seq uint64, err error) {
	w.errors.Add(1)
	w.con.Printf("IOERROR %s seq=%d: %v", op, seq, err)
	w.done()
	time.Sleep(100 * time.Millisecond)
}

func storeMax(a *atomic.Int64, v int64) {
	for {
		old := a.Load()
		if v <= old || a.CompareAndSwap(old, v) {
			return
		}
	}
}

// Report prints the counters each second, also while an operation hangs, and
// flushes the device so that synced follows seq.
func (w *workload) Report() {
	go func() {
		for range time.Tick(time.Second) {
			if _, err := w.flush(); err != nil {
				w.errors.Add(1)
				w.con.Printf("IOERROR flush: %v", err)
			}
		}
	}()
	for range time.Tick(time.Second) {
		w.con.Printf("IO %s", w.Stat())
	}
}

// Stat returns the counters; maxgap is that of the time since the last call.
func (w *workload) Stat() string {
	gap := w.maxGap.Swap(0)
	if begin := w.busySince.Load(); begin != 0 {
		gap = max(gap, monotonic()-begin)
	}
	return fmt.Sprintf("writes=%d errors=%d mismatches=%d maxgap=%dms seq=%d synced=%d", w.writes.Load(), w.errors.Load(),
		w.mismatches.Load(), time.Duration(gap).Milliseconds(), w.seq.Load(), w.synced.Load())
}

// flush makes all acknowledged writes durable and returns the last of them.
func (w *workload) flush() (uint64, error) {
	seq := w.seq.Load()
	if err := w.dev.Sync(); err != nil {
		return 0, err
	}
	for {
		old := w.synced.Load()
		if seq <= old || w.synced.CompareAndSwap(old, seq) {
			return seq, nil
		}
	}
}

// Sync flushes the device and the file systems.
func (w *workload) Sync() (uint64, error) {
	unix.Sync()
	return w.flush()
}

// Verify reads all blocks again.
func (w *workload) Verify() (verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seqs, errs, err := w.scan()
	if err != nil {
		return verdict{}, err
	}
	return judge(seqs, errs, w.seq.Load()), nil
}

// SetRate changes the number of writes a second.
func (w *workload) SetRate(perSecond int) { w.rate.Store(int64(perSecond)) }

// Halt waits for the present write, flushes and ends Run.
func (w *workload) Halt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.halted = true
	if _, err := w.flush(); err != nil {
		w.con.Printf("IOERROR flush: %v", err)
	}
}

var start = time.Now()

func monotonic() int64 { return int64(time.Since(start)) + 1 }

// aligned returns size bytes at an address that O_DIRECT takes.
func aligned(size int) []byte {
	b := make([]byte, size+blockSize)
	skip := -uintptr(unsafe.Pointer(&b[0])) & (blockSize - 1)
	return b[skip : int(skip)+size : int(skip)+size]
}

// Seq is the number of the last acknowledged write of this volume.
func (w *workload) Seq() uint64 { return w.seq.Load() }
