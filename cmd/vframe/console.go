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

// line is one of a module's serial lines.
type line struct{ socket, log string }

// serialLine picks a line of a bay: 1 is where the module boots, 2 where an
// appliance's operator logs in, 0 what people want of such a module.
func serialLine(b qemu.BayState, port int) (line, error) {
	if port == 0 {
		port = 1
		if b.Kind == qemu.ApplianceBay {
			port = 2
		}
	}
	switch port {
	case 1:
		return line{b.ConsoleSocket, b.ConsoleLog}, nil
	case 2:
		return line{b.OperatorSocket, ""}, nil // a full-screen program: old text would be of no use
	}
	return line{}, fmt.Errorf("port %d of %s: a module has the serial ports 1 and 2", port, b.Bay)
}

// console joins the terminal to a serial line until Ctrl-], the end of in, or
// the end of the frame. It shows the last lines of the log first.
func console(ctx context.Context, b qemu.BayState, port int, in *os.File, out io.Writer) error {
	l, err := serialLine(b, port)
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", l.socket)
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
	showTail(out, l.log)
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
