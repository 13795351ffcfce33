package probe

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"baystream/netcfg/ether"
)

// rig is a fabric that carries the frames of Monitors.
type rig struct {
	mu sync.Mutex
	*fabric
	maxFrame int // payload; 0: any
	ports    []*fakeWire
	active   int
	received [2]uint64
}

// fakeWire is a port's socket on interconnect module ic.
type fakeWire struct {
	rig *rig
	ic  int
	own bool // of the module under test
	mac [6]byte
	typ uint16
	in  chan ether.Frame
}

func (w *fakeWire) Send(f ether.Frame) error {
	w.rig.deliver(w, f)
	return nil
}

func (w *fakeWire) Receive(ctx context.Context, each func(ether.Frame)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-w.in:
			each(f)
		}
	}
}

// deliver switches a frame.
func (r *rig) deliver(from *fakeWire, f ether.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silent[from.ic] || from.own && !r.out(from.ic) || r.maxFrame > 0 && len(f.Payload) > r.maxFrame {
		return
	}
	for _, to := range r.ports {
		reach := to.ic == from.ic || r.trunk && !r.silent[0] && !r.silent[1]
		meant := to.mac == f.Dst || f.Dst[0]&1 != 0
		if to == from || !reach || !meant || r.silent[to.ic] || to.own && !r.in(to.ic) {
			continue
		}
		if to.own {
			r.received[to.ic]++
		}
		if to.typ == f.Type {
			f.Payload = slices.Clone(f.Payload)
			select {
			case to.in <- f:
			default:
			}
		}
	}
}

func (r *rig) Read() (facts, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active >= 0 && !r.carrier[r.active] {
		r.active = 1 - r.active
	}
	return facts{active: r.active, mtu: 1500, carrier: r.carrier, received: r.received}, nil
}

func (r *rig) SetActive(port int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = port
	return nil
}

func (r *rig) Close() {}

func (r *rig) change(f func(*rig)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// module joins a Monitor to the rig.
func (r *rig) module(number byte, drv driver, cfg Config) *Monitor {
	for i := range 2 {
		cfg.Ports[i] = Port{[]string{"p3", "p6"}[i], net.HardwareAddr{0x52, 0x54, 0, number, 0, byte(i)}}
	}
	cfg.Bond, cfg.Log = "ic0", slog.New(slog.DiscardHandler)
	m := newMonitor(cfg, uint64(number))
	m.driver = drv
	for i := range 2 {
		wire := func(typ uint16) *fakeWire {
			w := &fakeWire{rig: r, ic: i, own: drv == driver(r), mac: m.macs[i], typ: typ, in: make(chan ether.Frame, 100)}
			r.ports = append(r.ports, w)
			return w
		}
		m.probes[i], m.arps[i] = wire(ether.Probe), wire(ether.ARP)
	}
	return m
}

// calm is the bond of the other module, which is left alone.
type calm struct{}

func (calm) Read() (facts, error) {
	return facts{active: 0, mtu: 1500, carrier: [2]bool{true, true}}, nil
}
func (calm) SetActive(int) error { return nil }
func (calm) Close()              {}

// start runs monitors until the test ends.
func start(t *testing.T, ms ...*Monitor) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, m := range ms {
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestMonitorLeavesSilentPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{fabric: newFabric(1)}
		changed := make(chan string, 10)
		m := r.module(1, r, Config{Preferred: 0, Changed: func(name string) { changed <- name }})
		start(t, m, r.module(2, calm{}, Config{Preferred: 0}))
		time.Sleep(10 * time.Second)
		if s := m.Snapshot(); s.Changes != 0 || s.Active != "p3" || s.Ports[0].Verdict != Works || s.Ports[1].Verdict != Works || s.MTU != 1500 {
			t.Fatalf("snapshot = %+v", s)
		}
		r.change(func(r *rig) { r.silent[0] = true })
		began := time.Now()
		if name, gap := <-changed, time.Since(began); name != "p6" || gap > time.Second {
			t.Errorf("changed to %s after %v", name, gap)
		}
		if s := m.Snapshot(); s.Ports[0].Verdict != Silent || s.Changes != 1 || s.Reason == "" {
			t.Errorf("snapshot = %+v", s)
		}
		time.Sleep(time.Minute)
		r.change(func(r *rig) { r.silent[0] = false })
		began = time.Now()
		if name, after := <-changed, time.Since(began); name != "p3" || after < 5*time.Second || after > 7*time.Second {
			t.Errorf("back to %s after %v", name, after)
		}
	})
}

func TestMonitorAsksKnownNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{fabric: newFabric(1)}
		neighbour1 := netip.MustParseAddr("198.51.100.9")
		m := r.module(1, r, Config{Preferred: 0, VLAN: 5, Neighbours: func() []netip.Addr { return []netip.Addr{neighbour1} }})
		server := &fakeWire{rig: r, ic: 1, mac: [6]byte{2, 9}, typ: ether.ARP, in: make(chan ether.Frame, 10)}
		r.ports = append(r.ports, server)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go server.Receive(ctx, func(f ether.Frame) {
			if f.VLAN != 5 || [4]byte(f.Payload[24:28]) != neighbour1.As4() || [4]byte(f.Payload[14:18]) != [4]byte{} {
				t.Errorf("unexpected question %+v", f)
			}
			back := slices.Clone(f.Payload[:28])
			back[7] = 2
			copy(back[8:14], server.mac[:])
			copy(back[14:18], f.Payload[24:28])
			copy(back[18:24], f.Payload[8:14])
			server.Send(ether.Frame{Dst: f.Src, Src: server.mac, Type: ether.ARP, Payload: back})
		})
		start(t, m)
		time.Sleep(time.Second)
		r.change(func(r *rig) { r.silent[0] = true })
		time.Sleep(time.Second)
		if s := m.Snapshot(); s.Active != "p6" || s.Ports[1].Verdict != Works {
			t.Errorf("snapshot = %+v", s)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.friend != (neighbour{neighbour1, server.mac}) {
			t.Errorf("answered last: %+v", m.friend)
		}
	})
}

func TestMonitorFindsSmallMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{fabric: newFabric(1), maxFrame: 1400}
		m := r.module(1, r, Config{Preferred: 0})
		start(t, m)
		time.Sleep(time.Minute)
		if s := m.Snapshot(); !s.Ports[0].TooLong || !s.Ports[1].TooLong || s.Changes != 0 {
			t.Errorf("small: snapshot = %+v", s)
		}
		r.change(func(r *rig) { r.maxFrame = 1500 })
		time.Sleep(time.Minute)
		if s := m.Snapshot(); s.Ports[0].TooLong || s.Ports[1].TooLong {
			t.Errorf("large enough: snapshot = %+v", s)
		}
	})
}

func TestParseMessageRefuses(t *testing.T) {
	good := message{kind: answer, port: 1, id: 7, seq: 9}.marshal(0)
	if m, err := parseMessage(good); err != nil || m != (message{kind: answer, port: 1, id: 7, seq: 9}) {
		t.Errorf("parseMessage = %+v, %v", m, err)
	}
	for i, v := range map[int]byte{0: 'X', 4: 9, 5: 2} {
		bad := slices.Clone(good)
		bad[i] = v
		if _, err := parseMessage(bad); err == nil {
			t.Errorf("byte %d = %d is taken", i, v)
		}
	}
	if _, err := parseMessage(good[:messageLen-1]); err == nil {
		t.Error("a short message is taken")
	}
}
