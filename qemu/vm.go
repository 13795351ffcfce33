package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"baystream/qemu/block"
	"baystream/qemu/bmc"
)

// A VMConfig describes one module.
type VMConfig struct {
	Name string // names its files and ports: "appliance1"
	// Dir keeps what stays: disks, firmware variables, console logs.
	Dir string
	// RunDir has the sockets. Its path must be short: the kernel allows 107
	// bytes for a socket's (unix(7)).
	RunDir string

	MemoryMiB int // 512 if 0
	CPUs      int // 1 if 0

	// Kernel, an uncompressed vmlinux or a bzImage, is booted directly; without
	// one the firmware looks for something to boot.
	Kernel    string
	Initramfs string
	Cmdline   string
	Firmware  Firmware

	Identity Identity
	Document func() []byte // FRU device 1 of the module's BMC; nil: none
	NICs     []NIC
	Disks    []Disk
	Spare    []int // empty PCIe slots, for PlugDisk and PlugNIC

	Display  bool // a VGA card, for Screendump
	Watchdog bool // an i6300esb watchdog that resets the VM
	// ICount runs the VM on virtual time: 4 ns for each instruction, the same
	// in every run. One CPU, no KVM.
	ICount bool
	Extra  []string // more arguments for QEMU
}

// A Firmware is what a module without a direct boot starts with.
type Firmware string

// Firmwares. Both have a serial console, and iPXE in the NICs.
const (
	UEFI Firmware = "uefi" // OVMF with variables of its own
	BIOS Firmware = "bios" // SeaBIOS
)

// Identity is what a module's SMBIOS tables say.
type Identity struct {
	Frame    string // chassis serial, type 3
	Serial   string // type 1
	UUID     string // type 1
	Location string // type 2, "appliance bay 1"
	OEM      []string
}

// A NIC is a virtio network card in a PCIe slot, joined to a port of a network.
type NIC struct {
	Slot    int
	MAC     net.HardwareAddr
	Network *Switch
	Port    PortConfig
	Boot    int // order for the firmware, 0: not bootable, no ROM
}

func (n NIC) id() string       { return fmt.Sprintf("nic%d", n.Slot) }
func (n NIC) netdevID() string { return fmt.Sprintf("net%d", n.Slot) }

// A Disk is a raw image file, created sparse where there is none.
type Disk struct {
	Path   string
	Size   int64 // bytes
	Serial string
	// Served puts a drive of ours (see package block) between QEMU and the
	// file: one with a volatile cache, which can fail.
	Served bool
	Seed   uint64 // of the drive's faults
	Slot   int    // PCIe slot, where it can be unplugged; 0: inside
}

// A VM is a module's computer: off, or a QEMU process.
type VM struct {
	cfg      VMConfig
	log      *slog.Logger
	consoles [2]*Console
	lines    [2]*net.UnixListener // QEMU connects here
	qmpLine  *net.UnixListener
	closers  []func() error
	logs     []*os.File // of the consoles
	wg       sync.WaitGroup
	ports    []*Port
	bmc      *bmc.BMC
	drives   drives
	life     context.Context // ends with Close
	end      context.CancelFunc

	powered func(on bool)     // called after each change of power; may be nil
	changed func(what string) // called after something was plugged or unplugged; may be nil

	power sync.Mutex // held while power changes

	mu       sync.Mutex
	qmp      *QMP
	exited   chan struct{} // closed when the process is gone; nil: never started
	cmd      *exec.Cmd
	bootMark int64
	// noCarrier are the slots whose cable is out.
	noCarrier map[int]bool
	leaving   map[string]chan struct{} // devices that are being unplugged
	wiring    map[int]NIC              // the first cards of slots whose card was replaced
}

