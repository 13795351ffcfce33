package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Bounds of what is kept.
const (
	fileBytes  = 2 << 20 // of one file
	files      = 4
	lookEvery  = 300 * time.Millisecond
	syncEvery  = 5 * time.Second
	subscriber = 1024 // entries that one who follows may be behind
)

func keys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// Config is what a Journal works with.
type Config struct {
	Ring string // path of PID 1's ring; its older half is Ring.1
	Dir  string // for the files; empty: nothing is kept
	Log  *slog.Logger
}

// Journal keeps the log. It is safe for concurrent use.
type Journal struct {
	cfg Config

	mu   sync.Mutex
	out  *os.File
	size int64
	subs map[chan Entry]bool
}

// New makes a Journal; Run starts it.
func New(cfg Config) *Journal { return &Journal{cfg: cfg, subs: map[chan Entry]bool{}} }

// Run follows the ring until ctx ends.
func (j *Journal) Run(ctx context.Context) error {
	last, _, err := j.lastKept()
	if err != nil {
		j.cfg.Log.Warn("journal", "err", err)
	}
	r := &ringReader{path: j.cfg.Ring}
	defer r.close()
	j.add(after(r.old(), last))
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	synced := time.Now()
	for {
		select {
		case <-ctx.Done():
			j.add(r.more())
			return j.close()
		case <-tick.C:
		}
		j.add(r.more())
		if time.Since(synced) > syncEvery {
			synced = time.Now()
			j.sync()
		}
	}
}

// after leaves out what was kept before the daemon last ended: entries up to
// the last kept one, if the ring still has it.
func after(lines []Entry, last Entry) []Entry {
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i].Time.Equal(last.Time) && lines[i].Source == last.Source && lines[i].Message == last.Message {
			return lines[i+1:]
		}
	}
	return lines
}

// add keeps entries and passes them on.
func (j *Journal) add(entries []Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range entries {
		if err := j.keep(e); err != nil && j.cfg.Dir != "" {
			j.cfg.Log.Warn("journal: entries are kept in memory only", "err", err)
			j.cfg.Dir = ""
		}
		for c := range j.subs {
			select {
			case c <- e:
			default: // it is too slow; the next look at the files has all
			}
		}
	}
}

func (j *Journal) name(n int) string {
	if n == 0 {
		return filepath.Join(j.cfg.Dir, "log.jsonl")
	}
	return filepath.Join(j.cfg.Dir, fmt.Sprintf("log.%d.jsonl", n))
}

// keep appends an entry; mu is held.
func (j *Journal) keep(e Entry) error {
	if j.cfg.Dir == "" {
		return nil
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if j.out != nil && j.size+int64(len(b)) >= fileBytes {
		if err := j.turn(); err != nil {
			return err
		}
	}
	if j.out == nil {
		if err := os.MkdirAll(j.cfg.Dir, 0o700); err != nil {
			return err
		}
		if j.out, err = os.OpenFile(j.name(0), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return err
		}
		st, err := j.out.Stat()
		if err != nil {
			return err
		}
		if j.size = st.Size(); j.size > 0 && !endsLine(j.name(0), j.size) { // a power cut
			b = append([]byte{'\n'}, b...)
		}
	}
	n, err := j.out.Write(append(b, '\n'))
	j.size += int64(n)
	return err
}

func endsLine(path string, size int64) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, size-1)
	return err == nil && b[0] == '\n'
}

// turn makes room: the oldest file goes.
func (j *Journal) turn() error {
	err := errors.Join(j.out.Sync(), j.out.Close())
	j.out = nil
	for n := files - 2; n >= 0; n-- {
		if e := os.Rename(j.name(n), j.name(n+1)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (j *Journal) sync() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.out != nil {
		_ = j.out.Sync() // the next one may do it
	}
}

func (j *Journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.out == nil {
		return nil
	}
	err := errors.Join(j.out.Sync(), j.out.Close())
	j.out = nil
	return err
}

// Last returns the newest n entries, oldest first: from the files, or from the
// ring if nothing is kept.
func (j *Journal) Last(n int) ([]Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last(n)
}

func (j *Journal) last(n int) ([]Entry, error) { // under mu
	if j.cfg.Dir == "" {
		all := (&ringReader{path: j.cfg.Ring}).old()
		return all[max(0, len(all)-n):], nil
	}
	var out []Entry
	for i := range files {
		if len(out) >= n {
			break
		}
		b, err := os.ReadFile(j.name(i))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		out = append(decode(b), out...)
	}
	return out[max(0, len(out)-n):], nil
}

func (j *Journal) lastKept() (Entry, bool, error) {
	all, err := j.Last(1)
	if err != nil || len(all) == 0 || j.cfg.Dir == "" {
		return Entry{}, false, err
	}
	return all[0], true, nil
}

// decode leaves out lines that a power cut tore.
func decode(b []byte) []Entry {
	var out []Entry
	for line := range bytes.Lines(b) {
		var e Entry
		if json.Unmarshal(line, &e) == nil {
			out = append(out, e)
		}
	}
	return out
}

// Follow passes the newest n entries to use, and then each new one, none left out
// in between, until ctx ends or use fails.
func (j *Journal) Follow(ctx context.Context, n int, use func(Entry) error) error {
	c := make(chan Entry, subscriber)
	j.mu.Lock()
	old, err := j.last(n)
	ringOnly := j.cfg.Dir == ""
	j.subs[c] = true
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.subs, c)
	}()
	if err != nil {
		return err
	}
	var seen time.Time
	for _, e := range old {
		if err := use(e); err != nil {
			return err
		}
		if ringOnly { // what the ring has is passed on once more when it is noticed
			seen = e.Time
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-c:
			if !seen.IsZero() && !e.Time.After(seen) {
				continue
			}
			if err := use(e); err != nil {
				return err
			}
		}
	}
}

// ringReader reads the ring as it grows. When a half is full, PID 1 renames it
// and begins another: the open file is read to its end, then the new one.
type ringReader struct {
	path string
	f    *os.File
	rest []byte // an unfinished line
}

// old returns what the ring has now, and stays at its end.
func (r *ringReader) old() []Entry {
	var out []Entry
	if b, err := os.ReadFile(r.path + ".1"); err == nil {
		out = parseLines(b)
	}
	return append(out, r.more()...)
}

func parseLines(b []byte) []Entry {
	var out []Entry
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			out = append(out, Parse(string(line)))
		}
	}
	return out
}

// more returns the lines since the last call.
func (r *ringReader) more() []Entry {
	var out []Entry
	for range 2 {
		if r.f == nil {
			f, err := os.Open(r.path)
			if err != nil {
				return out
			}
			r.f = f
		}
		b, err := io.ReadAll(bufio.NewReader(r.f))
		b = append(r.rest, b...)
		end := bytes.LastIndexByte(b, '\n') + 1
		out = append(out, parseLines(b[:end])...)
		r.rest = bytes.Clone(b[end:])
		if err == nil && r.same() {
			return out
		}
		r.close()
	}
	return out
}

// same says whether the open file is still the ring's newer half.
func (r *ringReader) same() bool {
	a, err1 := r.f.Stat()
	b, err2 := os.Stat(r.path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

func (r *ringReader) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}
