package qemu

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// A recorder keeps the beginnings of the last frames that a network carried,
// for the report of a test that fails.
type recorder struct {
	frames []recorded
	next   int // the oldest, when the ring is full
}

type recorded struct {
	at     time.Time
	length int
	head   []byte
}

const (
	recordFrames = 4000
	recordBytes  = 256 // of each
)

// Record makes the network remember its last frames, see WriteRecent.
func (s *Switch) Record() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recorder == nil {
		s.recorder = &recorder{}
	}
}

func (r *recorder) add(f Frame8023) {
	b := f.untagged()
	if f.vlan != nativeVLAN {
		b = f.tagged()
	}
	e := recorded{time.Now(), len(b), bytes.Clone(b[:min(len(b), recordBytes)])} // the rest is not held in memory
	if len(r.frames) < recordFrames {
		r.frames = append(r.frames, e)
		return
	}
	r.frames[r.next] = e
	r.next = (r.next + 1) % recordFrames
}

// WriteRecent writes the last frames in pcap format, cut after 256 bytes each.
func (s *Switch) WriteRecent(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := pcapgo.NewWriterNanos(w)
	err := p.WriteFileHeader(maxFrame, layers.LinkTypeEthernet)
	if r := s.recorder; err == nil && r != nil {
		for i := range r.frames {
			e := r.frames[(r.next+i)%len(r.frames)]
			if err = p.WritePacket(gopacket.CaptureInfo{Timestamp: e.at, CaptureLength: len(e.head), Length: e.length}, e.head); err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("network %s: recent frames: %w", s.name, err)
	}
	return nil
}
