package qemu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/pcapgo"
)

// A station is at the far end of a port in a test: it keeps what it hears.
type stationT struct {
	*Port
	mac byte

	mu    sync.Mutex
	heard []string
}

var silent = slog.New(slog.DiscardHandler)

func newTestSwitch(t *testing.T, name string) *Switch {
	t.Helper()
	s := NewSwitch(name, 1, silent)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func attach(t *testing.T, s *Switch, mac byte, cfg PortConfig) *stationT {
	t.Helper()
	st := &stationT{mac: mac}
	p, err := s.Attach(cfg, func(frame []byte) {
		f, _ := parse8023(frame)
		text := string(f.body[14:])
		if f.vlan != 0 {
			text = fmt.Sprintf("%d:%s", f.vlan, text)
		}
		st.mu.Lock()
		st.heard = append(st.heard, text)
		st.mu.Unlock()
	})
	if err != nil {
		t.Fatal(err)
	}
	st.Port = p
	return st
}

const everybody = 0xff

// say sends a frame to the station with the MAC to; vlan 0 sends no tag.
func (st *stationT) say(to byte, vlan uint16, text string) {
	f := Frame8023{vlan: vlan, body: bytes.Repeat([]byte{to}, 6)}
	if to != everybody {
		f.body = []byte{2, 0, 0, 0, 0, to}
	}
	f.body = append(f.body, 2, 0, 0, 0, 0, st.mac, 0x88, 0xb5) // an experimental EtherType
	f.body = append(f.body, text...)
	if vlan == 0 {
		st.Send(f.untagged())
		return
	}
	st.Send(f.tagged())
}

// wants compares what stations heard since the last time.
func wants(t *testing.T, st *stationT, want ...string) {
	t.Helper()
	synctest.Wait()
	st.mu.Lock()
	defer st.mu.Unlock()
	if diff := cmp.Diff(want, st.heard); diff != "" {
		t.Errorf("station %s heard (-want +got):\n%s", st.Name(), diff)
	}
	st.heard = nil
}

func TestSwitchLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSwitch(t, "net")
		a := attach(t, s, 1, PortConfig{Name: "a", Access: 1})
		b := attach(t, s, 2, PortConfig{Name: "b", Access: 1})
		c := attach(t, s, 3, PortConfig{Name: "c", Access: 1})

		a.say(2, 0, "unknown floods")
		wants(t, b, "unknown floods")
		wants(t, c, "unknown floods")
		wants(t, a)

		b.say(1, 0, "known does not")
		wants(t, a, "known does not")
		wants(t, c)

		c.mac = 1 // station 1 moves to another port
		c.say(everybody, 0, "here I am")
		wants(t, b, "here I am")
		wants(t, a, "here I am")
		b.say(1, 0, "follows")
		wants(t, c, "follows")
		wants(t, a)

		time.Sleep(fdbAge) // of the bubble: no time passes outside
		b.say(1, 0, "aged")
		wants(t, a, "aged")
		wants(t, c, "aged")
	})
}

func TestSwitchKeepsVLANsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s3, s6 := newTestSwitch(t, "ic3"), newTestSwitch(t, "ic6")
		if err := Link(s3, s6, PortConfig{}, PortConfig{}); err != nil {
			t.Fatal(err)
		}
		trunk := attach(t, s3, 1, PortConfig{Name: "trunk"})
		some := attach(t, s3, 2, PortConfig{Name: "some", Allowed: []uint16{7}})
		near := attach(t, s3, 3, PortConfig{Name: "near", Access: 1300})
		far := attach(t, s6, 4, PortConfig{Name: "far", Access: 1300})

		trunk.say(everybody, 1300, "tagged")
		wants(t, near, "tagged")
		wants(t, far, "tagged")
		wants(t, some)

		far.say(everybody, 0, "untagged")
		wants(t, trunk, "1300:untagged")
		wants(t, near, "untagged")

		trunk.say(everybody, 0, "native")
		wants(t, near)
		wants(t, far)

		far.say(everybody, 9, "a tag that is not mine")
		wants(t, near)
		wants(t, trunk)

		trunk.say(everybody, 7, "seven")
		wants(t, some, "7:seven")
		wants(t, near)
	})
}

