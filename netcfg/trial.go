package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Limits of the time in which a change must be confirmed.
const (
	DefaultGrace = time.Minute
	minGrace     = 10 * time.Second
	maxGrace     = 10 * time.Minute
)

// A Trial is a change of the management settings that takes itself back: who
// cuts the branch they sit on is put back on it. The change holds when it is
// confirmed by a request that came over the new address, which proves that one
// can reach the module there. If nobody confirms in time, the old settings
// return; so they do when the module restarts, for only settings that were
// confirmed are kept.
//
// A Trial is pure: it says what is wanted, and its owner makes that so. The
// zero Trial is settled on DHCP.
type Trial struct {
	settled  Management
	next     *Management // on trial
	began    time.Time
	deadline time.Time
}

// ErrNoTrial says that there is nothing to confirm.
var ErrNoTrial = errors.New("no change of the network waits for a confirmation")

// NewTrial returns one that is settled on m.
func NewTrial(m Management) Trial { return Trial{settled: m} }

// Wanted is what the management port should have now.
func (t *Trial) Wanted() Management {
	if t.next != nil {
		return *t.next
	}
	return t.settled
}

// Settled is what was confirmed last.
func (t *Trial) Settled() Management { return t.settled }

// Pending returns the settings on trial and when they end, false without.
func (t *Trial) Pending() (m Management, deadline time.Time, ok bool) {
	if t.next == nil {
		return Management{}, time.Time{}, false
	}
	return *t.next, t.deadline, true
}

// Begin puts m on trial for the time grace, DefaultGrace if that is 0. It
// refuses while another change is on trial.
func (t *Trial) Begin(m Management, now time.Time, grace time.Duration) error {
	if grace == 0 {
		grace = DefaultGrace
	}
	switch {
	case t.next != nil:
		return fmt.Errorf("another change waits for its confirmation until %s: confirm it, or wait", t.deadline.UTC().Format(time.TimeOnly))
	case grace < minGrace || grace > maxGrace:
		return fmt.Errorf("grace time %v: use %v to %v", grace, minGrace, maxGrace)
	case m == t.settled:
		return errors.New("these settings are in use already")
	}
	if m != (Management{}) {
		if err := m.validate(); err != nil {
			return err
		}
	}
	t.next, t.began, t.deadline = &m, now, now.Add(grace)
	return nil
}

// Confirm makes the settings on trial the settled ones. at is the address of
// ours that the request came in on, and connected when its connection was made;
// lent is the address that DHCP lent, if any.
func (t *Trial) Confirm(at netip.Addr, connected, now time.Time, lent netip.Addr) (Management, error) {
	at = at.Unmap()
	if t.next == nil || !now.Before(t.deadline) {
		return Management{}, ErrNoTrial
	}
	m := *t.next
	ours := at == m.Address.Addr() || at == m.Address6.Addr() || !m.Address.IsValid() && at == lent
	switch {
	case !at.IsValid():
		return Management{}, errors.New("this request did not come over the network: confirm with one to the new address, which proves that it can be reached")
	case !ours:
		return Management{}, fmt.Errorf("this request came in on %v: confirm with one to the new address, which proves that it can be reached", at)
	case connected.Before(t.began):
		return Management{}, errors.New("this connection is older than the change: confirm over a new one, which proves that one can be made")
	}
	t.settled, t.next = m, nil
	return m, nil
}

// Expire returns true when the trial has just ended without a confirmation.
func (t *Trial) Expire(now time.Time) bool {
	if t.next == nil || now.Before(t.deadline) {
		return false
	}
	t.next = nil
	return true
}
