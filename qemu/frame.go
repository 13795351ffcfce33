package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Networks of a frame.
const (
	Management = "management"
	IC3        = "ic3" // interconnect modules in bays 3 and 6
	IC6        = "ic6"
	FrameLink  = "framelink" // of the first frame; "frame2-framelink" of the second
	Ring       = "ring"      // joins the managers of linked frames
)

// A Config says what to build. Its zero value is one frame with one appliance
// and no compute module.
type Config struct {
	Dir     string // what stays: disks, logs, frame.json; must be given
	Frames  int    // linked frames, one appliance each; 1 if 0, at most 5. Of three, the third has a witness
	Compute int    // compute modules per frame

	// Image is the directory that mkimage filled. Kernel, Initramfs and Cmdline
	// stand in for its parts where they are set.
	Image                      string
	Kernel, Initramfs, Cmdline string

	Appliance ModuleConfig
	Witness   ModuleConfig // the third frame's
	Module    ModuleConfig // the compute modules
	DiskBytes int64        // an appliance's data disk; 8 GiB if 0, none if less
	// ServeDisks puts drives of ours under the appliances' data disks, with a
	// volatile cache that a power cut loses, and faults (see VM.Drive).
	ServeDisks bool
	Firmware   Firmware     // of compute modules; UEFI if ""
	VLAN       uint16       // the deployment network's; 1300 if 0
	Seed       uint64       // of random faults
	Log        *slog.Logger // nil: silent
}

// A ModuleConfig is what the modules of a kind have.
type ModuleConfig struct {
	MemoryMiB int // 512 for an appliance, 320 for a witness, 256 for a compute module if 0
	CPUs      int // 2 for an appliance, else 1 if 0
	Display   bool
	Watchdog  bool
	ICount    bool     // see VMConfig.ICount
	Extra     []string // more arguments for QEMU
}

