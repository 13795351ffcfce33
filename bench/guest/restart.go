package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control asks PID 1, see the package comment of init/.
func control(command string, answer any) error {
	c, err := net.Dial("unix", "/run/init.sock")
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, command); err != nil {
		return err
	}
	return json.NewDecoder(c).Decode(answer)
}

// sayBoot prints PID 1's account of the boot, and the daemon's lines, for the
// waterfall.
func sayBoot() error {
	var status, log json.RawMessage
	if err := errors.Join(control("status", &status), control("log 500", &log)); err != nil {
		return err
	}
	say("bench-boot status %s", status)
	say("bench-boot log %s", log)
	return nil
}

// bootStatus is what is of interest in PID 1's status.
type bootStatus struct {
	Services []struct {
		Name  string `json:"name"`
		State string `json:"state"`
		PID   int    `json:"pid"`
	} `json:"services"`
}

// daemonPID is the daemon's, 0 unless it is ready.
func daemonPID() (int, error) {
	var st bootStatus
	if err := control("status", &st); err != nil {
		return 0, err
	}
	for _, s := range st.Services {
		if s.Name == "baystreamd" && s.State == "running" {
			return s.PID, nil
		}
	}
	return 0, nil
}

// volume is the device of the volume that is exported.
func volume() (string, error) {
	devices, err := filepath.Glob("/dev/drbd[0-9]*")
	if err != nil {
		return "", err
	}
	for _, d := range devices {
		size, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(d), "size"))
		if err == nil && strings.TrimSpace(string(size)) != "0" {
			return d, nil
		}
	}
	return "", fmt.Errorf("no volume among %v", devices)
}

// restart restarts the daemon while a volume is read and written and clients
// connect, each anew.
func restart(ctx context.Context, a *appliance) error {
	if err := a.setUp(ctx); err != nil {
		return err
	}
	if err := deploy(ctx, a, 1); err != nil {
		return err
	}
	device, err := volume()
	if err != nil {
		return err
	}
	before, err := daemonPID()
	if err != nil || before == 0 {
		return fmt.Errorf("the daemon is not ready: %v", err)
	}

	ctx, stop := context.WithCancel(ctx)
	var io, quiet blockLoad
	var rest restLoad
	var wg sync.WaitGroup
	short, end := context.WithTimeout(ctx, 3*time.Second)
	ioErr := quiet.run(short, device)
	end()
	wg.Go(func() { ioErr = errors.Join(ioErr, io.run(ctx, device)) })
	wg.Go(func() { rest.run(ctx, a.address) })
	time.Sleep(time.Second)
	began := time.Now()
	var reply struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if err := control("restart baystreamd", &reply); err != nil || !reply.OK {
		stop()
		return fmt.Errorf("restart: %v %s", err, reply.Error)
	}
	for pid := before; pid == before || pid == 0; time.Sleep(50 * time.Millisecond) {
		if pid, err = daemonPID(); err != nil || ctx.Err() != nil || time.Since(began) > 5*time.Minute {
			stop()
			return fmt.Errorf("the daemon did not come back: %v", err)
		}
	}
	say("bench restart-ms %.1f", time.Since(began).Seconds()*1000)
	time.Sleep(2 * time.Second)
	stop()
	wg.Wait()
	if ioErr != nil {
		return ioErr
	}
	if m, err := memory("/proc/1/status"); err == nil {
		say("bench rss-pid1-kib %d", m["VmRSS"])
	}
	say("bench restart-io-pause-ms %.1f", io.pause.Seconds()*1000)
	say("bench restart-io-quiet-ms %.1f", quiet.pause.Seconds()*1000)
	say("bench restart-io-requests %d", io.requests)
	say("bench restart-connections %d", rest.asked)
	say("bench restart-answered-percent %.2f", 100*float64(rest.answered)/float64(max(rest.asked, 1)))
	say("bench restart-refused %d", rest.refused)
	say("bench restart-wait-ms %.1f", rest.wait.Seconds()*1000)
	return nil
}

// blockLoad reads and writes one block after the other, past the cache.
type blockLoad struct {
	requests int
	pause    time.Duration // the longest time from one end of a request to the next
}

func (l *blockLoad) run(ctx context.Context, path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	const size = 4096
	buf := make([]byte, 2*size)
	skip := -uintptr(unsafe.Pointer(&buf[0])) & (size - 1)
	block := buf[skip : skip+size]
	for last := time.Now(); ctx.Err() == nil; {
		at := int64(l.requests/2%256) * size
		if l.requests%2 == 0 {
			_, err = unix.Pread(fd, block, at)
		} else {
			_, err = unix.Pwrite(fd, block, at)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		now := time.Now()
		l.requests, l.pause, last = l.requests+1, max(l.pause, now.Sub(last)), now
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// restLoad asks REST by one new connection after the other.
type restLoad struct {
	asked, answered, refused int
	wait                     time.Duration
}

func (l *restLoad) run(ctx context.Context, address string) {
	for ctx.Err() == nil {
		a := newAppliance(address)
		began := time.Now()
		err := a.do(context.Background(), "GET", "/rest/baystream/health", nil, nil)
		a.http.CloseIdleConnections()
		l.asked++
		switch {
		case err == nil:
			l.answered++
		case errors.Is(err, syscall.ECONNREFUSED):
			l.refused++
			say("refused: %v", err)
		default:
			say("not answered: %v", err)
		}
		l.wait = max(l.wait, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
}
