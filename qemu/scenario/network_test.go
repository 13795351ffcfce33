package scenario

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"baystream/qemu"
	"baystream/qemu/block"
)

// portHangs is an interconnect port that forwards nothing behind a live carrier,
// below two servers that write: the bond leaves it, and they notice a pause.
func (s *site) portHangs(t *testing.T) {
	servers := []*qemu.Bay{s.running(t, 1), s.running(t, 2)}
	marks := make([]int64, len(servers))
	for i, b := range servers {
		ask(t, b, "rate 100")
		marks[i] = b.Console().Mark()
	}
	ic3, err := s.Network(qemu.IC3)
	must(t, err)
	port, err := ic3.Port(s.Appliance().Name())
	must(t, err)
	s.waitNet(t, "the bond is on the port of slot 3", func(v netReport) bool { return v.port(3).InUse && v.port(3).Verdict == "works" })
	port.SetSilent(true)
	v := s.waitNet(t, "the bond left the port that hangs", func(v netReport) bool { return v.port(6).InUse && v.port(3).Verdict == "silent" })
	if !strings.Contains(strings.Join(v.Warnings, " "), "has a carrier and carries nothing") {
		t.Errorf("warnings %q", v.Warnings)
	}
	for i, b := range servers {
		waitWrites(t, b, 50)
		// TCP sends again after 200 ms, 400 ms, 800 ms...: one more step at worst.
		checkIO(t, b, marks[i], qemu.Deadline(2*time.Second))
		for _, m := range gapLine.FindAllStringSubmatch(b.Console().Since(marks[i]), -1) {
			t.Logf("%s: a gap of %s s", b.Name(), m[1])
		}
		ask(t, b, "rate 20")
	}
	port.SetSilent(false)

	// What would take their disks from them is refused.
	refused(t, s.REST().Do(t.Context(), "PUT", "/rest/baystream/net/settings", map[string]any{"deployment": "vlan:1301,address:203.0.113.2/24"}, nil),
		409, "OS volumes are served", "web-1", "Delete the profiles")
}

// supportDump is taken on the module and searched for everything that is secret
// there.
func (s *site) supportDump(t *testing.T) {
	s.running(t, 1)
	tty := s.Appliance().Diagnostics()
	mark := tty.Mark()
	_, err := fmt.Fprintln(tty, "chap all")
	must(t, err)
	m, err := tty.WaitFrom(qemu.Context(t, 20*time.Second), mark, regexp.MustCompile(`agent: ok chap (\S+) 0`))
	must(t, err)
	password, err := os.ReadFile(s.Access().PasswordFile)
	must(t, err)
	var doc struct{ Manager struct{ Password string } }
	must(t, json.Unmarshal(s.Appliance().BMC().Document(), &doc))
	visitor := s.visitor(t)
	secrets := map[string]string{
		"administrator's password": strings.TrimSpace(string(password)),
		"frame manager's password": doc.Manager.Password,
		"session's token":          visitor.token,
		"private key":              "PRIVATE KEY-----",
		"hash of a password":       "$argon2id$",
	}
	for i, p := range strings.Split(m[1], ",") {
		secrets[fmt.Sprintf("CHAP secret %d", i+1)] = p
	}
	file := filepath.Join(t.TempDir(), "dump.zip")
	s.bayctl(t, "support-dump", file)
	dump, err := zip.OpenReader(file)
	must(t, err)
	defer dump.Close()
	names := map[string]bool{}
	for _, f := range dump.File {
		names[f.Name] = true
		r, err := f.Open()
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		for what, secret := range secrets {
			if len(secret) < 8 {
				t.Fatalf("the %s is %q: too short to look for", what, secret)
			}
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s of the support dump has the %s", f.Name, what)
			}
		}
	}
	t.Logf("%d secrets are in none of %d files", len(secrets), len(names))
	if len(names) < 20 {
		t.Errorf("the dump has only %v", names)
	}
}

// netReport is what the scenarios look at of the network.
type netReport struct {
	Ports    []netPort
	Warnings []string
	Settings struct {
		Management, Deployment, DeploymentFrom string
		Trial                                  *struct{ Address string }
	}
}

type netPort struct {
	Link, MAC, Verdict string
	Slot               int
	InUse              bool
	Neighbour          *struct{ System string }
}

func (v netReport) port(slot int) netPort {
	for _, p := range v.Ports {
		if p.Slot == slot {
			return p
		}
	}
	return netPort{}
}

func (s *site) waitNet(t testing.TB, what string, ok func(netReport) bool) netReport {
	t.Helper()
	var v netReport
	defer func() {
		if t.Failed() {
			t.Logf("the network when waiting for: %s\n%+v", what, v)
		}
	}()
	s.waitFor(t, what, func() bool {
		v = netReport{}
		must(t, s.REST().Get(t.Context(), "/rest/baystream/net", &v))
		return ok(v)
	})
	return v
}

