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

// TestFramePair is the life of a pair, on one set of frames: its management, and
// two servers, one in each storage group, that write and check all the while.
func TestFramePair(t *testing.T) {
	image := qemu.Need(t)
	f := qemu.StartBare(t, qemu.Frames(3), qemu.Compute(2), func(c *qemu.Config) {
		c.Image, c.ServeDisks = image, os.Getenv("BAYSTREAM_LONG") != ""
	})
	site, err := pair.On(t.Context(), f, pair.Options{Cache: cacheDir(), ModuleDir: moduleRoot, Tell: func(what string) { t.Log(what) }})
	must(t, err)
	s := &pairSite{site}
	if !t.Run("StrangersBecomeADomain", s.form) {
		return
	}
	if os.Getenv("BAYSTREAM_LONG") != "" { // while no server runs: its clients keep two cores busy
		t.Run("ManagementTakeover", s.takeover)
	}
	if !t.Run("BothServeVolumes", s.serve) {
		return
	}
	t.Run("GroupMoves", s.move)
	t.Run("OwnerDies", s.ownerDies)
	long(t)
	for _, f := range s.faults() {
		t.Run(f.name, s.fault(f))
	}
}

// serve deploys two servers, whose volumes are in different groups, both of
// which are served where they are at home.
func (s *pairSite) serve(t *testing.T) {
	ctx := qemu.Context(t, 3*time.Minute)
	must(t, s.Serve(ctx, 2))
	if a, b := s.Servers[0].Group, s.Servers[1].Group; a == b || a == "" || b == "" {
		t.Errorf("groups of the two volumes: %q and %q, want one each", a, b)
	}
	st, err := s.WaitSettled(ctx)
	must(t, err)
	t.Log(st)
	if st.Groups[0].Owner == st.Groups[1].Owner {
		t.Errorf("both groups are served by %s", st.Groups[0].Owner)
	}
}

// through lets a fault happen beside two writing servers and holds that they
// felt nothing but a pause, and that all is at home and in sync afterwards.
func (s *pairSite) through(t *testing.T, what string, fault func(ctx context.Context)) {
	t.Helper()
	ctx := qemu.Context(t, 4*time.Minute)
	s.Mark()
	fault(ctx)
	must(t, s.WaitWrites(ctx, 20))
	gap, who := s.LongestGap()
	t.Logf("%s: the longest gap was %v, at %s", what, gap, who)
	st, err := s.WaitSettled(ctx)
	must(t, err)
	t.Log(st)
	must(t, s.Check(ctx))
}

// move moves the first group to the other appliance and home again.
func (s *pairSite) move(t *testing.T) {
	s.through(t, "a planned move and back", func(ctx context.Context) {
		must(t, s.MoveGroup(ctx, "1", s.B.Identity.Serial))
		must(t, s.WaitOwner(ctx, s.B))
		must(t, s.MoveGroup(ctx, "1", pair.Home))
	})
}

// ownerDies takes the power from the appliance that is at home of the first
// group, and gives it back.
func (s *pairSite) ownerDies(t *testing.T) {
	s.through(t, "power cut of "+s.A.Name(), func(ctx context.Context) {
		s.A.PowerOff()
		must(t, s.WaitOwner(ctx, s.B))
		must(t, s.WaitWrites(ctx, 20))
		must(t, s.A.PowerOn(ctx))
	})
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