// NewVM prepares a module: its files, its ports, its consoles. It is off.
func NewVM(cfg VMConfig, log *slog.Logger) (vm *VM, err error) {
	if cfg.MemoryMiB == 0 {
		cfg.MemoryMiB = 512
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = 1
	}
	v := &VM{cfg: cfg, log: log.With("bay", cfg.Name), noCarrier: map[int]bool{}, leaving: map[string]chan struct{}{}}
	v.life, v.end = context.WithCancel(context.Background())
	v.bmc = bmc.New(bmc.Config{
		UUID:     cfg.Identity.UUID,
		Chassis:  bmc.Board{Part: "Virtual frame", Serial: cfg.Identity.Frame},
		Board:    bmc.Board{Manufacturer: manufacturer, Name: productName, Serial: cfg.Identity.Serial, Part: cfg.Identity.Location},
		Product:  bmc.Board{Manufacturer: manufacturer, Name: productName, Serial: cfg.Identity.Serial},
		Document: cfg.Document, Sensors: sensors(), Machine: module{v}, Log: v.log,
	})
	for i := range v.consoles {
		v.consoles[i] = newConsole(io.Discard)
	}
	defer func() {
		if err != nil {
			v.Close()
			err = fmt.Errorf("vm %s: %w", cfg.Name, err)
		}
	}()
	if err := v.prepareFiles(); err != nil {
		return nil, err
	}
	for i := range v.lines {
		file, err := os.OpenFile(v.logFile(i), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		v.logs = append(v.logs, file)
		v.consoles[i].log = file
		if v.lines[i], err = v.listen(fmt.Sprintf("line%d", i)); err != nil {
			return nil, err
		}
		viewers, err := v.listen(fmt.Sprintf("console%d", i))
		if err != nil {
			return nil, err
		}
		v.wg.Go(func() { v.serveViewers(viewers, v.consoles[i]) })
	}
	if v.qmpLine, err = v.listen("qmpline"); err != nil {
		return nil, err
	}
	management, err := v.listen("bmc")
	if err != nil {
		return nil, err
	}
	v.wg.Go(func() { v.serveBMC(management) })
	for i, d := range cfg.Disks {
		if err := v.serveDisk(d.id(i), d); err != nil {
			return nil, err
		}
	}
	for _, n := range cfg.NICs {
		p, err := n.Network.Listen(v.socket(n.id()), n.Port)
		if err != nil {
			return nil, err
		}
		v.ports = append(v.ports, p)
	}
	return v, nil
}

func (v *VM) prepareFiles() error {
	for _, d := range v.cfg.Disks {
		if err := d.create(); err != nil {
			return err
		}
	}
	if v.cfg.Kernel != "" || v.cfg.Firmware != UEFI {
		return nil
	}
	if _, err := os.Stat(v.varsFile()); err == nil {
		return nil
	}
	vars, err := os.ReadFile(ovmfVars)
	if err != nil {
		return fmt.Errorf("%w; install the package ovmf", err)
	}
	return os.WriteFile(v.varsFile(), vars, 0o600)
}

func (v *VM) socket(name string) string { return filepath.Join(v.cfg.RunDir, v.cfg.Name+"."+name) }
func (v *VM) varsFile() string          { return filepath.Join(v.cfg.Dir, v.cfg.Name+".vars.fd") }
func (v *VM) stderrFile() string        { return filepath.Join(v.cfg.Dir, v.cfg.Name+".qemu.log") }

func (v *VM) listen(name string) (*net.UnixListener, error) {
	os.Remove(v.socket(name)) // of a rig that was killed
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: v.socket(name), Net: "unix"})
	if err != nil {
		return nil, err
	}
	v.closers = append(v.closers, l.Close)
	return l, nil
}

func (v *VM) serveViewers(l net.Listener, c *Console) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		v.wg.Go(func() { c.attach(conn) })
	}
}

// Name returns the name in the configuration.
func (v *VM) Name() string { return v.cfg.Name }

// Console returns the first serial line (ttyS0).
func (v *VM) Console() *Console { return v.consoles[0] }

// Diagnostics returns the second serial line (ttyS1).
func (v *VM) Diagnostics() *Console { return v.consoles[1] }

