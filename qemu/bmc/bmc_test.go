package bmc

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ipmi "github.com/bougou/go-ipmi/pkg/types"
	"github.com/google/go-cmp/cmp"
)

// fakeMachine keeps what was done to it.
type fakeMachine struct {
	mu   sync.Mutex
	on   bool
	done []string
}

func (m *fakeMachine) do(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = append(m.done, what)
	return nil
}

func (m *fakeMachine) On() bool           { return m.on }
func (m *fakeMachine) PowerOn() error     { return m.do("on") }
func (m *fakeMachine) PowerOff() error    { return m.do("off") }
func (m *fakeMachine) PowerCycle() error  { return m.do("cycle") }
func (m *fakeMachine) Reset() error       { return m.do("reset") }
func (m *fakeMachine) PowerButton() error { return m.do("button") }
func (m *fakeMachine) Interrupt() error   { return m.do("nmi") }

func (m *fakeMachine) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.done
	m.done = nil
	return d
}

// host is a VM as QEMU is one.
type host struct {
	t       *testing.T
	conn    net.Conn
	d       *decoder
	bmc     *BMC
	machine *fakeMachine
	seq     byte
}

func newHost(t *testing.T, cfg Config) *host {
	t.Helper()
	h := &host{t: t, machine: &fakeMachine{on: true}}
	cfg.Machine = h.machine
	h.bmc = New(cfg)
	near, far := net.Pipe()
	served := make(chan error)
	go func() { served <- h.bmc.Serve(far) }()
	h.conn, h.d = near, newDecoder(near)
	t.Cleanup(func() {
		near.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		h.bmc.Close()
	})
	for range 2 { // version, interrupts on
		if _, end, err := h.d.next(); err != nil || end != commandEnd {
			t.Fatalf("greeting ends with %#x, %v", end, err)
		}
	}
	return h
}

// A BMC that hangs answers nothing and resets nothing; it comes back with its log
// and without what it was told.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Config{})
		h.must(netApp, 0x24, 0x04, 0x01, 0, 0x10, 50, 0) // reset after 5 s
		h.must(netApp, 0x22)
		h.must(netApp, 0x2e, 0x09)
		h.bmc.SetSilent(true)
		msg := []byte{99, netApp << 2, 0x01}
		if _, err := h.conn.Write(encode(append(msg, checksum(msg)), messageEnd)); err != nil {
			t.Fatal(err)
		}
		h.conn.Write(encode([]byte{cmdReset}, commandEnd)) // the CPU was reset
		time.Sleep(time.Minute)
		if did := h.machine.take(); did != nil {
			t.Errorf("the watchdog of a BMC that hangs did %v", did)
		}
		h.bmc.SetSilent(false)
		if got := h.must(netApp, 0x2f); got[0] != 0 { // no answer to the request before is in the way
			t.Errorf("enables %#x", got[0])
		}
		h.must(netApp, 0x22)
		h.bmc.SetSilent(false) // it is well: nothing happens
		time.Sleep(6 * time.Second)
		if diff := cmp.Diff([]string{"reset"}, h.machine.take()); diff != "" {
			t.Errorf("the watchdog afterwards (-want +got):\n%s", diff)
		}
	})
}

// ask sends a request and returns the completion code and data.
func (h *host) ask(netFn, cmd byte, data ...byte) (byte, []byte) {
	h.t.Helper()
	h.seq++
	msg := append([]byte{h.seq, netFn << 2, cmd}, data...)
	if _, err := h.conn.Write(encode(append(msg, checksum(msg)), messageEnd)); err != nil {
		h.t.Fatal(err)
	}
	b, end, err := h.d.next()
	if err != nil || end != messageEnd || checksum(b) != 0 || b[0] != h.seq || b[1] != (netFn|1)<<2 || b[2] != cmd {
		h.t.Fatalf("answer to %#x %#x: % x, end %#x, %v", netFn, cmd, b, end, err)
	}
	return b[3], slices.Clone(b[4 : len(b)-1])
}

