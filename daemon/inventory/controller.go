package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"baystream/hw"
	"baystream/hw/ipmi"
)

const (
	sensorInterval = 10 * time.Second
	documentFRU    = 1                // the inventory device that holds the frame's document
	placeTimeout   = 10 * time.Second // for the controller to say where we are
	retryAbsent    = time.Minute      // a driver may come late
	lookAgain      = 200 * time.Millisecond
	retrySilent    = 15 * time.Second // the driver gave a controller up that the firmware names
	retryFault     = 10 * time.Second
)

// errSilent is a controller that the firmware names and the driver gave up.
var errSilent = errors.New("the firmware names a controller, which did not answer the kernel")

// keepController reads the controller until ctx ends.
func (k *Keeper) keepController(ctx context.Context) {
	defer k.settle()
	slow := time.AfterFunc(placeTimeout, k.settle) // the driver searches for half a minute
	defer slow.Stop()
	for ctx.Err() == nil {
		c, err := k.cfg.Open()
		if errors.Is(err, fs.ErrNotExist) {
			k.awaitController(ctx)
			continue
		}
		slow.Stop()
		if err == nil {
			err = k.serve(ctx, c)
			_ = c.Close()
		}
		if ctx.Err() != nil {
			return
		}
		k.settle()
		k.controllerFault(err)
		sleep(ctx, retryFault)
	}
}

// awaitController waits until it is worth while to look for a controller again.
func (k *Keeper) awaitController(ctx context.Context) {
	if ipmi.Searching(k.cfg.Root) {
		k.appears(ctx, lookAgain)
		return
	}
	k.settle() // the firmware's word must do
	if !ipmi.Named(k.cfg.Root) {
		k.fault("controller", nil)
		k.appears(ctx, retryAbsent)
		return
	}
	k.controllerFault(errSilent)
	if k.appears(ctx, retrySilent) {
		return
	}
	searched := make(chan struct{}) // the kernel cannot be interrupted in it
	go func() {
		defer close(searched)
		if err := ipmi.Search(k.cfg.Root); err != nil {
			k.cfg.Log.Debug("management controller", "err", err)
		}
	}()
	select {
	case <-ctx.Done():
	case <-searched:
	}
}

// appears waits for the device of a controller.
func (k *Keeper) appears(ctx context.Context, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-k.appeared:
		return true
	}
	return false
}

// controllerFault tells once why the controller cannot be used.
func (k *Keeper) controllerFault(err error) {
	if k.fault("controller", err) {
		k.cfg.Log.Warn("management controller", "err", err)
		k.cfg.Health("management controller", Warning, err.Error(),
			"Without it there are no sensors, no event log, and no frame manager. Restart the controller from the frame manager; if that does not help, replace the module.")
	}
}

// serve reads one opened controller and writes events to its log until
// something fails.
func (k *Keeper) serve(ctx context.Context, c *ipmi.Client) error {
	k.mu.Lock()
	k.open = c
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.open = nil
		k.mu.Unlock()
	}()
	first, stop := context.WithTimeout(ctx, placeTimeout)
	dev, err := c.Device(first)
	if err == nil {
		err = k.readDocument(first, c)
	}
	stop()
	if err != nil {
		return err
	}
	k.settle()
	k.fault("controller", nil)
	k.cfg.Health("management controller", Good, fmt.Sprintf("firmware %s, IPMI %s", dev.Firmware, dev.IPMI), "")

	fru, err := c.FRU(ctx, 0)
	if err != nil && !ipmi.NotPresent(err) {
		k.cfg.Log.Warn("management controller", "err", err) // a damaged FRU is no reason to do without sensors
	}
	sensors, err := c.Sensors(ctx)
	if err != nil {
		k.cfg.Log.Warn("management controller", "err", err)
	}
	if log, err := c.Log(ctx); err == nil {
		k.told.learn(log)
	} else {
		k.cfg.Log.Warn("management controller", "err", err)
	}
	tick := time.NewTicker(sensorInterval)
	defer tick.Stop()
	for {
		for _, e := range k.told.due(k.cfg.Now()) {
			if err := k.write(ctx, c, e); err != nil {
				return err
			}
		}
		if err := k.readSensors(ctx, c, sensors, Controller{Device: dev, FRU: fru}); err != nil {
			return err
		}
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				wait = false
			case e := <-k.notes:
				if !k.told.note(e, k.cfg.Now()) {
					continue
				}
				if err := k.write(ctx, c, e); err != nil {
					return err
				}
			}
		}
	}
}