// ConsoleLog names the file with all that the first serial line ever said.
func (v *VM) ConsoleLog() string { return v.logFile(0) }

func (v *VM) logFile(line int) string {
	return filepath.Join(v.cfg.Dir, fmt.Sprintf("%s.ttyS%d.log", v.cfg.Name, line))
}

// ConsoleSocket names a unix socket that shows the first serial line and takes
// keys, for any number of viewers.
func (v *VM) ConsoleSocket() string { return v.socket("console0") }

// OperatorSocket names a unix socket like ConsoleSocket for the second serial
// line, where an appliance's operator logs in.
func (v *VM) OperatorSocket() string { return v.socket("console1") }

// QMPSocket names a unix socket where the VM, while it is on, speaks QMP to one
// outside client at a time.
func (v *VM) QMPSocket() string { return v.socket("qmp") }

// On tells whether the module has power.
func (v *VM) On() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.on()
}

func (v *VM) on() bool {
	if v.exited == nil {
		return false
	}
	select {
	case <-v.exited:
		return false
	default:
		return true
	}
}

// PowerOn starts the module and returns when its CPU runs. It does nothing if
// the module is on.
func (v *VM) PowerOn(ctx context.Context) error {
	v.power.Lock()
	defer v.power.Unlock()
	if v.On() {
		return nil
	}
	if err := v.start(ctx); err != nil {
		return fmt.Errorf("vm %s: power on: %w", v.cfg.Name, err)
	}
	v.log.Info("power on")
	v.tellPower(true)
	return nil
}

func (v *VM) start(ctx context.Context) error {
	os.Remove(v.QMPSocket())
	stderr, err := os.Create(v.stderrFile())
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd := exec.Command(Binary, v.arguments(false)...)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	v.mu.Lock()
	v.bootMark = v.consoles[0].Mark()
	v.mu.Unlock()
	if err := forker().start(cmd); err != nil {
		return fmt.Errorf("%w; install the package qemu-system-x86", err)
	}
	gone := make(chan struct{}) // the process
	go func() {
		cmd.Wait()
		close(gone)
	}()
	for _, c := range v.consoles {
		c.setPower(true)
	}
	var lines sync.WaitGroup
	exited := make(chan struct{}) // the process, and all its words are read
	v.mu.Lock()
	v.cmd, v.exited = cmd, exited
	v.mu.Unlock()
	err = v.connect(ctx, gone, &lines)
	if err != nil {
		cmd.Process.Kill()
	}
	v.wg.Go(func() {
		<-gone
		lines.Wait()
		v.cutDrives()
		for _, c := range v.consoles {
			c.setPower(false)
		}
		v.tellEnd(cmd.ProcessState)
		close(exited)
		v.tellPower(false)
	})
	if err != nil {
		<-exited
		return err
	}
	return nil
}

// tellEnd logs how QEMU ended: that the module is off, or that QEMU crashed, which
// looks like a module that is silent.
func (v *VM) tellEnd(state *os.ProcessState) {
	st, ok := state.Sys().(syscall.WaitStatus)
	if ok && (st.Exited() && st.ExitStatus() == 0 || st.Signaled() && st.Signal() == syscall.SIGKILL) {
		v.log.Info("power off", "status", state.String())
		return
	}
	said, _ := os.ReadFile(v.stderrFile())
	v.log.Error("QEMU crashed: the module is off", "status", state.String(), "said", string(bytes.TrimSpace(said)))
}

func (v *VM) tellPower(on bool) {
	v.bmc.PowerChanged(on)
	if v.powered != nil {
		v.powered(on)
	}
}

// connect takes the connections that QEMU makes at its start.
func (v *VM) connect(ctx context.Context, gone <-chan struct{}, lines *sync.WaitGroup) error {
	for i, l := range v.lines {
		conn, err := v.accept(ctx, l, gone)
		if err != nil {
			return err
		}
		lines.Go(func() { v.consoles[i].serve(conn) })
	}
	conn, err := v.accept(ctx, v.qmpLine, gone)
	if err != nil {
		return err
	}
	q, err := NewQMP(ctx, conn, v.event)
	if err != nil {
		return v.explain(err)
	}
	v.mu.Lock()
	v.qmp = q
	v.mu.Unlock()
	return v.restoreCarriers(ctx)
}