func (c *Config) complete() error {
	if c.Dir == "" {
		return errors.New("no directory: set Config.Dir")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	c.Dir = dir
	orInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	orInt(&c.Frames, 1)
	orInt(&c.Appliance.MemoryMiB, 512)
	if c.Frames >= pairFrames { // a second CPU costs more than it brings when many machines share few cores
		orInt(&c.Appliance.CPUs, 1)
	}
	orInt(&c.Appliance.CPUs, 2)
	orInt(&c.Witness.MemoryMiB, 320)
	orInt(&c.Witness.CPUs, 1)
	orInt(&c.Module.MemoryMiB, 256)
	orInt(&c.Module.CPUs, 1)
	if c.DiskBytes == 0 {
		c.DiskBytes = 8 << 30
	}
	if c.Firmware == "" {
		c.Firmware = UEFI
	}
	if c.VLAN == 0 {
		c.VLAN = 1300
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Frames < 1 || c.Frames > maxFrames || c.Compute < 0 || c.Compute > 99 {
		return fmt.Errorf("%d frames with %d compute modules: want 1 to %d frames with at most 99 each", c.Frames, c.Compute, maxFrames)
	}
	return c.loadImage()
}

// A Frame is one enclosure. Frames that are linked share their networks, as
// satellite interconnect modules extend those of the first frame.
type Frame struct {
	Number int // 1 for the first
	Serial string
	Bays   []*Bay

	rig     *rig
	link    *Switch
	manager *controlled

	mu      sync.Mutex
	restURL string
	client  *Client
}

// A Bay is a place in a frame and the module in it.
type Bay struct {
	*VM
	Kind     Kind
	Witness  bool   // an appliance bay whose module is a pair's witness
	Frame    string // serial
	Number   int    // 1 for the first of its kind
	Identity Identity
	MACs     []string // by slot

	address, deployment string // of the management and the deployment network; "": none
}

// Role is what a pair makes of the module: appliance, witness, or compute.
func (b *Bay) Role() string {
	if b.Witness {
		return "witness"
	}
	return string(b.Kind)
}

// Address is the module's on the management network, "" if it has none.
func (b *Bay) Address() string { return b.address }

// DeploymentAddress is an appliance's own on the deployment network, where its
// partner's mirror finds it; "" if it has none.
func (b *Bay) DeploymentAddress() string { return b.deployment }

func (b *Bay) dataDisk() string {
	if len(b.cfg.Disks) == 0 {
		return ""
	}
	return b.cfg.Disks[0].Path
}

// rig is what linked frames have in common.
type rig struct {
	cfg      Config
	runDir   string
	lock     *os.File
	networks []*Switch
	frames   []*Frame
	host     *Host
	service  string // URL of a pair's management on this machine; "" without a pair
	formed   atomic.Bool

	writing sync.Mutex // held while the state file is made

	mu         sync.Mutex
	deployment *Host
}

// Up builds the frames, switches their appliances on and returns the first
// frame when their CPUs run. Compute modules stay off. Data disks that
// Config.Dir has already are used again.
func Up(ctx context.Context, cfg Config) (*Frame, error) {
	r := &rig{}
	if err := r.build(cfg); err != nil {
		r.close()
		return nil, fmt.Errorf("frame: %w", err)
	}
	for _, f := range r.frames {
		if err := f.Appliance().PowerOn(ctx); err != nil {
			r.close()
			return nil, fmt.Errorf("frame %s: %w", f.Serial, err)
		}
	}
	if err := r.frames[0].WriteState(); err != nil {
		r.close()
		return nil, err
	}
	return r.frames[0], nil
}

func (r *rig) build(cfg Config) (err error) {
	if err := cfg.complete(); err != nil {
		return err
	}
	r.cfg = cfg
	if err := r.makeDirs(); err != nil {
		return err
	}
	for _, name := range []string{Management, IC3, IC6} {
		r.network(name)
	}
	crosslink := func(of, to int) PortConfig {
		return PortConfig{LLDP: interconnectLLDP(frameSerial(1), of, fmt.Sprintf("crosslink%d", to), "to "+interconnectBay(to))}
	}
	if err := Link(r.networks[1], r.networks[2], crosslink(3, 6), crosslink(6, 3)); err != nil {
		return err
	}
	if r.host, err = NewHost(r.networks[0], PortConfig{Name: "host", Access: nativeVLAN}, managementGW); err != nil {
		return err
	}
	for n := 1; n <= cfg.Frames; n++ {
		f := &Frame{Number: n, Serial: frameSerial(n), rig: r, link: r.network(linkName(n))}
		r.frames = append(r.frames, f)
		if err := f.startManager(); err != nil {
			return err
		}
		if err := f.populate(); err != nil {
			return err
		}
	}
	if cfg.Frames >= pairFrames {
		local, err := r.host.Forward(netip.AddrPortFrom(serviceAddress().Addr(), httpsPort))
		if err != nil {
			return err
		}
		r.service = "https://" + local
	}
	return r.linkManagers()
}

// network adds a network. The seed of its faults is its own.
func (r *rig) network(name string) *Switch {
	s := NewSwitch(name, r.cfg.Seed+uint64(len(r.networks)), r.cfg.Log)
	r.networks = append(r.networks, s)
	return s
}

// makeDirs makes the directory and takes it for this rig alone.
func (r *rig) makeDirs() error {
	const roomForNames = 32
	if err := os.MkdirAll(r.cfg.Dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(r.cfg.Dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	r.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s: a frame is up here (%w); take it down first (vframe down), or choose another directory", r.cfg.Dir, err)
	}
	r.runDir = filepath.Join(r.cfg.Dir, "run")
	if len(r.runDir)+roomForNames > 107 {
		r.runDir, err = os.MkdirTemp("", "vframe")
		return err
	}
	if err := os.RemoveAll(r.runDir); err != nil { // the sockets of a rig that was killed
		return err
	}
	return os.MkdirAll(r.runDir, 0o700)
}

func (f *Frame) populate() error {
	cfg := f.rig.cfg
	own := place{f.Number, ApplianceBay, 1}
	module := cfg.Appliance
	if own.witness(cfg.Frames) {
		module = cfg.Witness
	}
	if err := f.add(own, module); err != nil {
		return err
	}
	for n := 1; n <= cfg.Compute; n++ {
		if err := f.add(place{f.Number, ComputeBay, n}, cfg.Module); err != nil {
			return err
		}
	}
	f.manager.SetBays(f.managedBays())
	local, err := f.rig.host.Forward(netip.AddrPortFrom(own.address().Addr(), httpsPort))
	f.restURL = "https://" + local
	return err
}

func (f *Frame) add(p place, m ModuleConfig) error {
	cfg, net := f.rig.cfg, f.rig.networks
	id := Identity{Frame: f.Serial, Serial: p.serial(), UUID: p.uuid(), Location: p.location()}
	vc := VMConfig{
		Name: p.name(), Dir: cfg.Dir, RunDir: f.rig.runDir,
		MemoryMiB: m.MemoryMiB, CPUs: m.CPUs, Display: m.Display, Watchdog: m.Watchdog, ICount: m.ICount, Extra: m.Extra,
	}
	port := func(access uint16) PortConfig { return PortConfig{Name: p.name(), Access: access} }
	interconnect := func(bay int, access uint16) PortConfig {
		c := port(access)
		c.LLDP = interconnectLLDP(f.Serial, bay, p.portID(), "to "+p.location())
		return c
	}
	if p.kind == ApplianceBay {
		vc.Document, vc.Spare = f.document(p), slices.Clone(spareSlots)
		id.OEM = p.oem(cfg.Frames, cfg.VLAN)
		vc.Kernel, vc.Initramfs, vc.Cmdline = cfg.Kernel, cfg.Initramfs, cfg.Cmdline
		vc.NICs = []NIC{
			{Slot: 1, MAC: p.mac(1), Network: net[0], Port: port(nativeVLAN)},
			{Slot: 2, MAC: p.mac(2), Network: f.link, Port: port(nativeVLAN)},
			{Slot: 3, MAC: p.mac(3), Network: net[1], Port: interconnect(3, 0)},
			{Slot: 6, MAC: p.mac(6), Network: net[2], Port: interconnect(6, 0)},
		}
		disk := filepath.Join(cfg.Dir, p.name()+".data.raw")
		if _, err := os.Stat(disk); err != nil { // a new appliance: nothing known of an old one holds
			os.Remove(f.passwordFile())
			os.Remove(f.caFile())
		}
		if p.diskBytes(cfg) > 0 {
			vc.Disks = []Disk{{Path: disk, Size: p.diskBytes(cfg), Serial: p.serial(), Served: cfg.ServeDisks, Seed: cfg.Seed + uint64(p.frame)}}
		}
	} else {
		vc.Firmware = cfg.Firmware
		vc.NICs = []NIC{
			{Slot: 3, MAC: p.mac(3), Network: net[1], Port: interconnect(3, cfg.VLAN), Boot: 1},
			{Slot: 6, MAC: p.mac(6), Network: net[2], Port: interconnect(6, cfg.VLAN), Boot: 2},
		}
	}
	vc.Identity = id
	vm, err := NewVM(vc, cfg.Log)
	if err != nil {
		return err
	}
	vm.powered = func(on bool) {
		f.manager.PowerChanged(p.location(), on)
		if err := f.WriteState(); err != nil {
			cfg.Log.Warn("state", "err", err)
		}
	}
	vm.changed = func(what string) { f.manager.Changed(p.location(), what) }
	b := &Bay{VM: vm, Kind: p.kind, Witness: p.witness(cfg.Frames), Frame: f.Serial, Number: p.bay, Identity: id}
	if p.kind == ApplianceBay {
		b.address = p.address().Addr().String()
		if !b.Witness {
			b.deployment = p.deployment().Addr().String()
		}
	}
	for _, n := range vc.NICs {
		b.MACs = append(b.MACs, n.MAC.String())
	}
	f.Bays = append(f.Bays, b)
	return nil
}

// diskBytes is the size of a module's data disk. A witness has no volumes.
func (p place) diskBytes(cfg Config) int64 {
	if p.witness(cfg.Frames) {
		return min(cfg.DiskBytes, witnessDisk)
	}
	return cfg.DiskBytes
}

const witnessDisk = 4 << 30

func interconnectLLDP(frame string, bay int, port, description string) *LLDP {
	return &LLDP{System: frame + " " + interconnectBay(bay), Port: port, Description: description}
}

// Linked returns all frames of the rig, this one among them.
func (f *Frame) Linked() []*Frame { return f.rig.frames }

// Dir returns the directory with the frame's files.
func (f *Frame) Dir() string { return f.rig.cfg.Dir }

// RunDir returns the directory with the frame's sockets.
func (f *Frame) RunDir() string { return f.rig.runDir }

// Appliance returns the appliance bay.
func (f *Frame) Appliance() *Bay { return f.Bays[0] }

// Compute returns device bay n, 1 for the first, or nil.
func (f *Frame) Compute(n int) *Bay {
	for _, b := range f.Bays {
		if b.Kind == ComputeBay && b.Number == n {
			return b
		}
	}
	return nil
}

// Bay finds a bay of the linked frames by name ("compute1", "frame2-appliance1"),
// serial, or, in this frame, location ("device bay 1").
func (f *Frame) Bay(name string) (*Bay, error) {
	var names []string
	for _, g := range f.rig.frames {
		for _, b := range g.Bays {
			if name == b.Name() || name == b.Identity.Serial || g == f && name == b.Identity.Location {
				return b, nil
			}
			names = append(names, b.Name())
		}
	}
	return nil, fmt.Errorf("frame %s: no bay %q; it has %v", f.Serial, name, names)
}

// Networks returns the networks of the linked frames.
func (f *Frame) Networks() []*Switch { return f.rig.networks }

// Network finds a network by name.
func (f *Frame) Network(name string) (*Switch, error) {
	i := slices.IndexFunc(f.rig.networks, func(s *Switch) bool { return s.name == name })
	if i < 0 {
		var names []string
		for _, n := range f.rig.networks {
			names = append(names, n.name)
		}
		return nil, fmt.Errorf("frame %s: no network %q; it has %v", f.Serial, name, names)
	}
	return f.rig.networks[i], nil
}

// SetCarrier takes the carrier of a bay's port on a network away, as a cable
// that is pulled does, or gives it back.
func (f *Frame) SetCarrier(ctx context.Context, network *Switch, bay string, up bool) error {
	b, err := f.Bay(bay)
	if err != nil {
		return err
	}
	if slot, ok := b.slotOn(network); ok {
		return b.SetLink(ctx, slot, up)
	}
	return fmt.Errorf("%s has no port on network %s", bay, network.name)
}

// Heal ends all faults of the linked frames: networks, carriers, BMCs, sensors,
// disks, modules that hang. What is damaged stays damaged.
func (f *Frame) Heal(ctx context.Context) error {
	for _, n := range f.rig.networks {
		n.Heal()
	}
	var errs []error
	for _, g := range f.rig.frames {
		for _, b := range g.Bays {
			errs = append(errs, b.heal(ctx))
		}
	}
	return errors.Join(errs...)
}

// Host returns our machine on the management network, 192.0.2.1.
func (f *Frame) Host() *Host { return f.rig.host }

// DeploymentHost returns our machine on the deployment network, 198.51.100.1:
// an untagged port of ic3, made at the first call.
func (f *Frame) DeploymentHost() (*Host, error) {
	r := f.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deployment != nil {
		return r.deployment, nil
	}
	uplink := PortConfig{Name: "host", Access: r.cfg.VLAN, LLDP: interconnectLLDP(f.Serial, 3, "uplink1", "to the deployment network")}
	h, err := NewHost(r.networks[1], uplink, deploymentGW)
	if err != nil {
		return nil, err
	}
	r.deployment = h
	return h, nil
}

// Close takes the power from all linked frames and removes their sockets. The
// files in Config.Dir stay.
func (f *Frame) Close() error { return f.rig.close() }

func (r *rig) close() error {
	var wg sync.WaitGroup
	for _, f := range r.frames {
		for _, b := range f.Bays {
			wg.Go(b.Close)
		}
	}
	wg.Wait()
	for _, f := range r.frames {
		if f.manager != nil {
			f.manager.close()
		}
	}
	for _, h := range []*Host{r.host, r.deployment} {
		if h != nil {
			h.Close()
		}
	}
	var errs []error
	for _, s := range r.networks {
		errs = append(errs, s.Close())
	}
	if r.runDir != "" {
		errs = append(errs, os.RemoveAll(r.runDir))
	}
	if len(r.frames) > 0 {
		errs = append(errs, r.frames[0].WriteState()) // everything off
	}
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
	}
	return errors.Join(errs...)
}
