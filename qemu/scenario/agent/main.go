// Command agent is a hand inside the appliance of a test: the image has no
// shell, and a test that wants to see the daemon die must kill it somehow. It
// is added to the image by the tests, never part of the product.
//
// It reads lines from the second serial port and answers each with a line:
//
//	kill NAME   sends SIGKILL to the service NAME: agent: ok kill NAME PID
//	pid NAME    tells its process: agent: ok pid NAME PID
//	chap all    tells the target's passwords: agent: ok chap WORD,WORD 0
//	clock TIME  lets the wall clock jump by TIME, such as -1h: agent: ok clock TIME 0
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const port = "/dev/ttyS1"

func main() {
	if err := run(); err != nil {
		log.Fatal("agent: ", err)
	}
}

func run() error {
	tty, err := os.OpenFile(port, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	if err := quiet(int(tty.Fd())); err != nil {
		return fmt.Errorf("%s: %w", port, err)
	}
	fmt.Fprint(tty, "agent: ready\r\n")
	lines := bufio.NewScanner(tty)
	for lines.Scan() {
		word, name, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		pid, err := obey(word, name)
		if word == "chap" {
			name, err = passwords()
		}
		if err != nil {
			fmt.Fprintf(tty, "agent: error %s %s: %v\r\n", word, name, err)
			continue
		}
		fmt.Fprintf(tty, "agent: ok %s %s %d\r\n", word, name, pid)
	}
	return errors.Join(errors.New("the port has no more input"), lines.Err())
}

// quiet turns the echo off: it would be read as an answer.
func quiet(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Lflag &^= unix.ECHO
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func obey(word, name string) (pid int, err error) {
	switch word {
	case "clock":
		return 0, jump(name)
	case "chap":
		return 0, nil
	}
	if pid, err = service(name); err != nil {
		return 0, err
	}
	switch word {
	case "pid":
		return pid, nil
	case "kill":
		return pid, unix.Kill(pid, unix.SIGKILL)
	}
	return 0, errors.New("unknown word; there are pid, kill, clock, chap")
}

// passwords are those that the iSCSI target asks servers for.
func passwords() (string, error) {
	files, err := filepath.Glob("/sys/kernel/config/target/iscsi/iqn.*/tpgt_*/acls/*/auth/password")
	if err != nil || len(files) == 0 {
		return "", errors.Join(err, errors.New("no target has a password"))
	}
	var all []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		all = append(all, strings.TrimSpace(string(b)))
	}
	return strings.Join(all, ","), nil
}

// jump sets the wall clock that much later.
func jump(by string) error {
	d, err := time.ParseDuration(by)
	if err != nil {
		return err
	}
	t := unix.NsecToTimeval(time.Now().Add(d).UnixNano())
	return unix.Settimeofday(&t)
}

// service is the child of the first process that runs the program NAME. The
// daemon's own children run the same file.
func service(name string) (int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // it ended meanwhile
		}
		cmdline, err := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		if err != nil {
			continue
		}
		program, _, _ := bytes.Cut(cmdline, []byte{0})
		if filepath.Base(string(program)) == name && parent(string(b)) == 1 {
			return strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		}
	}
	return 0, errors.New("no such service runs")
}

// parent reads the fourth field of /proc/PID/stat, see proc(5).
func parent(stat string) int {
	_, rest, _ := strings.Cut(stat[strings.LastIndex(stat, ")")+1:], " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1]) // 0 is no process of ours
	return ppid
}
