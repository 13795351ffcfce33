// Package inventory keeps what is known about the module and its frame, from
// all sources, as one document: the kernel's files (package hw), the management
// controller (hw/ipmi), the trusted platform module (hw/tpm) and the frame
// manager (hw/redfish).
//
//	kernel's device events ──> hw.Probe ───────────────────────┐
//	/dev/ipmi0 ──> sensors, FRU, log; frame document ─┐         ├──> Document
//	                              address, pin, user ─┴─> frame manager ─┘
//
// It also acts on the two that can be acted on: our events go to the
// controller's log (Note), power is switched through the frame manager (Reset,
// Fence).
//
// The module's place has two sources, its firmware's tables and the frame's
// document. Placed says whether they agree; nothing that serves may start before.
//
// A source that fails is tried again for ever and costs the others nothing. A
// Keeper is safe for concurrent use.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/redfish"
	"baystream/hw/tpm"
	"baystream/hw/uevent"
)

// Config says where the sources are and who wants to know. Only Root and Log
// are needed.
type Config struct {
	Root string // where /sys and /proc are
	Log  *slog.Logger
	// Health takes how a part is, in the words of the health board; an empty
	// status takes the part away.
	Health func(part string, status Status, detail, remedy string)
	// Plugged is called with the inventory whenever it was read anew and differs.
	Plugged func(hw.Inventory)
	// Frame is called with the frame's document when it was read.
	Frame func(hw.FrameDocument)

	// Watchdog asks how the machine's watchdog is; nil: there is none.
	Watchdog func() *Watchdog
	// Open opens the controller. The default loads its drivers and opens
	// /dev/ipmi0.
	Open func() (*ipmi.Client, error)
	// Follow follows device events; uevent.Follow by default.
	Follow func(ctx context.Context, started func(), each func(uevent.Event)) error
	// Messages follows the kernel's log, for the errors of disks; nil: not at all.
	Messages func(ctx context.Context, each func(text string)) error
	Now      func() time.Time
}

// Status is a part's status on the health board.
type Status string

// The statuses.
const (
	Good     Status = "OK"
	Warning  Status = "Warning"
	Critical Status = "Critical"
)

// Keeper keeps the inventory.
type Keeper struct {
	cfg      Config
	notes    chan ipmi.Event
	managers chan hw.FrameManager // buffered by one: the one to follow
	appeared chan struct{}        // buffered by one: a controller came
	placed   chan struct{}        // closed when the module's place is sure, or cannot become surer
	once     sync.Once
	told     conditions // what the controller's log says; of keepController only

	mu         sync.Mutex
	inv        hw.Inventory
	revision   int
	changed    time.Time
	tpm        tpm.Report
	controller *Controller
	open       *ipmi.Client // nil: none
	document   hw.FrameDocument
	disagree   error
	manager    *FrameManager
	client     *redfish.Client // nil: no frame manager is known
	faults     map[string]error
	failing    map[string]int // disks by name: I/O errors since the daemon started
}

// New makes a keeper that starts with the inventory as it was read at first.
func New(cfg Config, inv hw.Inventory) *Keeper {
	if cfg.Health == nil {
		cfg.Health = func(string, Status, string, string) {}
	}
	if cfg.Plugged == nil {
		cfg.Plugged = func(hw.Inventory) {}
	}
	if cfg.Frame == nil {
		cfg.Frame = func(hw.FrameDocument) {}
	}
	if cfg.Watchdog == nil {
		cfg.Watchdog = func() *Watchdog { return nil }
	}
	if cfg.Open == nil {
		cfg.Open = func() (*ipmi.Client, error) { return ipmi.Open(filepath.Join(cfg.Root, "dev/ipmi0")) }
	}
	if cfg.Follow == nil {
		cfg.Follow = uevent.Follow
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Keeper{
		cfg: cfg, inv: inv, changed: cfg.Now(), faults: map[string]error{}, failing: map[string]int{},
		notes: make(chan ipmi.Event, 64), placed: make(chan struct{}), managers: make(chan hw.FrameManager, 1), appeared: make(chan struct{}, 1),
	}
}

// Run keeps the inventory until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { k.followDevices(ctx); return nil })
	g.Go(func() error { k.keepController(ctx); return nil })
	g.Go(func() error { k.keepManager(ctx); return nil })
	g.Go(func() error { k.readTPM(); return nil })
	g.Go(func() error { k.followErrors(ctx); return nil })
	return g.Wait()
}

