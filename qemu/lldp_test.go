package qemu

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// listener keeps the LLDP that a station hears.
type listener struct {
	*Port
	frames chan []byte
}

func listen(t *testing.T, s *Switch, name string, l *LLDP) *listener {
	t.Helper()
	out := &listener{frames: make(chan []byte, 100)}
	p, err := s.Attach(PortConfig{Name: name, LLDP: l}, func(f []byte) { out.frames <- bytes.Clone(f) })
	must(t, err)
	out.Port = p
	return out
}

// heard counts frames since the last time.
func (l *listener) heard() (n int) {
	synctest.Wait()
	for {
		select {
		case <-l.frames:
			n++
		default:
			return n
		}
	}
}

// Somebody else's parser understands what the module says.
func TestLLDPIsUnderstood(t *testing.T) {
	l := LLDP{"VF0001 interconnect bay 3", "appliance-1:a", "to appliance bay 1"}
	p := gopacket.NewPacket(l.frame(1300), layers.LayerTypeEthernet, gopacket.Default)
	d, _ := p.Layer(layers.LayerTypeLinkLayerDiscovery).(*layers.LinkLayerDiscovery)
	info, _ := p.Layer(layers.LayerTypeLinkLayerDiscoveryInfo).(*layers.LinkLayerDiscoveryInfo)
	if d == nil || info == nil || p.ErrorLayer() != nil {
		t.Fatalf("not LLDP: %v", p)
	}
	vlan, err := info.Decode8021()
	must(t, err)
	more, err := info.Decode8023()
	must(t, err)
	got := []any{d.ChassisID.Subtype, string(d.PortID.ID), d.PortID.Subtype, d.TTL, info.PortDescription, info.SysName, info.SysCapabilities.EnabledCap.Bridge, vlan.PVID, more.MTU}
	want := []any{layers.LLDPChassisIDSubTypeMACAddr, "appliance-1:a", layers.LLDPPortIDSubtypeIfaceName, uint16(20), "to appliance bay 1", "VF0001 interconnect bay 3", true, uint16(1300), uint16(9216)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("LLDP (-want +got):\n%s", diff)
	}
}

func TestModulesSpeakLLDP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSwitch(t, "ic3")
		a := listen(t, s, "a", &LLDP{System: "ic", Port: "a"})
		plain := listen(t, s, "plain", nil)
		hears := func(when string, l *listener, want int) {
			t.Helper()
			if got := l.heard(); got != want {
				t.Errorf("%s: %s heard %d frames, want %d", when, l.Name(), got, want)
			}
		}
		hears("at the start", a, 1)
		time.Sleep(12 * time.Second)
		hears("after 12 s", a, 2)

		a.SetSilent(true)
		time.Sleep(time.Minute)
		hears("silent port", a, 0)
		a.SetSilent(false)
		hears("port that came back", a, 1)
		s.SetSilent(true)
		time.Sleep(time.Minute)
		hears("silent module", a, 0)
		s.SetSilent(false)
		hears("module that came back", a, 1)
		hears("port without LLDP", plain, 0)

		// A station's own is for the module alone.
		b := listen(t, s, "b", &LLDP{System: "ic", Port: "b"})
		hears("new port", b, 1)
		said := LLDP{System: "station", Port: "ic0"}.frame(1)
		a.Send(said)
		hears("behind the module", b, 0)
		if !bytes.Equal(a.Neighbour(), said) || b.Neighbour() != nil {
			t.Errorf("neighbours: %q and %q", a.Neighbour(), b.Neighbour())
		}
		plain.Send(said)
		hears("a network that speaks no LLDP passes it", b, 1)
	})
}
