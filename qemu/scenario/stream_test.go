package scenario

import (
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	"baystream/qemu"

	"github.com/google/go-cmp/cmp"
)

// TestFrameStreams is the main job and what may befall it, on one frame.
func TestFrameStreams(t *testing.T) {
	s := &site{Frame: qemu.StartFrame(t, withAgent(t), qemu.Compute(3))}
	s.waitHealth(t, qemu.Context(t, 30*time.Second))

	// A server that nobody knows is powered on first; it has to wait while
	// the others' stories begin.
	early := s.Compute(2)
	must(t, early.PowerOn(qemu.Context(t, 10*time.Second)))
	s.uploadSampleOS(t)

	tell := func(name string, story func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, story) {
			t.FailNow() // the next would only say the same in other words
		}
	}

	tell("ServerBootsWithItsPersonality", func(t *testing.T) {
		b := s.running(t, 1)
		_, err := b.WaitConsole(qemu.Context(t, 20*time.Second), regexp.MustCompile(`SAMPLE-OS MESSAGE well met\s`))
		must(t, err)
		waitWrites(t, b, 50)
		checkIO(t, b, 0, qemu.Deadline(2*time.Second))
		if got := s.sessions(t)["web-1"]; len(got) != 1 || !strings.HasSuffix(got[0], b.Identity.UUID) {
			t.Errorf("sessions %q, want one of %s", got, b.Identity.UUID)
		}
	})

	tell("ServerWaitsForItsVolume", func(t *testing.T) {
		asked := regexp.MustCompile(`Baystream: .* does not boot`)
		for mark := int64(0); len(asked.FindAllString(early.Console().Since(0), -1)) < 2; mark = early.Console().Mark() {
			_, err := early.Console().WaitFrom(qemu.Context(t, time.Minute), mark, asked)
			must(t, err)
		}
		firmware := strings.Count(early.Console().Since(0), "BdsDxe: starting")
		s.running(t, 2)
		before, _, _ := strings.Cut(early.Console().Since(0), "SAMPLE-OS UP")
		if got := strings.Count(before, "BdsDxe: starting"); got > firmware+1 { // the volume's own loader
			t.Errorf("the firmware started something %d times, %d of them while it waited: the server was reset", got, firmware)
		}
	})

	tell("DaemonKilledUnderLoad", s.daemonKilled)
	tell("InterconnectPortHangs", s.portHangs)
	tell("SupportDump", s.supportDump)
	tell("BadInput", s.badInput)
	tell("BIOS", s.biosServer)
	tell("VendorBundle", s.vendorBundle)

	tell("PlannedPowerOffOfTheAppliance", func(t *testing.T) {
		s.applianceGoes(t, func(a *qemu.Bay) {
			mark := a.Console().Mark()
			must(t, a.PowerButton(qemu.Context(t, 10*time.Second)))
			must(t, a.WaitOff(qemu.Context(t, time.Minute)))
			said := a.Console().Since(mark)
			if !shutdownOrder.MatchString(said) {
				t.Errorf("the console does not show the order %v:\n%s", shutdownOrder, said)
			}
		})
	})
	tell("PowerCutOfTheAppliance", func(t *testing.T) {
		s.applianceGoes(t, (*qemu.Bay).PowerOff)
	})
}

// shutdownOrder is how the volumes' side of an appliance ends.
var shutdownOrder = regexp.MustCompile(`(?s)shutdown: portal withdrawn\s.*shutdown: \d+ targets removed\s.*shutdown: [1-9]\d* volumes down\s` +
	`.*shutdown: pool down\s.*shutdown: all is on the disk\s`)

// applianceGoes lets the appliance end below two servers that write, and come
// back. All that was acknowledged must be there.
func (s *site) applianceGoes(t *testing.T, end func(*qemu.Bay)) {
	servers := []*qemu.Bay{s.running(t, 1), s.running(t, 2)}
	// A server that was switched off has a session until its target notices;
	// only those of the two that run have to come back.
	state := func() map[string][]string {
		all := s.snapshot(t)
		maps.DeleteFunc(all, func(what string, _ []string) bool {
			return strings.HasPrefix(what, "sessions of ") && what != "sessions of web-1" && what != "sessions of web-2"
		})
		return all
	}
	before := state()
	marks := []int64{servers[0].Console().Mark(), servers[1].Console().Mark()}
	end(s.Appliance())
	must(t, s.Appliance().PowerOn(qemu.Context(t, 10*time.Second)))
	must(t, s.Setup(qemu.Context(t, time.Minute))) // logs in again
	s.waitHealth(t, qemu.Context(t, time.Minute))
	for i, b := range servers {
		waitWrites(t, b, 50)
		// As long as a boot takes, and the initiator's patience on top.
		checkIO(t, b, marks[i], qemu.Deadline(time.Minute))
	}
	if diff := cmp.Diff(before, state()); diff != "" {
		t.Errorf("the state before and after (-before +after):\n%s", diff)
	}
}

