package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The machine's watchdog resets it when nobody feeds it any more: see the
// kernel's Documentation/watchdog/watchdog-api.rst. The best one that the
// machine has is used: its controller's (IPMI), which also tells the controller's
// event log; a chip's; else the kernel's own timer, which helps as long as the
// kernel does. Drivers that come up later replace the kernel's timer.

const (
	watchdogTimeout = time.Minute
	controllerWait  = 5 * time.Second // for the device of a controller that has just been found
)

// softwareWatchdog is what the kernel's own timer calls itself.
const softwareWatchdog = "Software Watchdog"

// watchdogDriver is a way to a watchdog: modules to load and how long its device
// takes to appear.
type watchdogDriver struct {
	modules []string
	wait    time.Duration
}

// watchdogDrivers lists what the machine below root may have, the best first.
// The controller's warns by an NMI before it bites, at which the driver makes
// the kernel panic: so a kernel that hangs leaves its text. The kernel's own
// does the same when it runs out.
func watchdogDrivers(root string, byAlias func(modalias string) []string, timeout time.Duration) []watchdogDriver {
	var out []watchdogDriver
	for _, pattern := range []string{"sys/bus/platform/devices/dmi-ipmi-si*", "sys/bus/acpi/devices/IPI0001*"} {
		if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
			out = append(out, watchdogDriver{[]string{
				"ipmi_si",
				fmt.Sprintf("ipmi_watchdog action=reset timeout=%d pretimeout=%d preaction=pre_nmi preop=preop_panic", timeout/time.Second, timeout/6/time.Second),
			}, controllerWait})
			break
		}
	}
	for _, m := range modaliases(root) {
		if slices.Contains(byAlias(canonical(m)), "i6300esb") {
			out = append(out, watchdogDriver{[]string{"i6300esb"}, 0})
			break
		}
	}
	return append(out, watchdogDriver{[]string{fmt.Sprintf("softdog soft_panic=1 soft_margin=%d", timeout/time.Second)}, 0})
}

// watchdog is the one that is fed. The zero value is none.
type watchdog struct {
	log *slog.Logger

	mu       sync.Mutex
	file     *os.File
	identity string
	timeout  int // seconds
	fed      time.Time
	starving string // why it is not fed; "" if it is
}

// WatchdogStatus is the machine's watchdog as the control socket shows it.
type WatchdogStatus struct {
	Identity   string  `json:"identity"` // as its driver calls it
	Device     string  `json:"device"`
	TimeoutSec int     `json:"timeout_sec"`
	FedSec     float64 `json:"fed_sec"`            // seconds since it was fed
	Starving   string  `json:"starving,omitempty"` // why it is not fed any more
}

// begin loads drivers until one has a watchdog, and starts that.
func (w *watchdog) begin(ctx context.Context, drivers []watchdogDriver, timeout time.Duration, load func(...string) error) error {
	var errs []error
	for _, d := range drivers {
		err := load(d.modules...)
		if err == nil {
			err = w.open(ctx, "/dev/watchdog", timeout, d.wait)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// open starts the watchdog at device, which may take its time to appear, and
// puts it in the place of the present one.
func (w *watchdog) open(ctx context.Context, device string, want, wait time.Duration) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	for end := time.Now().Add(wait); err != nil && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(50 * time.Millisecond)
		f, err = os.OpenFile(device, os.O_WRONLY, 0)
	}
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	fd := int(f.Fd())
	// Some drivers have a fixed time: then that is it.
	_ = unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(want/time.Second))
	timeout, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	if err != nil {
		timeout = int(want / time.Second)
	}
	identity := device
	if info, err := unix.IoctlGetWatchdogInfo(fd); err == nil {
		identity = unix.ByteSliceToString(info.Identity[:])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		w.file.Write([]byte("V")) // lets it be closed without a reset
		w.file.Close()
	}
	w.file, w.identity, w.timeout, w.fed = f, identity, timeout, time.Now()
	w.log.Info("watchdog runs", "device", device, "identity", identity, "seconds", timeout)
	return nil
}

// pace is how often it is to be fed: as the supervisor may be busy, six times in
// its time.
func (w *watchdog) pace() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return time.Second // it may come any moment
	}
	return max(time.Duration(w.timeout)*time.Second/6, 100*time.Millisecond)
}

// improve changes from the kernel's own timer to a chip whose driver has come
// up meanwhile, below root.
func (w *watchdog) improve(ctx context.Context, root string) error {
	st := w.status()
	if st == nil || st.Identity != softwareWatchdog {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(root, "sys/class/watchdog/watchdog*"))
	for _, dir := range found {
		b, err := os.ReadFile(filepath.Join(dir, "identity"))
		if id := strings.TrimSpace(string(b)); err != nil || id == "" || id == softwareWatchdog {
			continue
		}
		return w.open(ctx, filepath.Join("/dev", filepath.Base(dir)), time.Duration(st.TimeoutSec)*time.Second, 0)
	}
	return nil
}

// feed gives the machine another while, unless why says that it should not
// have it.
func (w *watchdog) feed(why string) error {
	w.mu.Lock()
	f := w.file
	if f != nil && why != "" && w.starving == "" {
		w.log.Error("THE WATCHDOG IS NOT FED ANY MORE: the machine is reset soon", "err", why)
	}
	w.starving = why
	w.mu.Unlock()
	if f == nil || why != "" {
		return nil
	}
	if _, err := f.Write([]byte{0}); err != nil { // may take as long as a controller takes to answer
		return fmt.Errorf("feed watchdog: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fed = time.Now()
	return nil
}

// status is nil where there is no watchdog.
func (w *watchdog) status() *WatchdogStatus {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	return &WatchdogStatus{Identity: w.identity, Device: w.file.Name(), TimeoutSec: w.timeout, FedSec: time.Since(w.fed).Seconds(), Starving: w.starving}
}

// vitals are what tells whether the machine deserves to live on.
type vitals struct {
	booting  time.Duration // how long the boot steps have taken; 0: done
	ending   time.Duration // since the end of the machine began; 0: it has not
	answers  bool          // the supervisor does
	stuck    string        // a service whose process the kernel does not let go
	stuckFor time.Duration
	reading  bool // a last resort was announced, and the console is being read
	resigned bool // resets did not help: it stays for whoever comes
}

// How long what may be.
const (
	bootLimit   = 20 * time.Minute // each step has its own, much shorter one
	endLimit    = 10 * time.Minute
	stuckNotice = 2 * time.Minute
	stuckLimit  = stuckNotice + lastPause
)

// illness says why the machine should be reset; "" if it is well enough. A
// service that has been given up is none: the console and the others live.
func (v vitals) illness() string {
	switch {
	case v.reading:
		return ""
	case v.ending > endLimit:
		return fmt.Sprintf("the end of the machine takes longer than %v", endLimit)
	case v.booting > bootLimit:
		return fmt.Sprintf("the boot steps take longer than %v", bootLimit)
	case v.booting == 0 && !v.answers:
		return "the supervisor of the services does not answer"
	case v.stuckFor > stuckLimit && !v.resigned:
		return fmt.Sprintf("service %s has survived SIGKILL for %v", v.stuck, v.stuckFor.Round(time.Second))
	}
	return ""
}
