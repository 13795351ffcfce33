package ether

import (
	"bytes"
	"net"
	"testing"
)

func TestFrameRoundTrip(t *testing.T) {
	for _, f := range []Frame{
		{Dst: Broadcast, Src: [6]byte{2, 0, 0, 0, 0, 1}, Type: LLDP, Payload: []byte("abc")},
		{Dst: Broadcast, Src: [6]byte{2, 0, 0, 0, 0, 1}, Type: Probe, VLAN: 1300, Payload: []byte("abc")},
	} {
		got, err := Parse(f.Marshal())
		if err != nil || got.Dst != f.Dst || got.Src != f.Src || got.VLAN != f.VLAN || got.Type != f.Type || !bytes.Equal(got.Payload, f.Payload) {
			t.Errorf("Parse(Marshal(%+v)) = %+v, %v", f, got, err)
		}
	}
	if _, err := Parse([]byte("short")); err == nil {
		t.Error("Parse of five bytes = nil")
	}
}

func TestOwnMACIsAnother(t *testing.T) {
	for _, s := range []string{"52:54:00:12:34:56", "02:00:00:00:00:01", "00:1b:21:aa:bb:cc"} {
		mac, _ := net.ParseMAC(s)
		own := OwnMAC(mac)
		if own == MAC(mac) || own[0]&1 != 0 || own[0]&2 == 0 {
			t.Errorf("OwnMAC(%s) = %x", s, own)
		}
	}
}
