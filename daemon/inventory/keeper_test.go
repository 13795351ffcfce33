package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/redfish"
	"baystream/hw/uevent"
	"baystream/qemu/bmc"
	"baystream/qemu/manager"
)

// controller is a management controller with a frame document, one sensor and
// an event log. It can stop answering.
type controller struct {
	mu       sync.Mutex
	document []byte
	written  [][]byte
	silent   bool
	wrote    chan struct{}
}

func (c *controller) Close() error { return nil }

func (c *controller) Exchange(ctx context.Context, netFn, cmd byte, d []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent {
		return nil, errors.New("timeout")
	}
	none := []byte{0xcb}
	switch uint16(netFn)<<8 | uint16(cmd) {
	case 0x0601:
		return []byte{0, 0x20, 1, 2, 0x10, 2, 0, 0, 0, 0, 0, 0}, nil
	case 0x0001:
		return []byte{0, 1, 0, 0}, nil
	case 0x0a10:
		if d[0] == 1 && c.document != nil {
			return []byte{0, byte(len(c.document)), byte(len(c.document) >> 8), 0}, nil
		}
		return none, nil
	case 0x0a11:
		at, n := int(d[1])|int(d[2])<<8, int(d[3])
		part := c.document[at:min(at+n, len(c.document))]
		return append([]byte{0, byte(len(part))}, part...), nil
	case 0x0a23: // a full sensor: inlet temperature, as it is, in degrees
		return append([]byte{0, 0xff, 0xff}, "\x01\x00\x51\x01\x30\x20\x00\x05\x07\x01\x7f\x68\x01\x01\x00\x70\x00\x70\x3f\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07\x00\x00\xff\x00\x00\x50\x2d\x00\x00\x00\x00\x00\x00\x00\x00\xc5Inlet"...), nil
	case 0x042d:
		return []byte{0, 50, 0xc0, 0xd0}, nil // above the critical threshold
	case 0x0427:
		return []byte{0, 0x10, 0, 0, 0, 0, 45, 0}, nil
	case 0x0a40:
		return []byte{0, 0x51, byte(len(c.written)), 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil
	case 0x0a44:
		c.written = append(c.written, append([]byte(nil), d...))
		c.wrote <- struct{}{}
		return []byte{0, byte(len(c.written)), 0}, nil
	case 0x0a43:
		i := int(d[2])
		if i >= len(c.written) {
			return none, nil
		}
		next := []byte{0, byte(i + 1), 0}
		if i == len(c.written)-1 {
			next = []byte{0, 0xff, 0xff}
		}
		return append(next, c.written[i]...), nil
	}
	return []byte{0xc1}, nil
}

// module is the computer in a bay.
type module struct {
	mu sync.Mutex
	on bool
}

func (m *module) set(on bool) error       { m.mu.Lock(); defer m.mu.Unlock(); m.on = on; return nil }
func (m *module) On() bool                { m.mu.Lock(); defer m.mu.Unlock(); return m.on }
func (m *module) PowerOn() error          { return m.set(true) }
func (m *module) PowerOff() error         { return m.set(false) }
func (m *module) PowerCycle() error       { return m.set(true) }
func (m *module) Reset() error            { return nil }
func (m *module) PowerButton() error      { return nil }
func (m *module) Interrupt() error        { return nil }
func (m *module) Readings() []bmc.Reading { return nil }

// rig is a keeper with everything around it.
type rig struct {
	t       *testing.T
	k       *Keeper
	bmc     *controller
	manager *manager.Manager
	root    string
	events  chan uevent.Event // from the kernel
	health  chan string       // "part: status: detail"
	plugged chan hw.Inventory
	kernel  chan string // messages of its log
}

const uuid = "11111111-2222-3333-4444-555555555555"

func newRig(t *testing.T, bay string) *rig {
	t.Helper()
	m, err := manager.New(manager.Config{Frame: "VF0001", Bays: []manager.Bay{
		{Location: "appliance bay 1", Number: 1, Serial: "A1", UUID: uuid[:35] + "0", Module: &module{on: true}},
		{Location: "device bay 2", Number: 2, Serial: "D2", UUID: uuid, Module: &module{}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.Serve(l)
	t.Cleanup(m.Close)
	m.AddUser("bay", "a secret of this bay", manager.Operator)

	g := &rig{t: t, manager: m, root: t.TempDir(), events: make(chan uevent.Event), health: make(chan string, 64), plugged: make(chan hw.Inventory, 8), kernel: make(chan string)}
	g.bmc = &controller{wrote: make(chan struct{}, 64), document: []byte(fmt.Sprintf(
		`{"frame":"VF0001","bay":%q,"address":"169.254.1.11/16","manager":{"url":"https://%s","certificateSha256":%q,"user":"bay","password":"a secret of this bay"},
		"bays":[{"bay":"appliance bay 1","kind":"appliance"},{"bay":"device bay 2","kind":"device"}]}`, bay, l.Addr(), m.Fingerprint()))}
	g.write("proc/meminfo", "MemTotal: 1024 kB\n")
	inv, err := hw.Probe(g.root)
	if err != nil {
		t.Fatal(err)
	}
	inv.Bay = hw.Bay{Kind: hw.Appliance, Number: 1, Frame: "VF0001"}
	g.k = New(Config{
		Root: g.root, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Health:  func(part string, s Status, detail, _ string) { g.health <- fmt.Sprintf("%s: %s: %s", part, s, detail) },
		Plugged: func(inv hw.Inventory) { g.plugged <- inv },
		Open: func() (*ipmi.Client, error) {
			if g.bmc == nil {
				return nil, fs.ErrNotExist
			}
			return ipmi.NewClient(g.bmc), nil
		},
		Watchdog: func() *Watchdog {
			return &Watchdog{Kind: WatchdogKind("IPMI"), Identity: "IPMI", Device: "/dev/watchdog", TimeoutSeconds: 60, Armed: true}
		},
		Messages: func(ctx context.Context, each func(string)) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case text := <-g.kernel:
					each(text)
				}
			}
		},
		Follow: func(ctx context.Context, started func(), each func(uevent.Event)) error {
			started()
			for {
				select {
				case <-ctx.Done():
					return nil
				case e := <-g.events:
					each(e)
				}
			}
		},
	}, inv)
	return g
}

func (g *rig) start() {
	g.t.Helper()
	ctx, cancel := context.WithCancel(g.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = g.k.Run(ctx) }()
	g.t.Cleanup(func() { cancel(); <-done })
}

func (g *rig) write(name, content string) {
	g.t.Helper()
	name = filepath.Join(g.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// waitHealth waits for a line that begins so.
func (g *rig) waitHealth(prefix string) string {
	g.t.Helper()
	for {
		select {
		case h := <-g.health:
			if strings.HasPrefix(h, prefix) {
				return h
			}
		case <-time.After(time.Minute):
			g.t.Fatalf("the health board never says %q", prefix)
		}
	}
}

// wait waits until what the document says is so.
func (g *rig) wait(what string, ok func(Document) bool) Document {
	g.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if d := g.k.Document(); ok(d) {
			return d
		}
	}
	d, _ := json.MarshalIndent(g.k.Document(), "", " ")
	g.t.Fatalf("never: %s\n%s", what, d)
	return Document{}
}

func TestEverythingIsInOneDocument(t *testing.T) {
	g := newRig(t, "appliance bay 1")
	g.start()
	if err := g.k.Placed(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.waitHealth("sensors: Critical: Inlet is critical at 50 degrees C")
	g.waitHealth("frame manager: OK")
	d := g.wait("the frame is known", func(d Document) bool { return d.FrameManager != nil && len(d.FrameManager.Frames) == 1 })
	if c := d.Controller; c.Firmware != "2.10" || len(c.Sensors) != 1 || *c.Sensors[0].Thresholds.UpperCritical != 45 || !c.Chassis.PowerOn {
		t.Errorf("controller %+v", c)
	}
	if w := d.Watchdog; w == nil || w.Kind != "controller" || !w.Armed {
		t.Errorf("watchdog %+v", w)
	}
	if len(d.BayMap) != 2 || len(d.FrameManager.Frames[0].Bays) != 2 || len(d.Problems) != 0 {
		t.Errorf("bay map %v, frames %v, problems %q", d.BayMap, d.FrameManager.Frames, d.Problems)
	}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "a secret of this bay") {
		t.Error("the document tells the password")
	}
	validate(t, b)

	// Power of the compute bay, by its UUID, and what the manager says of it.
	if p, err := g.k.Power(uuid, ""); err != nil || p != redfish.Off {
		t.Errorf("Power = %s, %v", p, err)
	}
	if err := g.k.Reset(t.Context(), uuid, "", redfish.PowerOn); err != nil {
		t.Fatal(err)
	}
	g.manager.PowerChanged("device bay 2", true)
	g.wait("the event switched the bay on", func(d Document) bool {
		p, _ := g.k.Power("", "D2")
		return p == redfish.On && len(d.FrameManager.Events) == 1
	})
	if _, err := g.k.Power("other", "other"); !errors.Is(err, ErrNoBay) {
		t.Errorf("Power of a computer that is nowhere: %v", err)
	}

	if err := g.k.Fence(t.Context(), "VF0001", "device bay 2"); err != nil {
		t.Fatal(err)
	}
	<-g.bmc.wrote
	log, err := g.k.Log(t.Context())
	if err != nil || len(log) != 1 || log[0].Text != "device bay 2 was cut off from power" {
		t.Errorf("Log = %+v, %v", log, err)
	}
	if err := g.k.Fence(t.Context(), "VF0002", "device bay 2"); !errors.Is(err, ErrNoBay) {
		t.Errorf("Fence in a frame that is not linked: %v", err)
	}
	problems, err := testutil.CollectAndLint(g.k.Metrics())
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(registry(g.k), "baystream_sensor_value", "baystream_bay_power"); err != nil || n != 3 {
		t.Errorf("%d metrics of sensors and bays, %v, want 3", n, err)
	}
}

func registry(k *Keeper) *prometheus.Registry {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(k.Metrics())
	return r
}

func TestAnotherBayIsMaintenance(t *testing.T) {
	g := newRig(t, "appliance bay 2")
	g.start()
	err := g.k.Placed(t.Context())
	if err == nil || !strings.Contains(err.Error(), "SMBIOS says appliance bay 1, the frame's document says appliance bay 2") {
		t.Errorf("Placed = %v", err)
	}
	g.waitHealth("bay: Critical: maintenance: the module's SMBIOS says appliance bay 1")
	<-g.bmc.wrote
	if log, err := g.k.Log(t.Context()); err != nil || len(log) != 1 || log[0].Text != "maintenance: sources of the bay's identity disagree" {
		t.Errorf("Log = %+v, %v", log, err)
	}
}

func TestPlaceStaysWhatTheRolesWereTold(t *testing.T) {
	bad := errors.New("two places")
	bay := hw.Bay{Kind: hw.Appliance, Number: 1, Frame: "VF0001"}
	for _, tc := range []struct {
		settled    bool
		first, now error
		status     Status
		says       string
	}{
		{false, nil, nil, Good, "as the firmware and the frame say"},
		{false, nil, bad, Critical, "maintenance: two places"},
		{true, nil, nil, Good, "as the firmware and the frame say"},
		{true, bad, bad, Critical, "maintenance: two places"},
		{true, nil, bad, Critical, "so it serves"},
		{true, bad, nil, Critical, "restart the module"},
	} {
		status, detail, remedy := place(bay, tc.settled, tc.first, tc.now)
		if status != tc.status || !strings.Contains(detail+" "+remedy, tc.says) {
			t.Errorf("settled %v, first %v, now %v: %s, %q, %q", tc.settled, tc.first, tc.now, status, detail, remedy)
		}
	}
}

func TestWithoutControllerTheFirmwareIsBelieved(t *testing.T) {
	g := newRig(t, "")
	g.bmc = nil
	g.start()
	if err := g.k.Placed(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := g.k.Log(t.Context()); !errors.Is(err, ErrNoController) {
		t.Errorf("Log = %v", err)
	}
	if err := g.k.Reset(t.Context(), uuid, "", redfish.PowerOn); !errors.Is(err, ErrNoManager) {
		t.Errorf("Reset = %v", err)
	}
	b, err := json.Marshal(g.k.Document())
	if err != nil {
		t.Fatal(err)
	}
	validate(t, b)
}

func TestControllerThatIsSilentHoldsNothingUp(t *testing.T) {
	g := newRig(t, "")
	g.bmc.silent = true
	g.start()
	if err := g.k.Placed(t.Context()); err != nil {
		t.Error(err)
	}
	g.waitHealth("management controller: Warning: ipmi: device id: timeout")
}

// A controller that is dead when the machine starts has no device: the driver gave
// it up. It is told, holds nothing up, and is used when it is back.
func TestControllerThatComesBackLate(t *testing.T) {
	g := newRig(t, "appliance bay 1")
	g.write("sys/bus/platform/devices/dmi-ipmi-si.0/uevent", "")
	var alive atomic.Bool
	open := g.k.cfg.Open
	g.k.cfg.Open = func() (*ipmi.Client, error) {
		if !alive.Load() {
			return nil, fs.ErrNotExist
		}
		return open()
	}
	g.start()
	if err := g.k.Placed(t.Context()); err != nil {
		t.Error(err)
	}
	g.waitHealth("management controller: Warning: the firmware names a controller")
	if d := g.k.Document(); len(d.Problems) != 1 {
		t.Errorf("problems %q", d.Problems)
	}
	alive.Store(true)
	g.events <- uevent.Event{Action: "add", Subsystem: "ipmi", Name: "ipmi0"}
	g.waitHealth("management controller: OK: firmware 2.10")
	if d := g.k.Document(); len(d.Problems) != 0 {
		t.Errorf("problems %q", d.Problems)
	}
}

func TestHotPlugIsSeen(t *testing.T) {
	g := newRig(t, "appliance bay 1")
	g.start()
	g.wait("the controller is read", func(d Document) bool { return d.Controller != nil })
	g.write("sys/devices/pci0000:00/0000:00:05.0/virtio3/block/vdb/size", "2048\n")
	if err := os.MkdirAll(filepath.Join(g.root, "sys/block"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(g.root, "sys/block/vdb")
	if err := os.Symlink("../devices/pci0000:00/0000:00:05.0/virtio3/block/vdb", link); err != nil {
		t.Fatal(err)
	}
	g.events <- uevent.Event{Action: "add", Subsystem: "block", Name: "vdb"}
	if inv := <-g.plugged; len(inv.Disks) != 1 || inv.Disks[0].Name != "vdb" {
		t.Errorf("disks %+v", inv.Disks)
	}
	<-g.bmc.wrote
	for range 3 { // told once
		g.kernel <- "I/O error, dev vdb, sector 8 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2"
	}
	g.kernel <- "I/O error, dev dm-7, sector 8 op 0x1:(WRITE)"
	<-g.bmc.wrote
	g.waitHealth("disk errors: Warning: vdb: 3 I/O errors")
	if d := g.k.Document(); len(d.Problems) != 1 {
		t.Errorf("problems %q", d.Problems)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	g.events <- uevent.Lost
	if inv := <-g.plugged; len(inv.Disks) != 0 {
		t.Errorf("disks %+v", inv.Disks)
	}
	<-g.bmc.wrote
	log, err := g.k.Log(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, r := range log {
		texts = append(texts, r.Text)
	}
	if diff := cmp.Diff([]string{"disk 1 is there again", "disk 1 has I/O errors", "disk 1 failed or was removed"}, texts); diff != "" {
		t.Errorf("event log (-want +got):\n%s", diff)
	}
	if d := g.k.Document(); d.Revision < 2 {
		t.Errorf("revision %d after two changes", d.Revision)
	}
}

func TestCompareIgnoresCables(t *testing.T) {
	old := hw.Inventory{NICs: []hw.NIC{{Name: "eth0", Carrier: true, SpeedMbps: 1000}, {Name: "eth1", MAC: "a"}}, Disks: []hw.Disk{{Name: "sda", Serial: "1"}, {Name: "sdb"}}}
	now := hw.Inventory{NICs: []hw.NIC{{Name: "eth0"}, {Name: "eth2"}}, Disks: []hw.Disk{{Name: "sda", Serial: "2"}, {Name: "sdb"}}}
	want := []change{{"disk", "sda", "changed", 1}, {"nic", "eth1", "removed", 2}, {"nic", "eth2", "added", 2}}
	if diff := cmp.Diff(want, compare(old, now), cmp.AllowUnexported(change{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