// accept waits for QEMU to connect, or to die.
func (v *VM) accept(ctx context.Context, l *net.UnixListener, gone <-chan struct{}) (net.Conn, error) {
	l.SetDeadline(time.Time{})
	accepted := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-accepted:
		case <-gone:
			l.SetDeadline(time.Unix(1, 0))
		case <-ctx.Done():
			l.SetDeadline(time.Unix(1, 0))
		}
	})
	conn, err := l.Accept()
	close(accepted)
	watch.Wait()
	if err != nil {
		return nil, v.explain(errors.Join(err, ctx.Err()))
	}
	return conn, nil
}

// explain adds what QEMU said and how to run it by hand.
func (v *VM) explain(err error) error {
	said, _ := os.ReadFile(v.stderrFile())
	return fmt.Errorf("%w; QEMU said: %s\nto try by hand: %s", err, bytes.TrimSpace(said), v.CommandLine())
}

// PowerOff takes the power away at once and returns when the module is off.
func (v *VM) PowerOff() {
	v.power.Lock()
	defer v.power.Unlock()
	v.mu.Lock()
	on, cmd, exited := v.on(), v.cmd, v.exited
	v.mu.Unlock()
	if !on {
		return
	}
	cmd.Process.Kill() // an error means that it is gone already
	<-exited
}

// WaitOff waits until the module is off: its OS has shut down, or it crashed.
func (v *VM) WaitOff(ctx context.Context) error {
	v.mu.Lock()
	exited := v.exited
	v.mu.Unlock()
	if exited == nil {
		return nil
	}
	select {
	case <-exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("vm %s: wait for power off: %w; the console's last lines:\n%s", v.cfg.Name, ctx.Err(), v.consoles[0].Tail(25))
	}
}

// SetInitramfs gives a module that is off another initramfs to start with.
func (v *VM) SetInitramfs(path string) {
	v.power.Lock()
	defer v.power.Unlock()
	v.cfg.Initramfs = path
}

// Do executes a QMP command, see QMP.Do.
func (v *VM) Do(ctx context.Context, command string, args map[string]any, out any) error {
	v.mu.Lock()
	q, on := v.qmp, v.on()
	v.mu.Unlock()
	if !on || q == nil {
		return fmt.Errorf("vm %s: %s: %w; power it on first", v.cfg.Name, command, ErrOff)
	}
	if err := q.Do(ctx, command, args, out); err != nil {
		return fmt.Errorf("vm %s: %w", v.cfg.Name, err)
	}
	return nil
}

// Events gives the QMP events of the running VM; the channel is nil if it never ran.
func (v *VM) Events() <-chan Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.qmp == nil {
		return nil
	}
	return v.qmp.Events()
}

// Reset restarts the CPU, as a reset button does. WaitConsole looks at the
// text after this moment only.
func (v *VM) Reset(ctx context.Context) error {
	v.mu.Lock()
	v.bootMark = v.consoles[0].Mark()
	v.mu.Unlock()
	// QEMU waits for requests on their way before it resets, for ever if a
	// drive stalls; a controller gives them up.
	v.drives.each(func(_ string, d *block.Drive) { d.Abort(true) })
	defer v.drives.each(func(_ string, d *block.Drive) { d.Abort(false) })
	if err := v.Do(ctx, "system_reset", nil, nil); err != nil {
		return err
	}
	return v.Resume(ctx) // a CPU that hung begins anew
}

// PowerButton presses the power button: the OS is asked to shut down.
func (v *VM) PowerButton(ctx context.Context) error { return v.Do(ctx, "system_powerdown", nil, nil) }

// Pause stops the CPU, Resume goes on: a module that hangs.
func (v *VM) Pause(ctx context.Context) error { return v.Do(ctx, "stop", nil, nil) }

