package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// maxLine bounds a log line, in bytes.
const maxLine = 4096

// ring keeps the last lines of the log: some in memory, and from attach on
// more in a file of two halves: when NAME is full it becomes NAME.1, in the
// place of the older half. Read NAME.1, then NAME.
type ring struct {
	mu     sync.Mutex
	lines  []string // oldest first
	size   int      // bytes in lines
	limit  int      // of size
	file   *os.File // nil: not attached, or broken
	path   string
	half   int // bytes that each half of the file may have
	filled int
}

func newRing(memory int) *ring { return &ring{limit: memory} }

// attach mirrors the log to a file at path, of at most size bytes in its two
// halves together, beginning with the lines in memory.
func (r *ring) attach(path string, size int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	r.file, r.path, r.half, r.filled = f, path, size/2, 0
	for _, l := range r.lines {
		if err := r.mirror(l); err != nil {
			return err
		}
	}
	return nil
}

// add appends a line that source wrote at time t.
func (r *ring) add(t time.Time, source, text string) {
	line := t.UTC().Format("2006-01-02T15:04:05.000Z") + " " + source + ": " + printable(text) + "\n"
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	r.size += len(line)
	drop := 0
	for r.size > r.limit && drop < len(r.lines)-1 {
		r.size -= len(r.lines[drop])
		drop++
	}
	r.lines = append(r.lines[:0], r.lines[drop:]...)
	if err := r.mirror(line); err != nil {
		r.file.Close()
		r.file = nil // memory goes on; a full /run must not cost the log
	}
}

// mirror writes a line to the file; mu is held.
func (r *ring) mirror(line string) error {
	if r.file == nil {
		return nil
	}
	if r.filled > 0 && r.filled+len(line) > r.half {
		if err := r.turn(); err != nil {
			return err
		}
	}
	n, err := r.file.WriteString(line)
	r.filled += n
	return err
}

// turn makes the full half the older one.
func (r *ring) turn() error {
	err := errors.Join(r.file.Close(), os.Rename(r.path, r.path+".1"))
	f, openErr := os.OpenFile(r.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	r.file, r.filled = f, 0
	return err
}

// tail returns the last n lines in memory, without their line ends.
func (r *ring) tail(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(max(n, 0), len(r.lines))
	out := make([]string, 0, n)
	for _, l := range r.lines[len(r.lines)-n:] {
		out = append(out, strings.TrimSuffix(l, "\n"))
	}
	return out
}

// of returns the last n lines in memory that source wrote, without their times.
func (r *ring) of(source string, n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, l := range slices.Backward(r.lines) {
		if len(out) == n {
			break
		}
		_, text, _ := strings.Cut(l, " ")
		if text, ok := strings.CutPrefix(text, source+": "); ok {
			out = append(out, strings.TrimSuffix(text, "\n"))
		}
	}
	slices.Reverse(out)
	return out
}

// printable makes a line harmless for a terminal: no control characters, so
// that a name in a log cannot move the cursor.
func printable(s string) string {
	if len(s) > maxLine {
		s = s[:maxLine]
	}
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return c
		case c < ' ', c >= 0x7f && c < 0xa0, c == utf8.RuneError:
			return '?'
		}
		return c
	}, s)
}
