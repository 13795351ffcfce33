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

// Settings are what an administrator can change of a module's network.
type Settings struct {
	Management Management
	Deployment Deployment
}

// A Trial is a change of the settings that takes itself back: who cuts the
// branch they sit on is put back on it. A change of the management settings
// holds when it is confirmed by a request that came over the new address, which
// proves that one can reach the module there; a change of the deployment network
// alone by any request. If nobody confirms in time, the old settings
// return; so they do when the module restarts, for only settings that were
// confirmed are kept.
//
// A Trial is pure: it says what is wanted, and its owner makes that so. The
// zero Trial is settled on DHCP.
type Trial struct {
	settled  Settings
	next     *Settings // on trial
	began    time.Time
	deadline time.Time
}

// ErrNoTrial says that there is nothing to confirm.
var ErrNoTrial = errors.New("no change of the network waits for a confirmation")

// NewTrial returns one that is settled on s.
func NewTrial(s Settings) Trial { return Trial{settled: s} }

// Wanted is what the network should have now.
func (t *Trial) Wanted() Settings {
	if t.next != nil {
		return *t.next
	}
	return t.settled
}

// Settled is what was confirmed last.
func (t *Trial) Settled() Settings { return t.settled }

// Pending returns the settings on trial and when they end, false without.
func (t *Trial) Pending() (s Settings, deadline time.Time, ok bool) {
	if t.next == nil {
		return Settings{}, time.Time{}, false
	}
	return *t.next, t.deadline, true
}

// Begin puts s on trial for the time grace, DefaultGrace if that is 0. It
// refuses while another change is on trial.
func (t *Trial) Begin(s Settings, now time.Time, grace time.Duration) error {
	if grace == 0 {
		grace = DefaultGrace
	}
	switch {
	case t.next != nil:
		return fmt.Errorf("another change waits for its confirmation until %s: confirm it, or wait", t.deadline.UTC().Format(time.TimeOnly))
	case grace < minGrace || grace > maxGrace:
		return fmt.Errorf("grace time %v: use %v to %v", grace, minGrace, maxGrace)
	case s == t.settled:
		return errors.New("these settings are in use already")
	}
	if s.Management != (Management{}) {
		if err := s.Management.validate(); err != nil {
			return err
		}
	}
	if s.Deployment != (Deployment{}) {
		if err := s.Deployment.validate(); err != nil {
			return err
		}
	}
	t.next, t.began, t.deadline = &s, now, now.Add(grace)
	return nil
}

// Confirm makes the settings on trial the settled ones. at is the address of
// ours that the request came in on, and connected when its connection was made;
// lent is the address that DHCP lent, if any.
func (t *Trial) Confirm(at netip.Addr, connected, now time.Time, lent netip.Addr) (Settings, error) {
	at = at.Unmap()
	if t.next == nil || !now.Before(t.deadline) {
		return Settings{}, ErrNoTrial
	}
	m := t.next.Management
	ours := at == m.Address.Addr() || at == m.Address6.Addr() || !m.Address.IsValid() && at == lent
	switch {
	case m == t.settled.Management:
	case !at.IsValid():
		return Settings{}, errors.New("this request did not come over the network: confirm with one to the new address, which proves that it can be reached")
	case !ours:
		return Settings{}, fmt.Errorf("this request came in on %v: confirm with one to the new address, which proves that it can be reached", at)
	case connected.Before(t.began):
		return Settings{}, errors.New("this connection is older than the change: confirm over a new one, which proves that one can be made")
	}
	t.settled, t.next = *t.next, nil
	return t.settled, nil
}

// Expire returns true when the trial has just ended without a confirmation.
func (t *Trial) Expire(now time.Time) bool {
	if t.next == nil || now.Before(t.deadline) {
		return false
	}
	t.next = nil
	return true
}
