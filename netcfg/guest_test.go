package netcfg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"baystream/internal/vmtest"
	"baystream/netcfg/lacp"
	"baystream/netcfg/probe"
)

// A fabric is a module with a real bond, two interconnect modules, and a
// server, each in a namespace of its own; the test's thread is the module.
type fabric struct {
	t                     *testing.T
	module, world, server netns.NsHandle
	reply                 *net.UDPConn // of the server
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// in runs f in another namespace.
func (f *fabric) in(ns netns.NsHandle, do func()) {
	f.t.Helper()
	must(f.t, netns.Set(ns))
	do()
	must(f.t, netns.Set(f.module))
}

func setUp(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		must(t, netlink.LinkSetUp(mustLink(t, n)))
	}
}

// newFabric joins p3 and p6 of the module to f3 and f6 of the world.
func newFabric(t *testing.T) *fabric {
	t.Helper()
	vmtest.SkipUnlessGuest(t)
	f := &fabric{t: t}
	for _, ns := range []*netns.NsHandle{&f.server, &f.world, &f.module} {
		inNetNS(t)
		h, err := netns.Get()
		must(t, err)
		*ns = h
		t.Cleanup(func() { h.Close() })
	}
	for a, b := range map[string]string{"p3": "f3", "p6": "f6"} {
		addPair(t, a, b)
		must(t, netlink.LinkSetNsFd(mustLink(t, b), int(f.world)))
	}
	f.in(f.world, func() { setUp(t, "f3", "f6") })
	return f
}

const serverAddr, moduleAddr = "198.51.100.9", "198.51.100.2"

// interconnects makes a bridge behind each port, the link between the two, and
// the server on the second, on VLAN 5.
func (f *fabric) interconnects() {
	f.in(f.world, func() {
		for _, b := range []string{"ic3", "ic6"} {
			must(f.t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b}}))
		}
		addPair(f.t, "t3", "t6")
		addPair(f.t, "s", "far")
		for port, bridge := range map[string]string{"f3": "ic3", "f6": "ic6", "t3": "ic3", "t6": "ic6", "s": "ic6"} {
			must(f.t, netlink.LinkSetMaster(mustLink(f.t, port), mustLink(f.t, bridge)))
		}
		setUp(f.t, "t3", "t6", "s", "ic3", "ic6")
		must(f.t, netlink.LinkSetNsFd(mustLink(f.t, "far"), int(f.server)))
	})
	f.in(f.server, func() {
		syncTwice(f.t, wants(phys("far"), Link{Name: "far.5", Kind: VLAN, Parent: "far", ID: 5, Addrs: pfx(serverAddr + "/24")}))
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 7})
		must(f.t, err)
		f.reply = c
		f.t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				n, from, err := c.ReadFromUDP(b)
				if err != nil {
					return
				}
				c.WriteToUDP(b[:n], from)
			}
		}()
	})
}

// config is the module's network.
func (f *fabric) config(lacp bool) Config {
	d, err := ParseDeployment("vlan:5,address:" + moduleAddr + "/24")
	must(f.t, err)
	return Module{InterconnectPorts: []NIC{{Name: "p3"}, {Name: "p6"}}, Deployment: d, LACP: lacp}.Config()
}

// stream asks the server every few milliseconds and notes when it answered.
type stream struct {
	conn *net.UDPConn
	mu   sync.Mutex
	last time.Time
	gap  time.Duration // the longest since reset
}

func (f *fabric) stream() *stream {
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(serverAddr), Port: 7})
	must(f.t, err)
	s := &stream{conn: c, last: time.Now()}
	f.t.Cleanup(func() { c.Close() })
	go func() {
		for {
			if _, err := c.Write([]byte("?")); errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	go func() {
		b := make([]byte, 100)
		for {
			if _, err := c.Read(b); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				s.answered()
			}
		}
	}()
	return s
}

func (s *stream) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap = max(s.gap, time.Since(s.last))
	s.last = time.Now()
}

func (s *stream) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap, s.last = 0, time.Now()
}

// longest waits until answers have come for a while, limit at the most, and
// returns the longest gap.
func (s *stream) longest(limit time.Duration) time.Duration {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.gap, time.Since(s.last))
}

const watched = 5 * time.Second // a gap that lasts longer counts so much

