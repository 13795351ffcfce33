package daemon

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"baystream/daemon/domain"
	"baystream/hw/redfish"
)

// powerBack is how long a partner that was fenced stays off, and the pause
// between tries to switch it on again.
const (
	powerBack  = 5 * time.Second
	powerTries = 24
)

// partnerPower is what the frame managers tell of the partner's power.
type partnerPower struct {
	p *pairing

	mu    sync.Mutex
	off   bool
	since time.Duration // when it was seen going off, or was fenced
	on    bool          // it was seen on, so that going off is news
}

func newPartnerPower(p *pairing) *partnerPower { return &partnerPower{p: p} }

// state implements group.Power.Partner. Off is believed when it was seen to go,
// and for as long as the partner says nothing: a manager's word may be old.
func (w *partnerPower) state() (off, fenceable bool) {
	id := w.p.partner()
	if id == "" {
		return false, false
	}
	power, err := w.p.d.hw.Power("", id)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil, power == redfish.On:
		w.on, w.off = err == nil, false
	case power == redfish.Off && w.on && !w.off:
		w.off, w.since = true, now()
	}
	if _, heard := w.p.line.Last(); w.off && heard > w.since {
		w.off, w.on = false, false // the manager's word is old; it must be seen on again
	}
	return w.off, err == nil
}

// fence takes the partner's power, and gives it back a while later.
func (w *partnerPower) fence(ctx context.Context) error {
	m, ok := w.p.partnerModule()
	if !ok {
		return fmt.Errorf("the partner is in no frame")
	}
	if err := w.p.d.hw.Fence(ctx, m.Frame, m.Bay); err != nil {
		return err
	}
	w.p.d.log.Warn("audit: the partner was fenced: its power is off", "module", m.ID)
	w.mu.Lock()
	w.off, w.since, w.on = true, now(), true
	w.mu.Unlock()
	go func() {
		for range powerTries {
			time.Sleep(powerBack)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
			err := w.p.d.hw.Reset(ctx, "", m.ID, redfish.PowerOn)
			cancel()
			if err == nil {
				return
			}
			w.p.d.log.Warn("give the partner its power back", "module", m.ID, "err", err)
		}
		w.p.d.board.set("partner's power", domain.StatusCritical, "module "+m.ID+" was fenced and could not be switched on again", "Switch it on by hand: volumes have one copy until it is back.")
	}()
	return nil
}

// resetRunning restarts a server that runs. One whose power nobody here can tell
// is an error.
func (h *hardware) resetRunning(ctx context.Context, s domain.ServerHardware) error {
	uuid := strings.ToLower(s.UUID)
	power, err := h.Power(uuid, s.SerialNumber)
	if err == nil && power == redfish.On {
		err = h.Reset(ctx, uuid, s.SerialNumber, redfish.ForceRestart)
	}
	return explainPower(s.Name, err)
}
