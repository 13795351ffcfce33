package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// console writes whole lines, each with the mark that tests look for.
type console struct {
	mu sync.Mutex
	w  io.Writer
}

func newConsole(w io.Writer) *console { return &console{w: w} }

// Printf writes one line; line ends inside the text become blanks.
func (c *console) Printf(format string, args ...any) {
	line := "SAMPLE-OS " + strings.ReplaceAll(strings.TrimSpace(fmt.Sprintf(format, args...)), "\n", " ") + "\r\n"
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, line)
}

// Raw turns off the terminal's echo, so that words typed do not break lines
// printed meanwhile. A console that is no terminal stays as it is.
func (c *console) Raw() {
	t, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return
	}
	t.Lflag &^= unix.ECHO
	t.Oflag &^= unix.OPOST // lines carry their own CR
	unix.IoctlSetTermios(0, unix.TCSETS, t)
}

// noteWriter turns what a child prints into console lines.
type noteWriter struct {
	con    *console
	prefix string
	rest   []byte
}

func (w *noteWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		if len(bytes.TrimSpace(line)) > 0 {
			w.con.Printf("%s%s", w.prefix, line)
		}
		w.rest = rest
	}
}

// relayKernelLog prints the kernel's warnings as lines of ours. The kernel
// itself is quiet: two writers would tear each other's lines.
func relayKernelLog(con *console) {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		return
	}
	defer f.Close()
	f.Seek(0, io.SeekEnd)
	buf := make([]byte, 8192)
	for {
		n, err := f.Read(buf)
		if err != nil {
			if err == io.EOF {
				return
			}
			continue // EPIPE: records were overwritten; the next read goes on
		}
		if text, ok := kernelWarning(string(buf[:n])); ok {
			con.Printf("KMSG %s", text)
		}
	}
}

// kernelWarning takes the text out of a record of /dev/kmsg whose level is
// warning or worse (kernel: Documentation/ABI/testing/dev-kmsg).
func kernelWarning(record string) (string, bool) {
	head, text, ok := strings.Cut(record, ";")
	if !ok {
		return "", false
	}
	prio, _, _ := strings.Cut(head, ",")
	n, err := strconv.Atoi(prio)
	if err != nil || n&7 > 4 {
		return "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	return text, true
}

// machine is what the words act on.
type machine interface {
	Sync() (seq uint64, err error)
	Verify() (verdict, error)
	Stat() string
	SetRate(perSecond int)
	Halt()
}

// serve reads words from r and answers each with one line: OK or ERROR.
//
//	sync             flush the workload and the file systems
//	stat             counters so far
//	verify           read all written blocks again
//	write PATH TEXT  replace a file on the root partition, synced
//	read PATH        print a file of the root partition, quoted
//	rate N           writes per second, 0 = as fast as it goes
//	reboot           stop the workload, unmount, restart
//	poweroff         the same, then power off
func serve(con *console, r io.Reader, m machine) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" {
			continue
		}
		answer(con, line, m)
	}
	con.Printf("NOTE the console has no input any more: %v", sc.Err())
	select {}
}

// answer carries out one line and prints the outcome. After reboot and
// poweroff it does not return.
func answer(con *console, line string, m machine) {
	word, _, _ := strings.Cut(line, " ")
	out, err := command(line, rootDir, m)
	if err != nil {
		con.Printf("ERROR %s: %v", word, err)
		return
	}
	con.Printf("OK %s %s", word, out)
	switch word {
	case "reboot":
		shutdown(con, m, unix.LINUX_REBOOT_CMD_RESTART)
	case "poweroff":
		shutdown(con, m, unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

// command carries out one line and returns what follows OK and the word.
func command(line, root string, m machine) (string, error) {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "sync":
		seq, err := m.Sync()
		return fmt.Sprintf("seq=%d", seq), err
	case "stat":
		return m.Stat(), nil
	case "verify":
		v, err := m.Verify()
		if err != nil {
			return "", err
		}
		return v.String(), v.Err()
	case "write":
		path, text, _ := strings.Cut(rest, " ")
		file, err := below(root, path)
		if err != nil {
			return "", err
		}
		return path, writeSynced(file, text+"\n")
	case "read":
		file, err := below(root, rest)
		if err != nil {
			return "", err
		}
		b, err := os.ReadFile(file)
		return fmt.Sprintf("%s %q", rest, strings.TrimSuffix(string(b), "\n")), err
	case "rate":
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 {
			return "", fmt.Errorf("%q is not a number of writes per second", rest)
		}
		m.SetRate(n)
		return rest, nil
	case "reboot", "poweroff":
		return "", nil
	}
	return "", fmt.Errorf("unknown word; there are sync, stat, verify, write, read, rate, reboot, poweroff")
}

// below joins path to root without leaving it.
func below(root, path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("which file?")
	}
	return filepath.Join(root, filepath.Join("/", path)), nil
}

// shutdown ends the machine in order. The iSCSI session stays: the disk is
// flushed by the kernel on its way out, as on any machine with such a root.
func shutdown(con *console, m machine, how int) {
	m.Halt()
	for _, dir := range []string{rootDir, espDir} {
		if err := unix.Unmount(dir, 0); err != nil {
			con.Printf("NOTE unmount %s: %v", dir, err)
		}
	}
	unix.Sync()
	con.Printf("DOWN")
	unix.IoctlSetInt(1, unix.TCSBRK, 1) // drain the serial port
	if err := unix.Reboot(how); err != nil {
		con.Printf("FAILED reboot(2): %v", err)
	}
}