// Placed waits until it is sure whether the module sits where its firmware says,
// and returns the reason if not. A module whose frame says nothing counts as
// placed.
func (k *Keeper) Placed(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-k.placed:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.disagree
}

func (k *Keeper) settle() { k.once.Do(func() { close(k.placed) }) }

// fault notes or clears what is wrong with a source and tells whether that is
// news.
func (k *Keeper) fault(source string, err error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.faults[source]
	k.faults[source] = err
	return (old == nil) != (err == nil) || err != nil && old.Error() != err.Error()
}

// settleTime is how long events of one plugging may follow one another before
// the devices are looked at; detection has a second.
const settleTime = 100 * time.Millisecond

// resync is how often devices are looked at without an event, should one have
// gone astray.
const resync = 5 * time.Minute

// followDevices reads the devices anew when the kernel says that there are
// others.
func (k *Keeper) followDevices(ctx context.Context) {
	wake := make(chan struct{}, 1)
	signal := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for ctx.Err() == nil {
			err := k.cfg.Follow(ctx, signal, func(e uevent.Event) {
				if concerns(e) {
					signal()
				}
				if e.Subsystem == "ipmi" && e.Action == "add" {
					select {
					case k.appeared <- struct{}{}:
					default:
					}
				}
			})
			if err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("device events", "err", err)
				sleep(ctx, 10*time.Second)
			}
		}
	})
	tick := time.NewTicker(resync)
	defer tick.Stop()
	for {
		at := time.Time{} // of the first event
		select {
		case <-ctx.Done():
			return
		case <-wake:
			at = k.cfg.Now()
			sleep(ctx, settleTime)
			select { // those that came meanwhile are seen now
			case <-wake:
			default:
			}
		case <-tick.C:
		}
		k.probe(at)
	}
}

// concerns tells events about what the inventory shows.
func concerns(e uevent.Event) bool {
	if e == uevent.Lost {
		return true
	}
	return slices.Contains([]string{"block", "net", "nvme", "tpm", "scsi", "ipmi"}, e.Subsystem) && e.Action != "bind" && e.Action != "unbind"
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// probe reads the devices and tells what came and went, and how long after the
// kernel said so.
func (k *Keeper) probe(event time.Time) {
	inv, err := hw.Probe(k.cfg.Root)
	if k.fault("hardware", err) && err != nil {
		k.cfg.Log.Warn("hardware", "err", err)
	}
	k.mu.Lock()
	old := k.inv
	differs := !same(old, inv)
	if differs {
		k.inv = inv
		k.revision++
		k.changed = k.cfg.Now()
	}
	k.mu.Unlock()
	if !differs {
		return
	}
	var after time.Duration
	if !event.IsZero() {
		after = k.cfg.Now().Sub(event)
	}
	for _, c := range compare(old, inv) {
		k.cfg.Log.Info("hardware changed", "what", c.what, "name", c.name, "change", c.change, "after", after)
		if c.what == "disk" && c.change != "changed" {
			kind := ipmi.DiskFailed
			if c.change == "added" {
				kind = ipmi.DiskReplaced
			}
			k.Note(ipmi.Event{Kind: kind, Code: c.number})
			k.forgetErrors(c.name)
		}
	}
	k.cfg.Plugged(inv)
}

// readTPM reads the TPM, whose registers stay as the boot left them.
func (k *Keeper) readTPM() {
	r, err := tpm.Read(k.cfg.Root)
	if r.Present && r.Version == 2 {
		certs, cerr := tpm.Endorsement(filepath.Join(k.cfg.Root, "dev/tpmrm0"))
		r.Endorsement, err = certs, errors.Join(err, cerr)
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w (only root may read it)", err)
	}
	if k.fault("tpm", err) {
		k.cfg.Log.Warn("tpm", "err", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tpm = r
}
