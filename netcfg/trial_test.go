package netcfg

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func management(t *testing.T, s string) Settings {
	t.Helper()
	m, err := ParseManagement(s)
	if err != nil {
		t.Fatal(err)
	}
	return Settings{Management: m}
}

func deployment(t *testing.T, s string) Deployment {
	t.Helper()
	d, err := ParseDeployment(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTrial(t *testing.T) {
	old, next := management(t, "address:192.0.2.10/24"), management(t, "address:198.51.100.10/24,gateway:198.51.100.1")
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	started := func() *Trial {
		tr := NewTrial(old)
		if err := tr.Begin(next, begin, 0); err != nil {
			t.Fatal(err)
		}
		return &tr
	}
	after := func(d time.Duration) time.Time { return begin.Add(d) }

	tr := started()
	if tr.Wanted() != next || tr.Settled() != old {
		t.Errorf("on trial: wanted %v, settled %v", tr.Wanted(), tr.Settled())
	}
	if _, end, ok := tr.Pending(); !ok || end != after(DefaultGrace) {
		t.Errorf("Pending = %v, %v", end, ok)
	}
	if err := tr.Begin(old, begin, 0); err == nil {
		t.Error("a second change is taken during the first")
	}
	for _, tt := range []struct {
		at        string
		connected time.Duration
		now       time.Duration
		part      string
	}{
		{"192.0.2.10", time.Second, time.Second, "to the new address"},
		{"198.51.100.10", -time.Second, time.Second, "older than the change"},
		{"198.51.100.10", time.Second, DefaultGrace, "no change"},
	} {
		if _, err := started().Confirm(at(tt.at), after(tt.connected), after(tt.now), netip.Addr{}); err == nil || !strings.Contains(err.Error(), tt.part) {
			t.Errorf("Confirm(%+v) = %v", tt, err)
		}
	}
	if m, err := tr.Confirm(at("::ffff:198.51.100.10"), after(time.Second), after(2*time.Second), netip.Addr{}); err != nil || m != next || tr.Wanted() != next {
		t.Errorf("Confirm = %v, %v", m, err)
	}
	if tr.Expire(after(time.Hour)) || tr.Wanted() != next {
		t.Error("a confirmed change ends")
	}
	if _, err := tr.Confirm(at("198.51.100.10"), after(time.Second), after(2*time.Second), netip.Addr{}); !errors.Is(err, ErrNoTrial) {
		t.Errorf("a second Confirm = %v", err)
	}

	tr = started()
	if tr.Expire(after(59*time.Second)) || !tr.Expire(after(time.Minute)) || tr.Expire(after(2*time.Minute)) || tr.Wanted() != old {
		t.Errorf("after the grace time: wanted %v", tr.Wanted())
	}

	toDHCP := NewTrial(old)
	if err := toDHCP.Begin(Settings{}, begin, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := toDHCP.Confirm(at("192.0.2.77"), after(time.Second), after(time.Second), at("192.0.2.77")); err != nil {
		t.Errorf("Confirm over the lent address = %v", err)
	}

	// The deployment network cuts nobody off from the module: any request will do.
	depl := old
	depl.Deployment = deployment(t, "vlan:1300,address:203.0.113.2/24")
	servers := NewTrial(old)
	if err := servers.Begin(depl, begin, 0); err != nil {
		t.Fatal(err)
	}
	if s, err := servers.Confirm(netip.Addr{}, time.Time{}, after(time.Second), netip.Addr{}); err != nil || s != depl {
		t.Errorf("Confirm of the deployment network = %v, %v", s, err)
	}
}

func TestTrialRefuses(t *testing.T) {
	old := management(t, "address:192.0.2.10/24")
	tr := NewTrial(old)
	for _, tt := range []struct {
		m     Settings
		grace time.Duration
		part  string
	}{
		{old, 0, "in use already"},
		{Settings{}, time.Second, "use 10s to 10m0s"},
		{Settings{Management: Management{Gateway: netip.MustParseAddr("192.0.2.1")}}, 0, "no address"},
		{Settings{Deployment: Deployment{VLAN: 7}}, 0, "no address"},
	} {
		if err := tr.Begin(tt.m, time.Now(), tt.grace); err == nil || !strings.Contains(err.Error(), tt.part) {
			t.Errorf("Begin(%v, %v) = %v, want %q", tt.m, tt.grace, err, tt.part)
		}
	}
}

// TestTrialNeverKeepsWhatNobodyConfirmed draws random histories: what is wanted
// at rest is always what was settled first or confirmed since.
func TestTrialNeverKeepsWhatNobodyConfirmed(t *testing.T) {
	servers := management(t, "address:192.0.2.10/24")
	servers.Deployment = deployment(t, "vlan:1300,address:203.0.113.2/24")
	choices := []Settings{
		{}, servers, management(t, "address:192.0.2.10/24"), management(t, "address:192.0.2.11/24"), management(t, "address:198.51.100.10/24"),
	}
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		tr := NewTrial(choices[1])
		good := map[Settings]bool{choices[1]: true}
		now := time.Unix(0, 0)
		for range 50 {
			now = now.Add(rand.N(30 * time.Second))
			m := choices[r.IntN(len(choices))]
			switch r.IntN(3) {
			case 0:
				_ = tr.Begin(m, now, 0)
			case 1:
				if m, err := tr.Confirm(m.Management.Address.Addr(), now, now, choices[2].Management.Address.Addr()); err == nil {
					good[m] = true
				}
			case 2:
				tr.Expire(now)
			}
			if _, _, ok := tr.Pending(); !ok && !good[tr.Wanted()] {
				t.Fatalf("seed %d: wants %v, which nobody confirmed", seed, tr.Wanted())
			}
		}
		if tr.Expire(now.Add(maxGrace)); !good[tr.Wanted()] {
			t.Fatalf("seed %d: in the end wants %v", seed, tr.Wanted())
		}
	}
}
