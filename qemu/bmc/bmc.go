package bmc

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// A Machine is the module that a BMC manages. The methods may take a while;
// each is called on a goroutine of its own.
type Machine interface {
	On() bool
	PowerOn() error
	PowerOff() error
	PowerCycle() error
	Reset() error
	// PowerButton asks the module's software to shut down.
	PowerButton() error
	// Interrupt raises a non-maskable interrupt.
	Interrupt() error
}

// Config says what a BMC is of.
type Config struct {
	UUID    string // of the module, for Get System GUID; may be ""
	Chassis Board
	Board   Board
	Product Board
	// Document returns the contents of FRU device 1; nil: there is none.
	Document func() []byte
	Sensors  []Sensor
	Machine  Machine
	Log      *slog.Logger
}

// A BMC is one module's management controller.
type BMC struct {
	cfg  Config
	guid [16]byte

	mu       sync.Mutex
	frus     map[byte][]byte // as last opened by its area info
	sensors  []sensorState
	sdrs     [][]byte
	sel      eventLog
	watchdog watchdog
	clock    time.Duration // what Set SEL Time added to the host's clock
	enables  byte          // BMC global enables
	send     func([]byte)  // to the connected VM; nil: none
	reserved uint16        // reservation id of the SDR repository
	silent   bool          // it hears and does not answer
	closed   bool
	jobs     sync.WaitGroup
}

// New returns a BMC with an empty event log.
func New(cfg Config) *BMC {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &BMC{cfg: cfg, frus: map[byte][]byte{}}
	if raw, err := hex.DecodeString(strings.ReplaceAll(cfg.UUID, "-", "")); err == nil && len(raw) == 16 {
		for i, v := range raw { // IPMI 2.0 section 20.8: least significant byte first
			b.guid[15-i] = v
		}
	}
	for i, s := range cfg.Sensors {
		b.sensors = append(b.sensors, sensorState{Sensor: s, number: byte(i + 1), value: s.Nominal})
	}
	b.sdrs = b.repository()
	b.watchdog.bmc = b
	return b
}

// Serve answers a VM until its connection ends, which is no error.
func (b *BMC) Serve(conn io.ReadWriteCloser) error {
	defer conn.Close()
	var writing sync.Mutex
	send := func(p []byte) {
		writing.Lock()
		defer writing.Unlock()
		conn.Write(p) // an error means that the VM is gone: the reader notices
	}
	b.mu.Lock()
	b.send = send
	b.mu.Unlock()
	b.hostReset() // the VM is new
	send(encode([]byte{cmdVersion, protocolVersion}, commandEnd))
	send(encode([]byte{cmdEnableIRQ}, commandEnd))
	d := newDecoder(conn)
	for {
		msg, end, err := d.next()
		if err != nil {
			return ignoreEnd(err)
		}
		if end == commandEnd {
			if len(msg) > 0 && msg[0] == cmdReset {
				b.hostReset()
			}
			continue
		}
		r, err := parseRequest(msg)
		if err != nil {
			b.cfg.Log.Warn("bmc: request dropped", "err", err)
			continue
		}
		if b.deaf() {
			continue
		}
		code, data := b.handle(r)
		send(r.response(code, data))
	}
}

func ignoreEnd(err error) error {
	if strings.HasPrefix(err.Error(), "message longer") {
		return fmt.Errorf("bmc: %w", err)
	}
	return nil
}

// Document returns the contents of FRU device 1 as the module would read them now.
func (b *BMC) Document() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg.Document == nil {
		return nil
	}
	return b.cfg.Document()
}

// SetDocument gives FRU device 1 other contents, for whoever reads it next.
func (b *BMC) SetDocument(doc []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cfg.Document = func() []byte { return doc }
}

// SetSilent makes the BMC hang: it answers nothing and its watchdog does nothing,
// until it comes back as after a reset of its own. Its line stays up: QEMU 7.2
// aborts when a VM whose BMC is not connected is reset and then speaks to it
// (hw/ipmi/ipmi_bmc_extern.c, "Got command when not finished").
func (b *BMC) SetSilent(silent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.silent != silent {
		b.silent, b.enables = silent, 0
		b.watchdog.stop()
	}
}

func (b *BMC) deaf() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.silent
}

// Close stops the watchdog and waits for what the BMC does to its module.
func (b *BMC) Close() {
	b.mu.Lock()
	b.closed = true
	b.watchdog.stop()
	b.mu.Unlock()
	b.jobs.Wait()
}

// act does something to the module, and says when that fails.
func (b *BMC) act(what string, do func() error) { // under mu
	if b.closed {
		return
	}
	b.cfg.Log.Info("bmc: acts", "action", what)
	b.jobs.Go(func() {
		if err := do(); err != nil {
			b.cfg.Log.Warn("bmc: action failed", "action", what, "err", err)
		}
	})
}

// hostReset is what a reset of the CPU means to a BMC: the watchdog stops.
func (b *BMC) hostReset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchdog.stop()
	b.enables = 0
}

// now is the time of the event log's clock.
func (b *BMC) now() uint32 { return uint32(time.Now().Add(b.clock).Unix()) }
