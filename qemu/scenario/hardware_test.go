package scenario

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"baystream/internal/bayctl"
	"baystream/qemu"
)

// moduleInventory is what this scenario looks at.
type moduleInventory struct {
	Disks      []struct{ Serial string }
	TPM        struct{ Present bool }
	Controller *struct {
		Sensors []struct {
			Name, Unit, State string
			Reading           *float64
			Thresholds        *struct{ UpperCritical *float64 }
		}
		Log struct{ Entries int }
	}
	FrameManager *struct {
		Connected bool
		Fault     string
		Frames    []struct {
			Serial string
			Bays   []struct{ Bay, Power, UUID, Serial string }
		}
		Events []struct{ Message, MessageID string }
	}
	BayMap   []struct{ Bay, Kind string }
	Problems []string
}

// TestModuleKnowsItsHardwareAndFrame is one frame with an appliance and a
// compute module that is off.
func TestModuleKnowsItsHardwareAndFrame(t *testing.T) {
	s := &site{Frame: qemu.StartFrame(t, qemu.Compute(1), smallPool(t))}
	must(t, s.WriteState())
	module := s.Appliance()
	compute := s.Compute(1)

	inv := s.waitInventory(t, "the frame manager is connected and read", func(v moduleInventory) bool {
		return v.Controller != nil && v.FrameManager != nil && v.FrameManager.Connected && len(v.FrameManager.Frames) == 1
	})
	if len(inv.Problems) > 0 || len(inv.Controller.Sensors) == 0 || inv.TPM.Present {
		t.Errorf("problems %q, %d sensors, TPM %v", inv.Problems, len(inv.Controller.Sensors), inv.TPM.Present)
	}
	hot := -1
	for i, v := range inv.Controller.Sensors {
		if v.State != "ok" || v.Reading == nil || v.Unit == "" {
			t.Errorf("sensor %+v", v)
		}
		if v.Unit == "degrees C" && v.Thresholds != nil && v.Thresholds.UpperCritical != nil {
			hot = i
		}
	}
	for _, bay := range []string{"appliance bay 1", "interconnect bay 3", "interconnect bay 6", "device bay 1"} {
		if !slices.ContainsFunc(inv.BayMap, func(b struct{ Bay, Kind string }) bool { return b.Bay == bay }) {
			t.Errorf("the bay map lacks %s: %v", bay, inv.BayMap)
		}
	}
	out := s.bayctl(t, "hw")
	for _, want := range []string{"appliance bay 1 of frame " + s.Serial, "sensors: ", "degrees C, ok", "frame manager: https://169.254.1.1, connected", "device bay 1: power off", "TPM: none", "watchdog: controller (IPMI), armed, resets the module when it has not been fed for 60 s"} {
		if !strings.Contains(out, want) {
			t.Errorf("bayctl hw lacks %q:\n%s", want, out)
		}
	}
	if !strings.Contains(s.bayctl(t, "hw", "events"), "appliance started") {
		t.Errorf("the event log lacks our start:\n%s", s.bayctl(t, "hw", "events"))
	}

	// Power of a compute bay, as OneView's clients switch it, and the event of it.
	id := compute.Identity.UUID
	s.create(t, "/rest/server-hardware", map[string]any{"uuid": id, "serialNumber": compute.Identity.Serial, "name": "compute 1"})
	for _, p := range []struct{ state, control, event string }{
		{"On", "MomentaryPress", "ResourcePoweredOn"}, {"Off", "PressAndHold", "ResourcePoweredOff"},
	} {
		_, err := s.REST().Run(t.Context(), "PUT", "/rest/server-hardware/"+id+"/powerState", map[string]string{"powerState": p.state, "powerControl": p.control}, nil)
		must(t, err)
		if compute.On() != (p.state == "On") {
			t.Errorf("the task to switch %s is done, the module is on: %v", p.state, compute.On())
		}
		s.waitInventory(t, "the frame manager tells "+p.event, func(v moduleInventory) bool {
			return slices.ContainsFunc(v.FrameManager.Events, func(e struct{ Message, MessageID string }) bool { return strings.HasSuffix(e.MessageID, p.event) })
		})
		var h struct{ PowerState string }
		must(t, s.REST().Get(t.Context(), "/rest/server-hardware/"+id, &h))
		if h.PowerState != p.state {
			t.Errorf("powerState %q after %s", h.PowerState, p.event)
		}
	}

	// A sensor above its limit is on the health board.
	if hot < 0 {
		t.Errorf("no temperature has a critical limit: %+v", inv.Controller.Sensors)
	} else {
		v := inv.Controller.Sensors[hot]
		must(t, module.BMC().SetSensor(v.Name, *v.Thresholds.UpperCritical+3))
		s.waitFor(t, "the health board tells the heat", func() bool {
			return strings.Contains(s.bayctl(t, "status"), v.Name+" is critical")
		})
		module.BMC().HealSensors()
	}

	// A disk that is plugged in: soon in the inventory after the kernel's event, in
	// the module's own time.
	must(t, module.PlugDisk(t.Context(), qemu.Disk{Slot: 7, Path: filepath.Join(t.TempDir(), "hot"), Size: 16 << 20, Serial: "HOTPLUG", Served: true}))
	inv = s.waitInventory(t, "the new disk", func(v moduleInventory) bool {
		return slices.ContainsFunc(v.Disks, func(d struct{ Serial string }) bool { return d.Serial == "HOTPLUG" })
	})
	d, ok := seenAfter(s.bayctl(t, "logs", "-n", "2000"))
	if !ok {
		t.Fatalf("the log does not tell when the disk was seen:\n%s", s.bayctl(t, "logs", "-n", "50"))
	}
	t.Logf("hot-plugged disk in the inventory after %v", d)
	if limit := qemu.Deadline(time.Second); d > limit { // the benchmark hardware has it on virtual time
		t.Errorf("the disk is in the inventory %v after the kernel's event, want 1s or less (%v here)", d, limit)
	}

	t.Run("LogFollowed", s.logFollowed)
	t.Run("CardReplaced", s.cardReplaced)
	t.Run("OtherDeploymentNetwork", s.otherDeployment)
	t.Run("BranchCut", s.branchCut)
	t.Run("FullPool", s.fullPool)
	t.Run("AnotherBay", s.anotherBay)
}