// Resume ends a Pause.
func (v *VM) Resume(ctx context.Context) error { return v.Do(ctx, "cont", nil, nil) }

// SetLink takes the carrier of the NIC in a slot away, or gives it back. A bay
// without power finds it so when it is switched on.
func (v *VM) SetLink(ctx context.Context, slot int, up bool) error {
	p, err := v.Port(slot)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.noCarrier[slot] = !up
	on := v.on()
	v.mu.Unlock()
	if !on {
		return nil
	}
	err = v.setCarrier(ctx, slot, up)
	if up {
		p.announce()
	}
	return err
}

func (v *VM) setCarrier(ctx context.Context, slot int, up bool) error {
	return v.Do(ctx, "set_link", map[string]any{"name": NIC{Slot: slot}.id(), "up": up}, nil)
}

// restoreCarriers takes away what SetLink took away of a VM that is new.
func (v *VM) restoreCarriers(ctx context.Context) error {
	v.mu.Lock()
	lost := maps.Clone(v.noCarrier)
	v.mu.Unlock()
	for slot, down := range lost {
		if down {
			if err := v.setCarrier(ctx, slot, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// heal ends what was done to the module.
func (v *VM) heal(ctx context.Context) error {
	v.SetBMC(true)
	v.bmc.HealSensors()
	v.drives.each(func(_ string, d *block.Drive) { d.Heal() })
	v.mu.Lock()
	lost := maps.Clone(v.noCarrier)
	v.mu.Unlock()
	var errs []error
	for slot, down := range lost {
		if down {
			errs = append(errs, v.SetLink(ctx, slot, true))
		}
	}
	if v.On() {
		errs = append(errs, v.Resume(ctx))
	}
	return errors.Join(errs...)
}

// Screendump writes a PNG of the VGA screen. The module needs a Display.
func (v *VM) Screendump(ctx context.Context, path string) error {
	if !v.cfg.Display {
		return fmt.Errorf("vm %s: screendump: the module has no display; configure one", v.cfg.Name)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return v.Do(ctx, "screendump", map[string]any{"filename": path, "format": "png"}, nil)
}

// WaitConsole waits until the first serial line has said something that
// matches since the last PowerOn or Reset. See Console.WaitFrom.
func (v *VM) WaitConsole(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	v.mu.Lock()
	mark := v.bootMark
	v.mu.Unlock()
	m, err := v.consoles[0].WaitFrom(ctx, mark, re)
	if err != nil {
		return nil, fmt.Errorf("vm %s: %w", v.cfg.Name, err)
	}
	return m, nil
}

// Port returns the network port of the NIC in a slot.
func (v *VM) Port(slot int) (*Port, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, n := range v.cfg.NICs {
		if n.Slot == slot {
			return v.ports[i], nil
		}
	}
	return nil, fmt.Errorf("vm %s: no NIC in slot %d", v.cfg.Name, slot)
}

// slotOn returns the slot of the NIC on a network.
func (v *VM) slotOn(network *Switch) (slot int, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.cfg.NICs {
		if n.Network == network {
			return n.Slot, true
		}
	}
	return 0, false
}

// CommandLine returns a shell command that runs the same machine by itself:
// the console on the terminal, nothing behind the NICs.
func (v *VM) CommandLine() string {
	words := []string{Binary}
	for _, a := range v.arguments(true) {
		if strings.ContainsAny(a, " '\"$&;|<>*?()\\") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// Close takes the power away and removes ports and sockets; files stay.
func (v *VM) Close() {
	v.end()
	v.bmc.Close()
	v.PowerOff()
	for _, p := range v.ports {
		p.Close()
	}
	for _, c := range v.closers {
		c() // a listener that is closed twice is no harm
	}
	for _, c := range v.consoles {
		c.close()
	}
	v.wg.Wait()
	v.drives.each(func(_ string, d *block.Drive) { d.Close() })
	for _, f := range v.logs {
		f.Close() // a second Close is no harm
	}
}
