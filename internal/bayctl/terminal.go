package bayctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is whoever sits at the serial port. What they type is read by one
// goroutine, so that a key can end a command that runs.
type terminal struct {
	out  io.Writer
	keys chan byte     // closed at the end of the line
	idle time.Duration // without a key for so long, reading fails; 0: never
	ctx  context.Context

	width, height int
	full          bool // understands ECMA-48: it told its size
}

// Errors of reading keys.
var (
	errIdle = errors.New("nobody typed anything for a while")
	errGone = errors.New("the line has ended")
)

func newTerminal(ctx context.Context, rw io.ReadWriter) *terminal {
	t := &terminal{out: rw, keys: make(chan byte, 4096), ctx: ctx, width: 80, height: 24}
	go func() {
		defer close(t.keys)
		buf := make([]byte, 256)
		for {
			n, err := rw.Read(buf)
			for _, b := range buf[:n] {
				select {
				case t.keys <- b:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return t
}

// openTTY opens a serial port as it comes and makes it raw.
func openTTY(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := term.MakeRaw(int(f.Fd())); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, nil
}

// Write implements io.Writer for raw lines: each line ends with both characters.
func (t *terminal) Write(p []byte) (int, error) {
	s := strings.ReplaceAll(strings.ReplaceAll(string(p), "\r\n", "\n"), "\n", "\r\n")
	if _, err := io.WriteString(t.out, s); err != nil {
		return 0, err
	}
	return len(p), nil
}

// key returns the next key, or an error after limit (0: idle).
func (t *terminal) key(limit time.Duration) (byte, error) {
	if limit == 0 {
		limit = t.idle
	}
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case b, ok := <-t.keys:
		if !ok {
			return 0, errGone
		}
		return b, nil
	case <-late:
		return 0, errIdle
	case <-t.ctx.Done():
		return 0, t.ctx.Err()
	}
}

// Read implements io.Reader.
func (t *terminal) Read(p []byte) (int, error) {
	b, err := t.key(0)
	if err != nil {
		return 0, err
	}
	p[0] = b
	n := 1
	for n < len(p) {
		select {
		case b, ok := <-t.keys:
			if !ok {
				return n, nil
			}
			p[n] = b
			n++
			continue
		default:
		}
		break
	}
	return n, nil
}

// editor is a line editor, which ends its lines itself.
func (t *terminal) editor(prompt string) *term.Terminal {
	e := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{t, t.out}, prompt)
	if t.full {
		_ = e.SetSize(t.width, t.height) // fails for no size there is
	} else {
		_ = e.SetSize(1000, 24) // never wraps by itself
	}
	return e
}

var cursorReport = regexp.MustCompile(`\x1b\[(\d+);(\d+)R`)

// measure asks the terminal where its last corner is (ECMA-48 DSR). One that
// does not answer in time is taken for dumb.
func (t *terminal) measure(patience time.Duration) {
	t.full = false
	for { // what was typed before is no answer
		select {
		case _, ok := <-t.keys:
			if ok {
				continue
			}
		default:
		}
		break
	}
	fmt.Fprint(t.out, "\x1b7\x1b[999;999H\x1b[6n\x1b8")
	var got []byte
	end := time.Now().Add(patience)
	for len(got) < 64 {
		b, err := t.key(max(time.Until(end), time.Millisecond))
		if err != nil {
			break
		}
		got = append(got, b)
		if m := cursorReport.FindSubmatch(got); m != nil {
			rows, _ := strconv.Atoi(string(m[1]))
			columns, _ := strconv.Atoi(string(m[2]))
			t.resize(columns, rows)
			return
		}
	}
	fmt.Fprint(t.out, "\r\n")
}

// Least that the full screen needs.
const (
	minColumns = 60
	minRows    = 16
)

func (t *terminal) resize(columns, rows int) {
	t.width, t.height = columns, rows
	t.full = columns >= minColumns && rows >= minRows
}

// whileCommand runs f with a context that Ctrl-C ends.
func (t *terminal) whileCommand(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case b, ok := <-t.keys:
				if !ok || b == 3 {
					cancel()
					return
				}
			}
		}
	})
	err := f(ctx)
	close(done)
	wg.Wait()
	return err
}