// logFollowed reads the log as it grows.
func (s *site) logFollowed(t *testing.T) {
	ctx, cancel := context.WithCancel(qemu.Context(t, time.Minute))
	defer cancel()
	r, w := io.Pipe()
	followed := make(chan error, 1)
	go func() {
		err := bayctl.Run(ctx, []string{"--frame", s.Dir(), "logs", "-n", "1", "-f"}, w, io.Discard)
		w.CloseWithError(io.EOF)
		followed <- err
	}()
	lines := bufio.NewScanner(r)
	for n := 0; lines.Scan(); n++ {
		if n == 0 {
			s.bayctl(t, "status") // logs in
		} else if strings.Contains(lines.Text(), "audit: logged out") {
			break
		}
	}
	cancel()
	go io.Copy(io.Discard, r)
	if err := <-followed; err != nil || lines.Err() != nil || !strings.Contains(lines.Text(), "audit: logged out") {
		t.Errorf("bayctl logs -f: %v, %v; last line %q", err, lines.Err(), lines.Text())
	}
}

// seenAfter finds in the log how long after the kernel's event the inventory had
// the new disk.
func seenAfter(log string) (time.Duration, bool) {
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "hardware changed") || !strings.Contains(line, "what=disk") || !strings.Contains(line, "change=added") {
			continue
		}
		if m := regexp.MustCompile(`after=(\S+)`).FindStringSubmatch(line); m != nil {
			d, err := time.ParseDuration(m[1])
			return d, err == nil
		}
	}
	return 0, false
}

func (s *site) bayctl(t testing.TB, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if err := bayctl.Run(t.Context(), append([]string{"--frame", s.Dir()}, args...), &out, &errOut); err != nil {
		t.Fatalf("bayctl %v: %v\n%s", args, err, &errOut)
	}
	return out.String()
}

// waitFor waits until something is so.
func (s *site) waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := qemu.Context(t, 2*time.Minute)
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (s *site) waitInventory(t testing.TB, what string, ok func(moduleInventory) bool) moduleInventory {
	t.Helper()
	var v moduleInventory
	defer func() {
		if t.Failed() {
			b, _ := json.MarshalIndent(v, "", " ")
			t.Logf("the inventory when waiting for %s:\n%s", what, b)
		}
	}()
	s.waitFor(t, what, func() bool {
		v = moduleInventory{}
		must(t, s.REST().Get(t.Context(), "/rest/baystream/hw", &v))
		return ok(v)
	})
	return v
}