func TestSwitchFaults(t *testing.T) {
	three := func(t *testing.T) (s *Switch, a, b, c *stationT) {
		s = newTestSwitch(t, "net")
		return s, attach(t, s, 1, PortConfig{Name: "a", Access: 1}),
			attach(t, s, 2, PortConfig{Name: "b", Access: 1}), attach(t, s, 3, PortConfig{Name: "c", Access: 1})
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]func(t *testing.T){
		"loss": func(t *testing.T) {
			s, a, b, _ := three(t)
			must(t, s.SetFault(Fault{Loss: 0.1}))
			for range 1000 {
				a.say(everybody, 0, "x")
				synctest.Wait()
			}
			if n := len(b.heard); n < 870 || n > 930 { // fixed by the seed
				t.Errorf("heard %d of 1000 frames, want about 900", n)
			}
			if in, dropped := a.Stats().In, int(a.Stats().Dropped); in != 1000 || dropped != 1000-len(b.heard) {
				t.Errorf("statistics: %d in, %d dropped, want 1000 and %d", in, dropped, 1000-len(b.heard))
			}
		},
		"duplicate": func(t *testing.T) {
			s, a, b, _ := three(t)
			must(t, s.SetFault(Fault{Duplicate: 1}))
			a.say(everybody, 0, "x")
			wants(t, b, "x", "x")
		},
		"delay keeps the order": func(t *testing.T) {
			s, a, b, c := three(t)
			must(t, b.SetFault(Fault{Delay: time.Second, Jitter: time.Second}))
			a.say(everybody, 0, "1")
			a.say(everybody, 0, "2")
			wants(t, b)
			wants(t, c, "1", "2")
			time.Sleep(2 * time.Second)
			wants(t, b, "1", "2")
			s.Heal()
			a.say(everybody, 0, "3")
			wants(t, b, "3")
		},
		"reorder": func(t *testing.T) {
			s, a, b, _ := three(t)
			must(t, s.SetFault(Fault{Reorder: 1}))
			a.say(everybody, 0, "first")
			s.Heal()
			a.say(everybody, 0, "second")
			wants(t, b, "second")
			time.Sleep(overtaken)
			wants(t, b, "first")
		},
		"two stations that do not hear each other, by whatever way": func(t *testing.T) {
			s, a, b, c := three(t)
			other := newTestSwitch(t, "other")
			d := attach(t, other, 4, PortConfig{Name: "a", Access: 1}) // a's second port
			must(t, Link(s, other, PortConfig{}, PortConfig{}))
			must(t, s.Deafen("b", net.HardwareAddr{2, 0, 0, 0, 0, a.mac}, net.HardwareAddr{2, 0, 0, 0, 0, d.mac}))
			a.say(b.mac, 0, "x")
			d.say(everybody, 0, "y")
			c.say(everybody, 0, "z")
			wants(t, b, "z")
			s.Undeafen()
			d.say(b.mac, 0, "w")
			wants(t, b, "w")
		},
		"one way": func(t *testing.T) {
			s, a, b, c := three(t)
			must(t, s.Cut("a", "b"))
			a.say(everybody, 0, "x")
			wants(t, b)
			wants(t, c, "x")
			b.say(everybody, 0, "y")
			wants(t, a, "y")
		},
		"mute": func(t *testing.T) {
			s, a, b, c := three(t)
			must(t, s.Cut("a", ""))
			a.say(everybody, 0, "x")
			wants(t, b)
			wants(t, c)
		},
		"port down": func(t *testing.T) {
			_, a, b, c := three(t)
			b.SetSilent(true)
			a.say(everybody, 0, "x")
			b.say(everybody, 0, "y")
			wants(t, a)
			wants(t, b)
			wants(t, c, "x")
			b.SetSilent(false)
			a.say(everybody, 0, "z")
			wants(t, b, "z")
		},
		"partition": func(t *testing.T) {
			s, a, b, c := three(t)
			must(t, s.Partition([]string{"a"}, []string{"b", "c"}))
			a.say(everybody, 0, "x")
			b.say(everybody, 0, "y")
			wants(t, a)
			wants(t, b)
			wants(t, c, "y")
			s.Heal()
			a.say(everybody, 0, "z")
			wants(t, c, "z")
		},
		"filter": func(t *testing.T) {
			s, a, b, _ := three(t)
			s.Filter(func(f Frame8023) bool { return !bytes.Contains(f.Bytes(), []byte("bad")) })
			a.say(everybody, 0, "bad")
			a.say(everybody, 0, "good")
			wants(t, b, "good")
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) { synctest.Test(t, run) })
	}
}