func (h *host) must(netFn, cmd byte, data ...byte) []byte {
	h.t.Helper()
	code, out := h.ask(netFn, cmd, data...)
	if code != ccOK {
		h.t.Fatalf("%#x %#x: completion code %#x", netFn, cmd, code)
	}
	return out
}

func (h *host) readFRU(id byte) []byte {
	h.t.Helper()
	size := int(binary.LittleEndian.Uint16(h.must(netStorage, 0x10, id)))
	var out []byte
	for len(out) < size {
		part := h.must(netStorage, 0x11, id, byte(len(out)), byte(len(out)>>8), 20)
		out = append(out, part[1:]...)
	}
	return out
}

func TestSerialEscapesEveryByte(t *testing.T) {
	var all []byte
	for v := range 256 {
		all = append(all, byte(v))
	}
	wire := encode(all, messageEnd)
	if n := bytes.IndexByte(wire, messageEnd); n != len(wire)-1 {
		t.Errorf("the end mark is at %d of %d", n, len(wire))
	}
	got, end, err := newDecoder(bytes.NewReader(wire)).next()
	if err != nil || end != messageEnd || !bytes.Equal(got, all) {
		t.Errorf("decoded % x, end %#x, %v", got, end, err)
	}
	_, _, err = newDecoder(bytes.NewReader(make([]byte, maxMessage+1))).next()
	if err == nil || !strings.Contains(err.Error(), "out of step") {
		t.Errorf("endless message: %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte{1, 0x18, 1, 0xe6})
	b := New(Config{Machine: &fakeMachine{}, Document: func() []byte { return []byte("{}") }, Sensors: []Sensor{{Name: "T", Kind: Temperature, Step: 1, Nominal: 20}}})
	f.Cleanup(b.Close)
	f.Fuzz(func(_ *testing.T, msg []byte) {
		if r, err := parseRequest(append(msg, checksum(msg))); err == nil {
			b.handle(r)
		}
	})
}

// Somebody else's parser understands what the inventory says.
func TestInventory(t *testing.T) {
	h := newHost(t, Config{
		Chassis:  Board{Part: "Frame", Serial: "VF0001"},
		Board:    Board{Manufacturer: "Baystream", Name: "Virtual module", Serial: "VF0001A01", Part: "appliance bay 1"},
		Product:  Board{Manufacturer: "Baystream", Name: "Virtual module", Serial: "VF0001A01"},
		Document: func() []byte { return []byte(strings.Repeat(`{"frame":"VF0001"}`, 60)) },
	})
	fru, err := ipmi.ParseFRU(h.readFRU(0))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{string(fru.ChassisInfoArea.SerialNumber), string(fru.BoardInfoArea.ProductName), string(fru.BoardInfoArea.SerialNumber),
		string(fru.BoardInfoArea.PartNumber), string(fru.ProductInfoArea.Manufacturer), string(fru.ProductInfoArea.SerialNumber)}
	want := []string{"VF0001", "Virtual module", "VF0001A01", "appliance bay 1", "Baystream", "VF0001A01"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("FRU 0 (-want +got):\n%s", diff)
	}
	if got, want := string(h.readFRU(1)), strings.Repeat(`{"frame":"VF0001"}`, 60); got != want {
		t.Errorf("FRU 1 = %q", got)
	}
	if code, _ := h.ask(netStorage, 0x10, 2); code != ccNotPresent {
		t.Errorf("FRU 2: code %#x", code)
	}
	if code, _ := h.ask(netStorage, 0x11, 1, 0xff, 0xff, 1); code != ccRange {
		t.Errorf("FRU 1 beyond its end: code %#x", code)
	}
}

func TestSensors(t *testing.T) {
	h := newHost(t, Config{Document: func() []byte { return nil }, Sensors: []Sensor{
		{Name: "Inlet", Kind: Temperature, Step: 1, Nominal: 24, UpperWarning: 38, UpperCritical: 42},
		{Name: "Fan", Kind: Fan, Step: 60, Nominal: 6000, LowerWarning: 2400, LowerCritical: 1200},
	}})
	var names []string
	for id := uint16(0); id != lastRecord; {
		out := h.must(netStorage, 0x23, 0, 0, byte(id), byte(id>>8), 0, 0xff)
		next := binary.LittleEndian.Uint16(out)
		r, err := ipmi.ParseSDR(out[2:], next)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case r.Full != nil:
			names = append(names, string(r.Full.IDStringBytes))
			factors := r.Full.ReadingFactors
			raw := h.must(netSensor, 0x2d, byte(r.Full.SensorNumber))[0]
			if got, want := float64(raw)*float64(factors.M), h.bmc.Readings()[r.Full.SensorNumber-1].Value; got != want {
				t.Errorf("%s reads %v by its record, want %v", names[len(names)-1], got, want)
			}
		case r.FRUDeviceLocator != nil:
			names = append(names, string(r.FRUDeviceLocator.DeviceIDBytes))
		case r.MgmtControllerDeviceLocator != nil:
			names = append(names, string(r.MgmtControllerDeviceLocator.DeviceIDBytes))
		}
		id = next
	}
	if diff := cmp.Diff([]string{"Module BMC", "Frame document", "Inlet", "Fan"}, names); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}

	for _, c := range []struct {
		sensor string
		value  float64
		state  string
		status byte
		events int
	}{
		{"Inlet", 38, "warning", 0x08, 1},
		{"Inlet", 60, "critical", 0x18, 1},
		{"Inlet", 24, "ok", 0x00, 2},
		{"Fan", 0, "critical", 0x03, 2},
	} {
		before := len(h.bmc.Log())
		if err := h.bmc.SetSensor(c.sensor, c.value); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(h.bmc.Readings(), func(r Reading) bool { return r.Name == c.sensor })
		if got := h.bmc.Readings()[i].State; got != c.state {
			t.Errorf("%s at %v is %s, want %s", c.sensor, c.value, got, c.state)
		}
		if got := h.must(netSensor, 0x2d, byte(i+1))[2] & 0x3f; got != c.status {
			t.Errorf("%s at %v: status %#x, want %#x", c.sensor, c.value, got, c.status)
		}
		if got := len(h.bmc.Log()) - before; got != c.events {
			t.Errorf("%s at %v: %d events, want %d", c.sensor, c.value, got, c.events)
		}
	}
	if got := h.must(netSensor, 0x27, 1); !bytes.Equal(got, []byte{0x18, 0, 0, 0, 38, 42, 0}) {
		t.Errorf("thresholds % x", got)
	}
	h.must(netSensor, 0x26, 1, 0x08, 0, 0, 0, 20, 0, 0) // warn at 20 from now on
	if got := h.bmc.Readings()[0].State; got != "warning" {
		t.Errorf("below a new limit: %s", got)
	}
	if err := h.bmc.SetSensor("Outlet", 1); err == nil || !strings.Contains(err.Error(), "Inlet") {
		t.Errorf("unknown sensor: %v", err)
	}
	h.bmc.HealSensors()
}

