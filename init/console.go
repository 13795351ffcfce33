package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// console writes lines to the serial console without ever making their
// writers wait: a console that is held or slow loses lines, and says how many.
type console struct {
	lines   chan string
	flushes chan chan struct{}
	dropped atomic.Int64
}

// newConsole starts the writer to w, which ends with the program.
func newConsole(w io.Writer) *console {
	c := &console{lines: make(chan string, 1024), flushes: make(chan chan struct{})}
	go c.write(w)
	return c
}

func (c *console) write(w io.Writer) {
	put := func(l string) {
		if n := c.dropped.Swap(0); n > 0 {
			fmt.Fprintf(w, "init: %d lines left out: the console is too slow\n", n)
		}
		io.WriteString(w, l+"\n")
	}
	for {
		select {
		case l := <-c.lines:
			put(l)
		case done := <-c.flushes:
			for n := len(c.lines); n > 0; n-- {
				put(<-c.lines)
			}
			close(done)
		}
	}
}

// print queues a line.
func (c *console) print(text string) {
	select {
	case c.lines <- printable(text):
	default:
		c.dropped.Add(1)
	}
}

// flush waits until all lines so far are written, but no longer than limit.
func (c *console) flush(limit time.Duration) {
	timeout := time.After(limit)
	done := make(chan struct{})
	select {
	case c.flushes <- done:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}

// journal is where lines go: the ring always, the console if the kernel has
// not put them there itself.
type journal struct {
	ring    *ring
	console *console
	trace   atomic.Bool // lines on the console begin with the uptime
}

func (j *journal) print(text string) {
	if j.trace.Load() {
		text = fmt.Sprintf("[%9.3f] %s", uptime().Seconds(), text)
	}
	j.console.print(text)
}

// line takes a line that a service printed. The console shows it as it is.
func (j *journal) line(source, text string) {
	j.ring.add(time.Now(), source, text)
	j.print(text)
}

// kernel takes a line of the kernel's log.
func (j *journal) kernel(text string) { j.ring.add(time.Now(), "kernel", text) }

// logger returns a logger for init's own lines.
func (j *journal) logger() *slog.Logger { return slog.New(&handler{out: j.own}) }

// own takes a line of our own.
func (j *journal) own(text string) {
	j.ring.add(time.Now(), "init", text)
	j.print("init: " + text)
}

// handler prints records as "message key=value", and the level if it is not
// Info. Groups are flat.
type handler struct {
	out   func(string)
	attrs string
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if r.Level != slog.LevelInfo {
		b.WriteString(strings.ToLower(r.Level.String()) + ": ")
	}
	b.WriteString(r.Message + h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(attrText(a))
		return true
	})
	h.out(b.String())
	return nil
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	n := *h
	for _, a := range as {
		n.attrs += attrText(a)
	}
	return &n
}

func (h *handler) WithGroup(string) slog.Handler { return h }

func attrText(a slog.Attr) string {
	v := a.Value.Resolve().String()
	if v == "" || strings.ContainsAny(v, " \"=\n\t") {
		v = strconv.Quote(v)
	}
	return " " + a.Key + "=" + v
}

// followKernelLog hands each record of the kernel's log to line, from the
// first that the kernel still has, for ever. The format is that of the
// kernel's Documentation/ABI/testing/dev-kmsg.
func followKernelLog(path string, line func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 8192)
	for failed := 0; failed < 100; {
		n, err := f.Read(buf) // one record each; EPIPE: some were overwritten
		if err != nil {
			failed++
			continue
		}
		failed = 0
		if text, ok := parseKernelRecord(string(buf[:n])); ok {
			line(text)
		}
	}
	return fmt.Errorf("read %s: too many errors", path)
}

// parseKernelRecord turns "prio,seq,usec,flags[,...];text\n key=value..." into
// "[seconds] text".
func parseKernelRecord(rec string) (string, bool) {
	head, text, ok := strings.Cut(rec, ";")
	f := strings.Split(head, ",")
	if !ok || len(f) < 4 {
		return "", false
	}
	us, err := strconv.ParseUint(f[2], 10, 63)
	if err != nil {
		return "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	return fmt.Sprintf("[%d.%06d] %s", us/1e6, us%1e6, text), true
}