// cardReplaced takes the card of interconnect bay 3 out and puts another in, first
// with its cable in the wrong interconnect module.
func (s *site) cardReplaced(t *testing.T) {
	module := s.Appliance()
	old := s.waitNet(t, "both ports work", func(v netReport) bool {
		return v.port(3).Verdict == "works" && v.port(6).Verdict == "works"
	}).port(3)
	ctx := qemu.Context(t, time.Minute)
	must(t, module.ReplaceNIC(ctx, 3, 6))
	s.waitNet(t, "the crossed cable is told", func(v netReport) bool {
		return strings.Contains(strings.Join(v.Warnings, " "), "is cabled to interconnect bay 6, not 3")
	})
	if out := s.bayctl(t, "net"); !strings.Contains(out, "warning: ") || !strings.Contains(out, "is cabled to interconnect bay 6, not 3") {
		t.Errorf("bayctl net does not warn:\n%s", out)
	}
	must(t, module.ReplaceNIC(ctx, 3, 3))
	now := s.waitNet(t, "the card that was put in works", func(v netReport) bool {
		p := v.port(3)
		return p.Verdict == "works" && p.Neighbour != nil && strings.HasSuffix(p.Neighbour.System, "interconnect bay 3") && len(v.Warnings) == 0
	}).port(3)
	if now.MAC == old.MAC {
		t.Errorf("the port has the address of the card that is gone: %+v", now)
	}
	joined := regexp.MustCompile(`network changed.*change="set ` + now.Link + ` master ic0"`)
	replaced := regexp.MustCompile(`port replaced.*slot=3`)
	log := s.bayctl(t, "logs", "-n", "3000")
	if len(joined.FindAllString(log, -1)) < 3 || len(replaced.FindAllString(log, -1)) != 2 {
		t.Errorf("the log does not tell that two cards became ports of the bond:\n%s", log)
	}
}

// branchCut changes the management address to one that nobody can reach, from a
// client that never confirms.
func (s *site) branchCut(t *testing.T) {
	var settings struct{ Management string }
	must(t, s.REST().Get(t.Context(), "/rest/baystream/net/settings", &settings))
	var trial struct{ Address string }
	must(t, s.REST().Do(t.Context(), "PUT", "/rest/baystream/net/settings",
		map[string]any{"management": "address:203.0.113.77/24", "graceSeconds": 10, "unchecked": true}, &trial))
	if trial.Address != "203.0.113.77" {
		t.Errorf("trial %+v", trial)
	}
	_, err := s.Appliance().WaitConsole(qemu.Context(t, 30*time.Second), regexp.MustCompile(`nobody confirmed the network settings`))
	must(t, err)
	var now struct {
		Management string
		Trial      *struct{}
	}
	s.waitFor(t, "REST is back at the old address", func() bool {
		now.Trial = nil
		return s.REST().Get(t.Context(), "/rest/baystream/net/settings", &now) == nil
	})
	if now.Management != settings.Management || now.Trial != nil {
		t.Errorf("settings %+v, want %q", now, settings.Management)
	}
}

// otherDeployment changes the deployment network of a module that serves nothing,
// and puts the frame's back.
func (s *site) otherDeployment(t *testing.T) {
	const set = "vlan:1301,address:203.0.113.2/24,pool:203.0.113.100-203.0.113.199"
	s.bayctl(t, "net", "set", "deployment", set)
	v := s.waitNet(t, "the other deployment network", func(v netReport) bool { return v.Settings.Trial == nil })
	if v.Settings.Deployment != set || v.Settings.DeploymentFrom != "administrator" {
		t.Errorf("settings %+v", v.Settings)
	}
	if out := s.bayctl(t, "net"); !strings.Contains(out, "ic0.1301") || strings.Contains(out, "ic0.1300") {
		t.Errorf("the links are\n%s", out)
	}
	s.bayctl(t, "net", "set", "deployment", "frame")
	if v := s.waitNet(t, "the frame's again", func(v netReport) bool { return v.Settings.Trial == nil }); v.Settings.DeploymentFrom != "frame" {
		t.Errorf("settings %+v", v.Settings)
	}
}

// anotherBay restarts a module whose controller says that it sits in another bay,
// and whose second disk cannot be read.
func (s *site) anotherBay(t *testing.T) {
	module := s.Appliance()
	module.BMC().SetDocument(bytes.ReplaceAll(module.BMC().Document(), []byte(`"bay":"appliance bay 1","address"`), []byte(`"bay":"appliance bay 2","address"`)))
	drive, err := module.Drive("disk-slot7")
	must(t, err)
	must(t, drive.SetFault(block.Fault{ReadErrors: true}))
	mark := module.Console().Mark()
	must(t, module.Reset(t.Context()))
	_, err = module.Console().WaitFrom(qemu.Context(t, time.Minute), mark, regexp.MustCompile(`baystream: maintenance: .*SMBIOS says appliance bay 1.*appliance bay 2`))
	must(t, err)
	_, err = module.Console().WaitFrom(qemu.Context(t, time.Minute), mark, restReady)
	must(t, err)
	must(t, s.Setup(qemu.Context(t, time.Minute))) // logs in again
	s.waitFor(t, "the event log has both", func() bool {
		out := s.bayctl(t, "hw", "events")
		return strings.Contains(out, "maintenance: sources of the bay's identity disagree") && strings.Contains(out, "has I/O errors")
	})
	status := s.bayctl(t, "status")
	for _, want := range []string{"Critical", "maintenance: ", "Put the module back into its bay", "I/O errors since the module started"} {
		if !strings.Contains(status, want) {
			t.Errorf("bayctl status lacks %q:\n%s", want, status)
		}
	}
}
