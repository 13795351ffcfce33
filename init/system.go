package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// takeConsole makes /dev/console the standard files of this process: the
// kernel did so before only if the initramfs had the device.
func takeConsole() error {
	f, err := os.OpenFile("/dev/console", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("make /dev/console file %d: %w", fd, err)
		}
	}
	return nil
}

// setLimits exempts PID 1 from the OOM killer and lets services open many
// files: the kernel's limit for what PID 1 starts is 4096.
func setLimits() error {
	lim := syscall.Rlimit{Cur: 1024, Max: 512 * 1024}
	return errors.Join(
		os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0),
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim))
}

// linkDevices makes the links in /dev that devtmpfs leaves to us.
func linkDevices() error {
	var errs []error
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// loopbackUp brings lo up; the kernel then gives it 127.0.0.1 and ::1.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("link lo: read flags: %w", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("link lo: set up: %w", err)
	}
	return nil
}

// setHostname sets the configured name, else one made of the module's serial
// number.
func setHostname(configured string) error {
	name := configured
	if name == "" {
		serial, _ := os.ReadFile("/sys/class/dmi/id/product_serial")
		name = hostname(string(serial))
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("host name %q: %w", name, err)
	}
	return nil
}

// hostname makes a host name (RFC 1123 section 2.1) from a serial number.
func hostname(serial string) string {
	name := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			return c
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		}
		return -1
	}, strings.TrimSpace(serial))
	name = strings.Trim(name[:min(len(name), 48)], "-")
	if name == "" {
		return "baystream"
	}
	return "baystream-" + name
}

// clockAfter returns the time to set the clock to, if it is wrong for sure: no
// machine runs an image before the image was built.
func clockAfter(now, built time.Time) (time.Time, bool) {
	return built, !built.IsZero() && now.Before(built)
}

// checkClock sets the clock to the image's build time if it is before it.
// set tells whether it did.
func checkClock(built time.Time) (set bool, err error) {
	t, wrong := clockAfter(time.Now(), built)
	if !wrong {
		return false, nil
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return false, fmt.Errorf("set clock to %s: %w", t.UTC().Format(time.RFC3339), err)
	}
	return true, nil
}

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
