package scenario

import (
	"log/slog"
	"net"
	"regexp"
	"testing"
	"time"

	"baystream/qemu"
)

const deploymentVLAN = 1300

// biosServer is a server with SeaBIOS: its iPXE gets the script and attaches
// the volume. What is on it boots by UEFI only, so that is as far as it goes.
func (s *site) biosServer(t *testing.T) {
	ic3, err := s.Network(qemu.IC3)
	must(t, err)
	mac := net.HardwareAddr{0x02, 0x61, 0xfe, 0, 0, 3}
	id := qemu.Identity{Frame: s.Serial, Serial: "BIOS01", UUID: "6c2cf1a8-5a4a-8d4e-9d2b-3f0d8a1b5e01", Location: "device bay 12"}
	vm, err := qemu.NewVM(qemu.VMConfig{
		Name: "bios", Dir: t.TempDir(), RunDir: s.RunDir(), MemoryMiB: 128, Firmware: qemu.BIOS, Identity: id,
		NICs: []qemu.NIC{{Slot: 3, MAC: mac, Network: ic3, Port: qemu.PortConfig{Name: "bios", Access: deploymentVLAN}, Boot: 1}},
	}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the console's last lines:\n%s", vm.Console().Tail(60))
		}
		vm.Close()
	})
	hw := s.register(t, "an old server", id.UUID, id.Serial, []string{mac.String()})
	s.deploy(t, "old-1", hw, s.plan, attributes("HostName", "old-1", "Address", "-"))
	must(t, vm.PowerOn(qemu.Context(t, 10*time.Second)))
	// SeaBIOS breaks lines after 80 characters.
	_, err = vm.WaitConsole(qemu.Context(t, 40*time.Second), regexp.MustCompile(`Baystream: an old server boots from iqn\.`))
	must(t, err)
	_, err = vm.WaitConsole(qemu.Context(t, 20*time.Second), regexp.MustCompile(`Registered SAN device 0x80`))
	must(t, err)
}

// vendorBundle deploys the published Developer bundle: its plan whose test
// fails on purpose, and the one that makes the server show what it was told.
func (s *site) vendorBundle(t *testing.T) {
	file := bundle(t, "HPE-ImageStreamer-Developer-2017-08-28-v5.0.zip")
	task, err := s.upload(t, "/rest/artifact-bundles", "Developer", file)
	must(t, err)
	_, err = s.REST().Run(qemu.Context(t, time.Minute), "PUT", task.Resource.URI+"?extract=true", map[string]any{}, nil)
	must(t, err)
	hw := s.registerBay(t, 3)
	attrs := attributes("ExampleString1", "as the frame test wrote", "ExampleString2", "second",
		"ExampleNumber1", "4711", "ExampleFQDN", "bay3.example.org", "ExampleIPv4Address", "192.0.2.77", "ExamplePassword", "s3cret-pw")

	t.Run("PlanThatFailsOnPurpose", func(t *testing.T) {
		plan, ok := s.named(t, "/rest/deployment-plans", "User - Developer 1.0 - Deployment Test (UEFI) - 2017-03-24")
		if !ok {
			t.Fatal("the bundle's deployment plan is missing")
		}
		absent := s.registerAbsent(t, 4)
		_, err := s.REST().Run(qemu.Context(t, time.Minute), "POST", "/rest/server-profiles", profile("vendor-fails", absent, plan.URI, attrs), nil)
		refused(t, err, 0, "HPE - Developer 1.0 - attempt or fail deployment - 2017-03-24", "line ")
		if v, there := s.named(t, "/rest/os-volumes", "vendor-fails"); there {
			t.Errorf("the clone is there: %+v", v)
		}
	})

	plan, ok := s.named(t, "/rest/deployment-plans", "HPE - Developer 1.0 - Deployment Test (UEFI) - 2017-03-24")
	if !ok {
		t.Fatal("the bundle's deployment plan is missing")
	}
	s.deploy(t, "vendor-1", hw, plan.URI, attrs)
	b := s.Compute(3)
	must(t, b.PowerOn(qemu.Context(t, 10*time.Second)))
	defer b.PowerOff()
	for _, shown := range []string{"as the frame test wrote", "4711", "bay3\\.example\\.org", "192\\.0\\.2\\.77"} {
		_, err := b.WaitConsole(qemu.Context(t, time.Minute), regexp.MustCompile(shown))
		must(t, err)
	}
	_, log := s.visitor(t).do(t, "GET", "/rest/os-volumes/archive/vendor-1", nil)
	if regexp.MustCompile("s3cret-pw").MatchString(log) {
		t.Error("the log of the deployment shows a password")
	}
}
