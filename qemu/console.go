package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	consoleKeep    = 4 << 20         // bytes of text kept per console
	viewerPatience = 2 * time.Second // a viewer that reads nothing for so long is dropped, not the VM stopped
)

// ErrOff means that the bay has no power, so that nothing more will come from
// its console.
var ErrOff = errors.New("the bay is off")

// A Console is a serial line of a VM: its text so far, what comes next, and
// the keyboard. It stays when the VM is switched off and on. All that the VM
// says goes into its log file, too; QEMU's own would hold a character twice
// whenever the line has to wait for its reader.
type Console struct {
	mu      sync.Mutex
	text    []byte // plain text, the oldest dropped
	base    int64  // offset of text[0] since the first power-on
	plain   plainer
	changed chan struct{} // closed at each change
	vm      net.Conn      // nil while off
	log     io.Writer
	viewers map[net.Conn]bool
	on      bool
	closed  bool
}

func newConsole(log io.Writer) *Console {
	return &Console{log: log, changed: make(chan struct{}), viewers: map[net.Conn]bool{}}
}

func (c *Console) wake() { // under mu
	close(c.changed)
	c.changed = make(chan struct{})
}

// serve reads a VM's line until it ends.
func (c *Console) serve(conn net.Conn) {
	c.mu.Lock()
	c.vm = conn
	c.mu.Unlock()
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			c.add(buf[:n])
		}
		if err != nil {
			break
		}
	}
	conn.Close()
	c.mu.Lock()
	if c.vm == conn {
		c.vm = nil
	}
	c.mu.Unlock()
}

func (c *Console) add(raw []byte) {
	c.mu.Lock()
	_, _ = c.log.Write(raw) // a full disk must not stop the line
	c.text = c.plain.append(c.text, raw)
	if drop := len(c.text) - consoleKeep; drop > 0 {
		drop = min(len(c.text), drop+consoleKeep/8) // not at every write
		c.text = append([]byte(nil), c.text[drop:]...)
		c.base += int64(drop)
	}
	var viewers []net.Conn
	for v := range c.viewers {
		viewers = append(viewers, v)
	}
	c.wake()
	c.mu.Unlock()
	for _, v := range viewers {
		v.SetWriteDeadline(time.Now().Add(viewerPatience))
		if _, err := v.Write(raw); err != nil {
			c.detach(v)
		}
	}
}

// attach shows the line to one more viewer and takes its keys, until it leaves.
func (c *Console) attach(conn net.Conn) {
	c.mu.Lock()
	c.viewers[conn] = true
	if c.closed {
		conn.Close()
	}
	c.mu.Unlock()
	keys := make([]byte, 256)
	for {
		n, err := conn.Read(keys)
		if n > 0 {
			c.Write(keys[:n]) // typed to a bay that is off: lost
		}
		if err != nil {
			break
		}
	}
	c.detach(conn)
}

func (c *Console) detach(conn net.Conn) {
	c.mu.Lock()
	delete(c.viewers, conn)
	c.mu.Unlock()
	conn.Close()
}

// close sends all viewers away.
func (c *Console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for v := range c.viewers {
		v.Close()
	}
}

func (c *Console) setPower(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = on
	c.wake()
}

// Write types on the VM's serial line.
func (c *Console) Write(b []byte) (int, error) {
	c.mu.Lock()
	vm := c.vm
	c.mu.Unlock()
	if vm == nil {
		return 0, fmt.Errorf("console: %w", ErrOff)
	}
	return vm.Write(b)
}

// Mark returns the present end of the text, for WaitFrom.
func (c *Console) Mark() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base + int64(len(c.text))
}

// Since returns the text after a mark. Terminal control sequences and carriage
// returns are left out.
func (c *Console) Since(mark int64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.since(mark))
}

func (c *Console) since(mark int64) []byte {
	return c.text[min(max(mark-c.base, 0), int64(len(c.text))):]
}

// Tail returns the last lines of the text.
func (c *Console) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(c.Since(0), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// WaitFrom waits until text after the mark matches, and returns the match and
// its groups as regexp.FindStringSubmatch does. It gives up when ctx ends or
// the bay is off (ErrOff), with the last lines in the error.
func (c *Console) WaitFrom(ctx context.Context, mark int64, re *regexp.Regexp) ([]string, error) {
	const overlap = 8 << 10 // a match may begin this far before new text
	scan := mark
	for {
		c.mu.Lock()
		text := c.since(scan)
		if m := re.FindSubmatch(text); m != nil {
			found := make([]string, len(m))
			for i, g := range m {
				found[i] = string(g)
			}
			c.mu.Unlock()
			return found, nil
		}
		scan = max(scan, c.base+int64(len(c.text))-overlap)
		changed, on := c.changed, c.on
		c.mu.Unlock()
		err := error(nil)
		if !on {
			err = ErrOff
		} else {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		return nil, fmt.Errorf("console: wait for %q: %w; its last lines:\n%s", re, err, c.Tail(25))
	}
}

// A plainer turns terminal output into text: it drops control sequences
// (ECMA-48), and ends the line where the cursor is sent to another one, as
// firmware does instead of a line feed.
type plainer struct {
	// state is 0, escape, '(' before a character set, '[' in a control
	// sequence or ']' in an operating system command.
	state byte
	args  []byte
	row   string
}

const escape = 0x1b

func (p *plainer) append(text, raw []byte) []byte {
	for _, b := range raw {
		switch {
		case p.state == escape:
			p.args = p.args[:0]
			p.state = 0
			switch b {
			case '[', ']':
				p.state = b
			case '(', ')', '*', '+': // a character set follows
				p.state = '('
			}
		case p.state == '(':
			p.state = 0
		case p.state == '[' && b >= 0x40 && b <= 0x7e:
			p.state = 0
			if b == 'H' || b == 'f' {
				row, _, _ := strings.Cut(string(p.args), ";")
				if row != p.row && len(text) > 0 && text[len(text)-1] != '\n' {
					text = append(text, '\n')
				}
				p.row = row
			}
		case p.state == '[' && len(p.args) < 32:
			p.args = append(p.args, b)
		case p.state == ']' && (b == 7 || b == '\\'):
			p.state = 0
		case b == '\n': // ends a broken sequence too
			p.state = 0
			text = append(text, b)
		case p.state != 0:
		case b == escape:
			p.state = escape
		case b == '\t' || b >= ' ':
			text = append(text, b)
		}
	}
	return text
}