// readSensors reads everything that changes.
func (k *Keeper) readSensors(ctx context.Context, c *ipmi.Client, s *ipmi.Sensors, state Controller) error {
	chassis, err := c.Chassis(ctx)
	if err == nil {
		state.Chassis = &chassis
	} else if !ipmi.NotPresent(err) {
		return err
	}
	if log, err := c.LogInfo(ctx); err == nil {
		state.Log = &log
	}
	state.Sensors, err = s.Read(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if k.fault("controller", err) && err != nil {
		k.cfg.Log.Warn("sensors", "err", err)
	}
	state.Read = stamp(k.cfg.Now())
	k.mu.Lock()
	k.controller = &state
	k.mu.Unlock()
	status, detail, remedy := judge(state)
	k.cfg.Health("sensors", status, detail, remedy)
	return nil
}

// judge makes a line for the health board of the sensors and the room in the
// event log.
func judge(c Controller) (status Status, detail, remedy string) {
	status = Good
	var bad []string
	for _, s := range c.Sensors {
		switch s.State {
		case ipmi.Critical, ipmi.NonRecoverable:
			status = Critical
		case ipmi.NonCritical:
			if status == Good {
				status = Warning
			}
		default:
			continue
		}
		text := s.Name + " is " + string(s.State)
		if s.Reading != nil {
			text += fmt.Sprintf(" at %g %s", *s.Reading, s.Unit)
		}
		bad = append(bad, text)
	}
	if len(bad) > 0 {
		return status, strings.Join(bad, "; "), "See bayctl hw for the limits; check cooling and power of the frame."
	}
	if c.Log != nil && c.Log.FreeBytes < 16 {
		return Warning, "the controller's event log is full", "Read it with bayctl hw events, then clear it: ipmitool sel clear, or from the frame manager."
	}
	return Good, fmt.Sprintf("%d sensors within their limits", len(c.Sensors)), ""
}

// readDocument reads the frame's document and compares it with the firmware.
func (k *Keeper) readDocument(ctx context.Context, c *ipmi.Client) error {
	raw, err := c.FRUData(ctx, documentFRU)
	if ipmi.NotPresent(err) {
		k.cfg.Health("bay", Good, k.bay().String()+", by the firmware alone: the frame has no document", "")
		return nil
	}
	if err != nil {
		return err
	}
	doc, err := hw.ParseFrameDocument(raw)
	if k.fault("frame document", err) && err != nil {
		k.cfg.Log.Error("frame document", "err", err)
		k.cfg.Health("bay", Warning, err.Error(), "Correct the document in the frame manager (docs/hardware.md); until then the frame manager is not used.")
	}
	if err != nil {
		return nil
	}
	bay := k.bay()
	now := hw.Agree(bay, doc)
	settled := k.settled()
	k.mu.Lock()
	first := k.disagree
	k.document = doc
	if !settled {
		k.disagree = now
	}
	k.mu.Unlock()
	k.fault("bay", now)
	k.cfg.Frame(doc)
	select { // of several only the last one counts
	case <-k.managers:
	default:
	}
	k.managers <- doc.Manager
	status, detail, remedy := place(bay, settled, first, now)
	k.cfg.Health("bay", status, detail, remedy)
	if now != nil {
		k.cfg.Log.Error("place unknown", "err", now)
	}
	if now != nil && !settled {
		k.Note(ipmi.Event{Kind: ipmi.Maintenance, Code: ipmi.ReasonBay})
	}
	return nil
}

// settled tells whether roles have been told where the module sits.
func (k *Keeper) settled() bool {
	select {
	case <-k.placed:
		return true
	default:
		return false
	}
}

// place makes a line for the health board of whether firmware and frame agree
// now and whether they did when the roles were told, if that was before.
func place(bay hw.Bay, settled bool, first, now error) (status Status, detail, remedy string) {
	const maintenance = "Nothing is served until both say the same. Put the module back into its bay, or correct its SMBIOS data (docs/hardware.md), and restart it."
	switch {
	case settled && first == nil && now != nil:
		return Critical, now.Error(), "The controller did not answer when the module started, so it serves. Restart the module: it will be in maintenance until both say the same (docs/hardware.md)."
	case settled && first != nil && now == nil:
		return Critical, "maintenance: firmware and frame did not agree when the module started", "They do now: restart the module."
	case now != nil:
		return Critical, "maintenance: " + now.Error(), maintenance
	}
	return Good, bay.String() + ", as the firmware and the frame say", ""
}

func (k *Keeper) bay() hw.Bay {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.inv.Bay
}

// Note writes one of our events to the controller's log, now or when there is a
// controller; what the log says already, and what comes too often, is left out
// (conditions). Of very many waiting ones the newest are dropped.
func (k *Keeper) Note(e ipmi.Event) {
	select {
	case k.notes <- e:
	default:
		k.cfg.Log.Warn("event not logged by the controller: too many wait", "event", e.String())
	}
}

func (k *Keeper) write(ctx context.Context, c *ipmi.Client, e ipmi.Event) error {
	_, err := c.Write(ctx, e)
	if errors.Is(err, ipmi.ErrLogFull) || ipmi.NotPresent(err) {
		k.cfg.Log.Warn("event not logged by the controller", "event", e.String(), "err", err)
		return nil
	}
	if err != nil { // once more with the controller opened anew
		k.told.forget(e)
		k.Note(e)
	}
	return err
}

// ErrNoController is a module without a management controller, or one that does
// not answer now.
var ErrNoController = errors.New("the module has no management controller that answers")

// Log reads the controller's event log, oldest first.
func (k *Keeper) Log(ctx context.Context) ([]ipmi.Record, error) {
	k.mu.Lock()
	c := k.open
	k.mu.Unlock()
	if c == nil {
		return nil, ErrNoController
	}
	return c.Log(ctx)
}