func TestEventLog(t *testing.T) {
	h := newHost(t, Config{})
	first := h.must(netStorage, 0x44, 0, 0, 0x02, 0, 0, 0, 0, 0x41, 0, 4, 0x12, 1, 0x6f, 1, 0xff, 0xff)
	h.must(netStorage, 0x44, append([]byte{0, 0, 0xe0}, "thirteen oem."...)...)
	h.bmc.PowerChanged(true)
	info := h.must(netStorage, 0x40)
	if n := binary.LittleEndian.Uint16(info[1:]); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
	var kinds []byte
	for id := uint16(0); id != lastRecord; {
		out := h.must(netStorage, 0x43, 0, 0, byte(id), byte(id>>8), 0, 0xff)
		id = binary.LittleEndian.Uint16(out)
		kinds = append(kinds, out[4])
	}
	if want := []byte{2, 0xe0, 2}; !bytes.Equal(kinds, want) {
		t.Errorf("record types % x, want % x", kinds, want)
	}
	if binary.LittleEndian.Uint16(first) != 1 || h.bmc.Log()[0].Time.IsZero() || !h.bmc.Log()[1].Time.IsZero() {
		t.Errorf("first entry % x, log %v", first, h.bmc.Log())
	}
	if code, _ := h.ask(netStorage, 0x47, 0xaa, 0xaa, 'C', 'L', 'R', 0xaa); code != ccReservation {
		t.Errorf("clear without a reservation: %#x", code)
	}
	r := h.must(netStorage, 0x42)
	h.must(netStorage, 0x47, r[0], r[1], 'C', 'L', 'R', 0xaa)
	if n := len(h.bmc.Log()); n != 0 {
		t.Errorf("%d entries after clear", n)
	}
	if code, _ := h.ask(netStorage, 0x43, 0, 0, 0, 0, 0, 0xff); code != ccNotPresent {
		t.Errorf("entry of an empty log: %#x", code)
	}
}

func TestChassisControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Config{UUID: "00112233-4455-6677-8899-aabbccddeeff"})
		if got := h.must(netChassis, 0x01)[0] & 1; got != 1 {
			t.Error("a running module is off by its status")
		}
		for control, want := range []string{"off", "on", "cycle", "reset", "nmi", "button"} {
			h.must(netChassis, 0x02, byte(control))
			synctest.Wait()
			if diff := cmp.Diff([]string{want}, h.machine.take()); diff != "" {
				t.Errorf("control %d (-want +got):\n%s", control, diff)
			}
		}
		if got := h.must(netApp, 0x37); got[0] != 0xff || got[15] != 0 {
			t.Errorf("GUID % x", got)
		}
		if code, _ := h.ask(netApp, 0x7f); code != ccInvalidCommand {
			t.Errorf("unknown command: %#x", code)
		}
		if code, _ := h.ask(netChassis, 0x02); code != ccLength {
			t.Errorf("short request: %#x", code)
		}
	})
}

func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, Config{})
		if code, _ := h.ask(netApp, 0x22); code != ccNotInitialised {
			t.Errorf("reset before set: %#x", code)
		}
		set := func(actions, early byte) { h.must(netApp, 0x24, 0x04, actions, early, 0x10, 50, 0) } // SMS/OS, 5 s
		set(0x21, 2)
		time.Sleep(time.Hour)
		if did := h.machine.take(); did != nil {
			t.Errorf("a timer that was not started did %v", did)
		}
		for range 10 { // fed
			h.must(netApp, 0x22)
			time.Sleep(2 * time.Second)
		}
		if got := h.must(netApp, 0x25); got[0] != 0x44 || got[6] != 30 {
			t.Errorf("timer % x, want it running with 3 s left", got)
		}
		time.Sleep(1500 * time.Millisecond) // past the early interrupt
		if diff := cmp.Diff([]string{"nmi"}, h.machine.take()); diff != "" {
			t.Errorf("early (-want +got):\n%s", diff)
		}
		time.Sleep(2 * time.Second)
		if diff := cmp.Diff([]string{"reset"}, h.machine.take()); diff != "" {
			t.Errorf("at the end (-want +got):\n%s", diff)
		}
		if got := h.must(netApp, 0x25); got[0] != 0x04 || got[3] != 0x10 {
			t.Errorf("timer % x, want it stopped and expired for SMS/OS", got)
		}
		var logged [][]byte
		for _, r := range h.bmc.Log() {
			logged = append(logged, r.Raw[10:15])
		}
		if diff := cmp.Diff([][]byte{{0x23, 0x80, 0x6f, 0x88, 0x24}, {0x23, 0x80, 0x6f, 0x81, 0x24}}, logged); diff != "" {
			t.Errorf("event log (-want +got):\n%s", diff)
		}

		set(0x03, 0)
		h.must(netApp, 0x22)
		h.conn.Write(encode([]byte{cmdReset}, commandEnd)) // the CPU was reset
		time.Sleep(time.Minute)
		if did := h.machine.take(); did != nil {
			t.Errorf("after a reset of the CPU the timer did %v", did)
		}
	})
}
