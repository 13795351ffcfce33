// Package progress shows on a terminal how far long work has come: one bar
// that is redrawn; on anything but a terminal a line for each new text.
package progress

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Bar is one piece of work. It is for one goroutine.
type Bar struct {
	w    io.Writer
	bar  *progressbar.ProgressBar // nil: no terminal
	last string
}

// New makes a Bar that writes to w.
func New(w io.Writer) *Bar {
	b := &Bar{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.bar = progressbar.NewOptions64(100, progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false), progressbar.OptionClearOnFinish())
	}
	return b
}

// Terminal says whether the bar is redrawn in place.
func (b *Bar) Terminal() bool { return b.bar != nil }

// Show sets what is being done and how much of it is behind. Without a
// terminal only a text that differs from the last one is written.
func (b *Bar) Show(text string, done, total int64) {
	switch {
	case b.bar != nil:
		b.bar.Describe(text)
		_ = b.bar.Set64(min(100, done*100/max(1, total))) // only drawing can fail
	case text != b.last:
		fmt.Fprintln(b.w, text)
	}
	b.last = text
}

// Done takes the bar off the screen.
func (b *Bar) Done() {
	if b.bar != nil {
		_ = b.bar.Finish() // only drawing can fail
	}
}