func TestFaultsRefuseNonsense(t *testing.T) {
	s := newTestSwitch(t, "net")
	for name, err := range map[string]error{
		"probability": s.SetFault(Fault{Loss: 2}),
		"delay":       s.SetFault(Fault{Delay: -1}),
		"cut":         s.Cut("", ""),
		"reorder":     s.SetFault(Fault{Reorder: -0.1}),
		"port":        s.Cut("nobody", ""),
		"deaf port":   s.Deafen("nobody"),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCaptureSeesTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSwitch(t, "net")
		a := attach(t, s, 1, PortConfig{Name: "a", Access: 1300})
		b := attach(t, s, 2, PortConfig{Name: "b"})
		var file bytes.Buffer
		stop, err := s.Capture(&file)
		if err != nil {
			t.Fatal(err)
		}
		a.say(everybody, 0, "in VLAN 1300")
		b.say(everybody, 0, "native")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		a.say(everybody, 0, "after the end")

		r, err := pcapgo.NewReader(&file)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			data, _, err := r.ReadPacketData()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			f, _ := parse8023(data)
			got = append(got, fmt.Sprintf("%d:%s", f.vlan, f.body[14:]))
		}
		if diff := cmp.Diff([]string{"1300:in VLAN 1300", "0:native"}, got); diff != "" {
			t.Errorf("capture (-want +got):\n%s", diff)
		}
	})
}

// A VM's end of a stream port, as QEMU's `-netdev stream` frames it.
func TestStreamPortTakesANewVM(t *testing.T) {
	s := newTestSwitch(t, "net")
	path := filepath.Join(t.TempDir(), "s")
	p, err := s.Listen(path, PortConfig{Name: "vm", Access: 1})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan []byte, 16)
	host, err := s.Attach(PortConfig{Name: "host", Access: 1}, func(f []byte) { heard <- f })
	if err != nil {
		t.Fatal(err)
	}
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, make([]byte, 50)...)
	for power := range 2 {
		vm, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		frame[14] = byte(power)
		if _, err := vm.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(frame, <-heard); diff != "" {
			t.Errorf("from the VM (-want +got):\n%s", diff)
		}
		host.Send(frame)
		got := make([]byte, 4+len(frame))
		if _, err := io.ReadFull(vm, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(frame, got[4:]); diff != "" {
			t.Errorf("to the VM (-want +got):\n%s", diff)
		}
		vm.Close()
	}
	p.Close()
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("the port is closed and still takes connections")
	}
}

func FuzzParse8023(f *testing.F) {
	f.Add(Frame8023{vlan: 1300, prio: 0x6000, body: make([]byte, 60)}.tagged())
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := parse8023(b)
		if !ok || got.vlan == 0 {
			return
		}
		if diff := cmp.Diff(b, got.tagged()); diff != "" {
			t.Errorf("tag off and on (-want +got):\n%s", diff)
		}
	})
}

func TestNetworkRemembersItsLastFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSwitch(t, "net")
		s.Record()
		a := attach(t, s, 1, PortConfig{Name: "a"})
		for i := range recordFrames + 10 {
			a.say(everybody, 7, fmt.Sprintf("%d %s", i, strings.Repeat("x", 300)))
		}
		var b bytes.Buffer
		if err := s.WriteRecent(&b); err != nil {
			t.Fatal(err)
		}
		r, err := pcapgo.NewReader(&b)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		n := 0
		for {
			data, info, err := r.ReadPacketData()
			if err != nil {
				break
			}
			if n++; n == 1 || n == recordFrames {
				text, _, _ := strings.Cut(string(data[18:]), " ")
				got = append(got, fmt.Sprintf("%s: %d of %v", text, len(data), info.Length > 300))
			}
		}
		want := []string{"10: 256 of true", fmt.Sprintf("%d: 256 of true", recordFrames+9)}
		if diff := cmp.Diff(want, got); diff != "" || n != recordFrames {
			t.Errorf("%d frames (-want +got):\n%s", n, diff)
		}
	})
}
