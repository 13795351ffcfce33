package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// how is an end of the machine.
type how string

const (
	poweroff how = "poweroff"
	reboot   how = "reboot"
)

// meaning says what a signal to PID 1 asks for; "" is nothing. SIGINT is
// ctrl-alt-del, SIGPWR comes from power supplies. The others follow the habits
// of sysvinit, busybox and (SIGRTMIN+4, +5) systemd.
func meaning(s os.Signal) how {
	switch s {
	case syscall.SIGINT, syscall.SIGTERM, syscall.Signal(39):
		return reboot
	case syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPWR, syscall.Signal(38):
		return poweroff
	}
	return ""
}

// unheard are signals that Go's runtime leaves to libc. The kernel spares its
// first process their default, death, only while the main thread does not block
// them: else another thread is found to die of it (complete_signal in
// kernel/signal.c), and Go blocks all signals around each fork. So they are
// ignored; the stub undoes that for services.
var unheard = []syscall.Signal{32, 33, 34}

const (
	sigDefault = 0 // SIG_DFL
	sigIgnore  = 1 // SIG_IGN
)

// setUnheard sets what happens at these signals.
func setUnheard(handler uintptr) error {
	var errs []error
	for _, s := range unheard {
		action := struct{ handler, flags, restorer, mask uintptr }{handler: handler}
		if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0); e != 0 {
			errs = append(errs, fmt.Errorf("signal %d: %w", s, e))
		}
	}
	return errors.Join(errs...)
}

// catchSignals takes every signal that could end this process, and returns the
// channels of those that mean something. But for those above none is set to be
// ignored: services would inherit that.
func catchSignals() (sigchld, others <-chan os.Signal) {
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, syscall.SIGCHLD)
	rest := make(chan os.Signal, 16)
	var all []os.Signal
	for s := syscall.Signal(1); s <= 64; s++ {
		switch s {
		case syscall.SIGCHLD, syscall.SIGKILL, syscall.SIGSTOP,
			syscall.SIGURG: // Go's scheduler uses it
			continue
		}
		if slices.Contains(unheard, s) {
			continue
		}
		all = append(all, s)
	}
	signal.Notify(rest, all...)
	return chld, rest
}

// ctrlAltDel lets the kernel send ctrl-alt-del to us instead of rebooting.
func ctrlAltDel() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("ctrl-alt-del: %w", err)
	}
	return nil
}

const (
	evKey    = 1   // EV_KEY of linux/input-event-codes.h
	keyPower = 116 // KEY_POWER
)

// watchPowerButton calls pressed when somebody presses a power button, on
// every input device that has one. Without such a device it does nothing.
func watchPowerButton(pressed func()) error {
	// ACPI's button and the device files of input devices are modules.
	if err := loadModules("evdev", "button"); err != nil {
		return err
	}
	devices, err := filepath.Glob("/sys/class/input/event*")
	if err != nil {
		return err
	}
	for _, d := range devices {
		keys, err := os.ReadFile(filepath.Join(d, "device/capabilities/key"))
		if err != nil || !hasKey(string(keys), keyPower) {
			continue
		}
		f, err := os.Open(filepath.Join("/dev/input", filepath.Base(d)))
		if err != nil {
			return fmt.Errorf("power button: %w", err)
		}
		go func() {
			defer f.Close()
			readKeys(f, pressed)
		}()
	}
	return nil
}

// hasKey tells whether bit key is set in a bitmap of sysfs: 64-bit words in
// hex, the most significant first.
func hasKey(bitmap string, key int) bool {
	words := strings.Fields(bitmap)
	i := len(words) - 1 - key/64
	if i < 0 {
		return false
	}
	w, err := strconv.ParseUint(words[i], 16, 64)
	return err == nil && w&(1<<(key%64)) != 0
}

// readKeys reads input events until there are no more.
func readKeys(f *os.File, pressed func()) {
	buf := make([]byte, 24*16)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= 24; b = b[24:] {
			if powerPressed(b[:24]) {
				pressed()
			}
		}
	}
}

// powerPressed tells whether a struct input_event of a 64-bit kernel (16 bytes
// of time, then type, code, value) is the power key going down.
func powerPressed(ev []byte) bool {
	return binary.NativeEndian.Uint16(ev[16:]) == evKey &&
		binary.NativeEndian.Uint16(ev[18:]) == keyPower &&
		binary.NativeEndian.Uint32(ev[20:]) == 1
}
