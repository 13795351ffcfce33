package inventory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/redfish"
)

// keepEvents is how many of the manager's events are kept.
const keepEvents = 50

// keepManager follows the manager that the frame's document names until ctx ends.
// The controller may fail meanwhile.
func (k *Keeper) keepManager(ctx context.Context) {
	var using hw.FrameManager
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.CancelFunc(func() {})
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-k.managers:
			if m == using {
				continue
			}
			stop()
			wg.Wait()
			if using = m; m == (hw.FrameManager{}) {
				continue
			}
			c, err := redfish.New(redfish.Config{URL: m.URL, Pin: m.CertificateSHA256, User: m.User, Password: string(m.Password), Log: k.cfg.Log})
			if err != nil {
				k.cfg.Log.Error("frame manager", "err", err) // the document was checked
				continue
			}
			watch, cancel := context.WithCancel(ctx)
			stop = cancel
			wg.Go(func() { k.watchManager(watch, c, m) })
		}
	}
}

// watchManager follows one manager until ctx ends.
func (k *Keeper) watchManager(ctx context.Context, c *redfish.Client, m hw.FrameManager) {
	k.mu.Lock()
	k.client = c
	k.manager = &FrameManager{URL: m.URL, CertificateSHA256: m.CertificateSHA256, Since: stamp(k.cfg.Now()), Frames: []redfish.Frame{}, Events: []redfish.Event{}}
	k.mu.Unlock()
	w := &watcher{k: k, ctx: ctx, c: c, stale: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() { defer close(done); w.refresh() }()
	c.Watch(ctx, w)
	<-done
	k.mu.Lock()
	k.client = nil
	k.mu.Unlock()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	c.Close(end)
}

// watcher takes what the manager tells (redfish.Watcher).
type watcher struct {
	k     *Keeper
	ctx   context.Context
	c     *redfish.Client
	stale chan struct{} // buffered by one: the frame must be read anew
}

func (w *watcher) wake() {
	select {
	case w.stale <- struct{}{}:
	default:
	}
}

// Connected implements redfish.Watcher.
func (w *watcher) Connected() {
	w.state(true, nil)
	w.wake()
}

// Lost implements redfish.Watcher.
func (w *watcher) Lost(err error) { w.state(false, err) }

// state notes whether the manager can be reached.
func (w *watcher) state(connected bool, err error) {
	k := w.k
	k.mu.Lock()
	m := k.manager
	news := m.Connected != connected || !connected && m.Fault == ""
	m.Connected, m.Fault = connected, ""
	if err != nil {
		m.Fault = err.Error()
	}
	if news {
		m.Since = stamp(k.cfg.Now())
	}
	url := m.URL
	k.mu.Unlock()
	switch {
	case !news:
	case connected:
		k.cfg.Log.Info("frame manager connected", "url", url)
		k.cfg.Health("frame manager", Good, url, "")
	default:
		k.cfg.Log.Warn("frame manager lost", "url", url, "err", err)
		remedy := "Check the frame manager and the frame link (PCIe slot 2). Servers run on; power cannot be switched until it is back."
		if errors.Is(err, redfish.ErrPin) {
			remedy = "If the manager was replaced, power this module off and on in its bay. If it was not, somebody else answers at its address."
		}
		k.cfg.Health("frame manager", Warning, err.Error(), remedy)
	}
}

// Event implements redfish.Watcher.
func (w *watcher) Event(e redfish.Event) {
	k := w.k
	k.cfg.Log.Info("frame event", "message", e.Message, "id", e.ID)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.manager.Events = append(k.manager.Events, e); len(k.manager.Events) > keepEvents {
		k.manager.Events = k.manager.Events[1:]
	}
	power, ok := e.Power()
	if !ok {
		w.wake()
		return
	}
	for _, f := range k.manager.Frames {
		for i := range f.Bays {
			if f.Bays[i].System == e.Origin {
				f.Bays[i].Power = power
				return
			}
		}
	}
	w.wake() // a computer that we do not know yet
}

// refresh reads the frame when it may have changed.
func (w *watcher) refresh() {
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.stale:
		}
		inv, err := w.c.Inventory(w.ctx)
		if w.ctx.Err() != nil {
			return
		}
		k := w.k
		if err != nil {
			k.cfg.Log.Warn("frame inventory", "err", err)
			sleep(w.ctx, retryFault)
			w.wake()
			continue
		}
		k.mu.Lock()
		k.manager.Name, k.manager.Product, k.manager.Frames = inv.Name, inv.Product, inv.Frames
		k.mu.Unlock()
	}
}

// ErrNoManager is a frame whose manager is not known or cannot be reached.
var ErrNoManager = errors.New("no frame manager is connected")

// ErrNoBay is a computer that no bay of the linked frames holds.
var ErrNoBay = errors.New("no bay of the linked frames holds this computer")

// find returns the manager's client and the bay that match says.
func (k *Keeper) find(match func(frame string, b redfish.Bay) bool) (*redfish.Client, redfish.Bay, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client == nil || k.manager == nil || len(k.manager.Frames) == 0 {
		return nil, redfish.Bay{}, ErrNoManager
	}
	for _, f := range k.manager.Frames {
		for _, b := range f.Bays {
			if b.System != "" && match(f.Serial, b) {
				return k.client, b, nil
			}
		}
	}
	return nil, redfish.Bay{}, ErrNoBay
}

// computer matches by UUID or, without one, by serial number.
func computer(uuid, serial string) func(string, redfish.Bay) bool {
	return func(_ string, b redfish.Bay) bool {
		if uuid != "" && b.UUID != "" {
			return b.UUID == uuid
		}
		return serial != "" && b.Serial == serial
	}
}

// Power returns the power state of a computer, by its UUID (lower case) or
// serial number, as last told by the frame manager.
func (k *Keeper) Power(uuid, serial string) (redfish.Power, error) {
	_, b, err := k.find(computer(uuid, serial))
	return b.Power, err
}

// Reset switches the power of a computer. After ForceOff without an error it has
// no power.
func (k *Keeper) Reset(ctx context.Context, uuid, serial string, t redfish.ResetType) error {
	c, b, err := k.find(computer(uuid, serial))
	if err != nil {
		return err
	}
	return c.Reset(ctx, b.System, t)
}

// Fence takes the power from the module in a bay of a frame ("appliance bay 2")
// and returns nil only when the manager says that it is off. It is on record in
// this module's event log.
func (k *Keeper) Fence(ctx context.Context, frame, bay string) error {
	c, b, err := k.find(func(f string, b redfish.Bay) bool { return f == frame && b.Location == bay })
	if err == nil {
		err = c.Reset(ctx, b.System, redfish.ForceOff)
	}
	var power redfish.Power
	if err == nil {
		power, err = c.Power(ctx, b.System)
	}
	if err == nil && power != redfish.Off {
		err = fmt.Errorf("its power is %s after ForceOff", power)
	}
	if err != nil {
		return fmt.Errorf("fence %s of frame %s: %w", bay, frame, err)
	}
	kind, n := hw.ParseLocation(bay)
	k.Note(ipmi.Event{Kind: ipmi.Fence, Bay: ipmi.BayOf(string(kind), n)})
	return nil
}
