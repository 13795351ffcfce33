package scenario

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/internal/bayctl"
	"baystream/qemu"
	"baystream/qemu/pair"
)

// long skips what only a campaign runs (make test-long).
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("BAYSTREAM_LONG") == "" {
		t.Skip("part of the long tests: make test-long")
	}
}

// pairSite is a pair and what its scenarios do with it.
type pairSite struct {
	*pair.Site
}

// TestFramePair is the life of a pair's management, on one set of frames.
func TestFramePair(t *testing.T) {
	long(t)
	image := qemu.Need(t)
	f := qemu.StartBare(t, qemu.Frames(3), func(c *qemu.Config) { c.Image = image })
	site, err := pair.On(t.Context(), f, pair.Options{Cache: cacheDir(), ModuleDir: moduleRoot, Tell: func(what string) { t.Log(what) }})
	must(t, err)
	s := &pairSite{site}
	if t.Run("StrangersBecomeADomain", s.form) {
		t.Run("ManagementTakeover", s.takeover)
	}
}

// form makes a domain of three modules, the first step by the administrator's
// own command; a wrong fingerprint claims nobody.
func (s *pairSite) form(t *testing.T) {
	must(t, s.WriteState())
	if out := s.bayctl(t, "domain", "create", "pair"); !strings.Contains(out, "domain pair exists") {
		t.Errorf("domain create: %s", out)
	}
	var out, errOut bytes.Buffer
	wrong := []string{"--frame", s.Dir(), "appliance", "claim", s.B.Identity.Serial, "--role", "appliance", "--fingerprint", strings.Repeat("ab", 32)}
	if err := bayctl.Run(t.Context(), wrong, &out, &errOut); err == nil {
		t.Errorf("a claim with a wrong fingerprint: %s, want an error", &out)
	}
	must(t, s.Form(t.Context()))
	list := s.bayctl(t, "appliance", "list")
	for _, b := range s.Modules() {
		if !strings.Contains(list, b.Identity.Serial) {
			t.Errorf("bayctl appliance list lacks %s:\n%s", b.Identity.Serial, list)
		}
	}
}

// takeover takes the power from the active appliance beside clients that write.
// The other one accepts a write at the service address, and what the clients
// were told could have happened one after the other.
func (s *pairSite) takeover(t *testing.T) {
	ctx := qemu.Context(t, time.Minute)
	active, standby, err := s.Active(ctx)
	must(t, err)
	var script struct{ URI string }
	must(t, s.REST.Do(ctx, "POST", "/rest/plan-scripts", map[string]any{"type": "PlanScript", "name": "register", "planType": "deploy", "content": "# a register\n"}, &script))
	other, err := s.Module(standby)
	must(t, err)

	h := &history{began: time.Now()}
	clients, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for id := range 3 {
		wg.Go(func() { h.change(clients, id, script.URI, s.REST, s.REST, other) })
	}
	time.Sleep(qemu.Deadline(time.Second)) // for a history before the fault
	began := time.Now()
	active.PowerOff()
	took, err := s.FirstWrite(ctx, "first", began)
	must(t, err)
	t.Logf("power cut of %s: the first write was accepted after %v", active.Name(), took)
	must(t, s.WaitActive(ctx, standby))
	stop()
	wg.Wait()
	h.check(t)
	must(t, active.PowerOn(ctx))
	must(t, s.WaitVotes(ctx, 3))
}

// bayctl runs a command for whoever is active; votes may change hands
// meanwhile, so one that finds nobody is given again.
func (s *pairSite) bayctl(t testing.TB, args ...string) string {
	t.Helper()
	ctx := qemu.Context(t, 10*time.Second)
	for {
		var out, errOut bytes.Buffer
		err := bayctl.Run(ctx, append([]string{"--frame", s.Dir()}, args...), &out, &errOut)
		if err == nil {
			return out.String()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("bayctl %v: %v\n%s", args, err, &errOut)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