// TestGuestFailover breaks the interconnect module in use in two ways, with
// and without probes, and measures for how long the traffic stops.
func TestGuestFailover(t *testing.T) {
	for _, tt := range []struct {
		fault, by string
		probes    bool
		limit     time.Duration // 0: does not recover
	}{
		{"carrier", "miimon", false, time.Second},
		{"silent", "miimon", false, 0},
		{"carrier", "probes", true, time.Second},
		{"silent", "probes", true, time.Second},
	} {
		t.Run(tt.fault+" "+tt.by, func(t *testing.T) {
			f := newFabric(t)
			f.interconnects()
			syncTwice(t, f.config(false))
			if tt.probes {
				f.probe()
			}
			s := f.stream()
			s.longest(3 * time.Second)
			s.reset()
			if usual := s.longest(time.Second); usual > 500*time.Millisecond {
				t.Fatalf("before the fault, the server is silent for %v", usual)
			}
			s.reset()
			f.in(f.world, func() {
				if tt.fault == "carrier" {
					must(t, netlink.LinkSetDown(mustLink(t, "f3")))
				} else {
					must(t, netlink.LinkSetDown(mustLink(t, "ic3")))
				}
			})
			gap := s.longest(watched)
			fmt.Printf("bench failover-%s-%s %.0f\n", tt.fault, tt.by, gap.Seconds()*1000)
			switch recovered := gap < watched; {
			case tt.limit == 0 && recovered:
				t.Errorf("recovered after %v, without anybody to notice: the test does not break what it means to", gap)
			case tt.limit > 0 && gap > tt.limit && os.Getenv("BAYSTREAM_BENCH") == "":
				t.Errorf("traffic stopped for %v, want %v at the most", gap, tt.limit)
			}
			if l := observe(t, InterconnectBond); tt.limit > 0 && l.Active != "p6" {
				t.Errorf("active port is %q", l.Active)
			}
		})
	}
}

// probe runs the bond's Monitor until the test ends.
func (f *fabric) probe() {
	port := func(name string) probe.Port {
		l := observe(f.t, name)
		mac := l.PermMAC
		if len(mac) == 0 {
			mac = l.MAC
		}
		return probe.Port{Name: name, MAC: mac}
	}
	cfg := probe.Config{
		Bond: InterconnectBond, Ports: [2]probe.Port{port("p3"), port("p6")}, Preferred: 0, VLAN: 5, Log: slog.New(slog.DiscardHandler),
		Neighbours: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(serverAddr)} },
	}
	cfg.Ports[1].MAC = net.HardwareAddr{2, 0, 0, 0, 0, 6} // veths have no burnt-in address: a slave shows that of the bond
	m, err := probe.Open(cfg)
	must(f.t, err)
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		must(f.t, <-done)
	})
}

// TestGuestLACP has a partner that aggregates both ports: it is heard while the
// bond is active-backup, and speaks with the bond when that has changed.
func TestGuestLACP(t *testing.T) {
	f := newFabric(t)
	f.in(f.world, func() {
		syncTwice(t, wants(phys("f3"), phys("f6"), Link{Name: "po1", Kind: Bond, Slaves: []string{"f3", "f6"}, LACP: true, Addrs: pfx("203.0.113.1/24")}))
	})
	syncTwice(t, f.config(false))
	var ls []*lacp.Listener
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, p := range []string{"p3", "p6"} {
		l, err := lacp.Open(p)
		must(t, err)
		ls = append(ls, l)
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		a, ok1 := ls[0].Partner()
		b, ok2 := ls[1].Partner()
		if ok1 && ok2 && lacp.Aggregable(a, b) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("partners: %v %v, %v %v", a, ok1, b, ok2)
		}
	}
	syncTwice(t, f.config(true))
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		b, err := os.ReadFile("/proc/thread-self/net/bonding/" + InterconnectBond)
		if strings.Contains(string(b), "Number of ports: 2") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no aggregate of two ports: %v\n%s", err, b)
		}
	}
	if l := observe(t, InterconnectBond); l.BondMode != "802.3ad" {
		t.Errorf("bond is %+v", l)
	}
	syncTwice(t, f.config(false))
	if l := observe(t, InterconnectBond); l.BondMode != activeBackup {
		t.Errorf("bond is %+v", l)
	}
}
