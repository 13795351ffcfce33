package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"baystream/qemu"

	"golang.org/x/term"
)

const leave = 0x1d // Ctrl-]

// console joins the terminal to a serial line until Ctrl-], the end of in, or
// the end of the frame. It shows the last lines of the log first.
func console(ctx context.Context, b qemu.BayState, in *os.File, out io.Writer) error {
	conn, err := net.Dial("unix", b.ConsoleSocket)
	if err != nil {
		return fmt.Errorf("console of %s: %w", b.Bay, err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if term.IsTerminal(int(in.Fd())) {
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return fmt.Errorf("console of %s: %w", b.Bay, err)
		}
		defer term.Restore(int(in.Fd()), old)
	}
	fmt.Fprintf(out, "%s (%s), Ctrl-] leaves\r\n", b.Bay, b.Location)
	showTail(out, b.ConsoleLog)
	go func() {
		keys(conn, in)
		conn.Close()
	}()
	io.Copy(out, conn) // its error is the end, by either side
	fmt.Fprint(out, "\r\n")
	return nil
}

// keys sends what is typed, up to Ctrl-].
func keys(to io.Writer, in io.Reader) {
	buf := make([]byte, 256)
	for {
		n, err := in.Read(buf)
		typed, _, left := bytes.Cut(buf[:n], []byte{leave})
		if _, werr := to.Write(typed); werr != nil || err != nil || left {
			return
		}
	}
}

func showTail(out io.Writer, path string) {
	const tail = 4 << 10
	f, err := os.Open(path)
	if err != nil {
		return // never switched on
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > tail {
		f.Seek(-tail, io.SeekEnd)
	}
	io.Copy(out, f)
}
