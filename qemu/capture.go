package qemu

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

type tap struct {
	w   *pcapgo.Writer
	c   io.Closer
	err error
}

// Capture writes what the network carries to w in pcap format, until stop is
// called or the network closes. A frame is seen once, after the faults of its
// way in and before those of its way out, with its VLAN tag unless it is of
// VLAN 1. If w is an io.Closer, the end of the capture closes it; the first
// write error ends the capture and is what stop returns.
func (s *Switch) Capture(w io.Writer) (stop func() error, err error) {
	t := &tap{w: pcapgo.NewWriterNanos(w)}
	if c, ok := w.(io.Closer); ok {
		t.c = c
	}
	if err := t.w.WriteFileHeader(maxFrame, layers.LinkTypeEthernet); err != nil {
		return nil, fmt.Errorf("network %s: capture: %w", s.name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taps[t] = true
	return func() error { return s.stopTap(t) }, nil
}

// CaptureFile writes a capture to a new file.
func (s *Switch) CaptureFile(path string) (stop func() error, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("network %s: capture: %w", s.name, err)
	}
	return s.Capture(f)
}

func (s *Switch) tapped(f Frame8023) {
	if s.recorder != nil {
		s.recorder.add(f)
	}
	for t := range s.taps {
		if t.err != nil {
			continue
		}
		b := f.untagged()
		if f.vlan != nativeVLAN {
			b = f.tagged()
		}
		t.err = t.w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: len(b), Length: len(b)}, b)
	}
}

func (s *Switch) stopTap(t *tap) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.taps[t] {
		return t.err
	}
	delete(s.taps, t)
	if t.c != nil {
		if err := t.c.Close(); t.err == nil {
			t.err = err
		}
	}
	if t.err != nil {
		return fmt.Errorf("network %s: capture: %w", s.name, t.err)
	}
	return nil
}