// daemonKilled is what SIGKILL does to the daemon while servers write: idle,
// with a deployment in flight, and twice in a row.
func (s *site) daemonKilled(t *testing.T) {
	servers := []*qemu.Bay{s.running(t, 1), s.running(t, 2)}
	marks := make([]int64, len(servers))
	for i, b := range servers {
		ask(t, b, "rate 100")
		marks[i] = b.Console().Mark()
	}
	slow := s.scriptPlan(t, "Slow", "mount /dev/sda1 /\necho the script has begun\n! sleep 2\nwrite /slow once\numount /\n", s.golden(t))
	absent := s.registerAbsent(t, 1)
	before := s.snapshot(t)

	t.Run("Idle", func(t *testing.T) {
		mark := s.Appliance().Console().Mark()
		s.kill(t)
		s.waitServed(t, mark)
		if diff := cmp.Diff(before, s.snapshot(t)); diff != "" {
			t.Errorf("the state before and after (-before +after):\n%s", diff)
		}
	})

	t.Run("DeploymentInFlight", func(t *testing.T) {
		ctx, v := qemu.Context(t, time.Minute), s.visitor(t)
		var task qemu.Task
		must(t, s.REST().Do(ctx, "POST", "/rest/server-profiles", profile("slow-1", absent, slow, nil), &task))
		began := false
		_, err := s.REST().WaitTask(ctx, task, func(qemu.Task) {
			if began {
				return
			}
			_, log := v.do(t, "GET", "/rest/os-volumes/archive/slow-1", nil)
			if _, output, _ := strings.Cut(log, "=== 3. output"); strings.Contains(output, "the script has begun") {
				began = true
				mark := s.Appliance().Console().Mark()
				s.kill(t)
				_, err := s.Appliance().Console().WaitFrom(ctx, mark, restReady)
				must(t, err)
			}
		})
		must(t, err)
		if !began {
			t.Fatal("the task ended without a word of the plan script")
		}
		s.waitHealth(t, ctx)
		volume, ok := s.named(t, "/rest/os-volumes", "slow-1")
		if !ok || volume.State != "Exported" {
			t.Errorf("the volume is %+v, want it exported", volume)
		}
		p, _ := s.named(t, "/rest/server-profiles", "slow-1")
		if p.Settings == nil || p.Settings.Volume != volume.URI {
			t.Errorf("the profile is %+v, want the volume %s", p, volume.URI)
		}
		after := s.snapshot(t)
		for _, c := range []string{"os-volumes", "server-profiles"} {
			if len(after[c]) != len(before[c])+1 {
				t.Errorf("%s: %d before, %d after, want one more", c, len(before[c]), len(after[c]))
			}
		}
		// The kernel has as many volumes as the state: no clone is nobody's.
		if got, want := len(s.sessions(t)), len(after["os-volumes"]); got != want {
			t.Errorf("storage has %d volumes, the state %d", got, want)
		}
		_, err = s.REST().Run(ctx, "DELETE", p.URI, nil, nil)
		must(t, err)
		_, err = s.REST().Run(ctx, "DELETE", volume.URI+"?purge=true", nil, nil)
		must(t, err)
		if v, there := s.named(t, "/rest/os-volumes", "slow-1"); there {
			t.Errorf("the volume is there after its deletion: %+v", v)
		}
	})

	t.Run("TwiceInARow", func(t *testing.T) {
		before := s.snapshot(t)
		for range 2 {
			mark := s.Appliance().Console().Mark()
			s.kill(t)
			_, err := s.Appliance().Console().WaitFrom(qemu.Context(t, time.Minute), mark, restReady)
			must(t, err)
		}
		s.waitHealth(t, qemu.Context(t, time.Minute))
		if diff := cmp.Diff(before, s.snapshot(t)); diff != "" {
			t.Errorf("the state before and after (-before +after):\n%s", diff)
		}
	})

	for i, b := range servers {
		waitWrites(t, b, 100)
		checkIO(t, b, marks[i], qemu.Deadline(time.Second))
		ask(t, b, "rate 20")
	}
}

// golden is the uri of the sample OS's golden image.
func (s *site) golden(t testing.TB) string {
	t.Helper()
	g, ok := s.named(t, "/rest/golden-images", "Sample OS")
	if !ok {
		t.Fatal("the golden image of the sample OS is gone")
	}
	return g.URI
}
