package qemu

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func twoHosts(t *testing.T) (a, b *Host) {
	t.Helper()
	s := newTestSwitch(t, "net")
	var hosts [2]*Host
	for i, name := range []string{"a", "b"} {
		h, err := NewHost(s, PortConfig{Name: name, Access: 1}, hostIn(managementNet, i+1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		hosts[i] = h
	}
	return hosts[0], hosts[1]
}

func TestHostForwards(t *testing.T) {
	a, b := twoHosts(t)
	l, err := b.ListenTCP(7)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	local, err := a.Forward(netip.AddrPortFrom(b.Addr().Addr(), 7))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := bytes.Repeat([]byte("baystream "), 100_000)
	go func() {
		conn.Write(want)
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("echoed %d bytes, %v, want the %d sent", len(got), err, len(want))
	}
	l.Close()
}

func TestHostPings(t *testing.T) {
	a, b := twoHosts(t)
	if err := a.Ping(t.Context(), b.Addr().Addr()); err != nil {
		t.Error(err)
	}
	b.Port().SetSilent(true)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error)
	go func() { answer <- a.Ping(ctx, b.Addr().Addr()) }()
	cancel()
	if err := <-answer; err == nil {
		t.Error("a port that is down answers")
	}
}

func TestHostHearsBroadcasts(t *testing.T) {
	a, b := twoHosts(t)
	server, err := b.ListenUDP(67)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := a.ListenUDP(68)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteTo([]byte("discover"), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := server.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(buf[:n])+" from "+from.String(), "discover from 192.0.2.1:68"; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
}

func TestHostFollowsAnAddressThatMoves(t *testing.T) {
	s := newTestSwitch(t, "net")
	var hosts [2]*Host
	for i, name := range []string{"a", "b"} {
		h, err := NewHost(s, PortConfig{Name: name, Access: 1}, hostIn(managementNet, i+1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		hosts[i] = h
	}
	a, b := hosts[0], hosts[1]
	if _, err := b.ListenTCP(7); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // less than the stack asks at the old place
	defer cancel()
	dial := func() (net.Conn, error) {
		return a.DialContext(ctx, "tcp", netip.AddrPortFrom(b.Addr().Addr(), 7).String())
	}
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	b.Close()
	mac, ip, all := []byte{2, 0, 0, 0, 0, 99}, b.Addr().Addr().AsSlice(), []byte{255, 255, 255, 255, 255, 255}
	arp := func(dst, from, target, targetIP []byte) []byte {
		return slices.Concat(dst, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, from, ip, target, targetIP, make([]byte, 18))
	}
	moved := make(chan struct{}, 100)
	attached := make(chan *Port, 1)
	port, err := s.Attach(PortConfig{Name: "c", Access: 1}, func(frame []byte) {
		switch {
		case bytes.Equal(frame[12:14], []byte{8, 6}) && bytes.Equal(frame[38:42], ip): // who has it?
			p := <-attached
			p.Send(arp(frame[6:12], mac, frame[6:12], frame[28:32]))
			attached <- p
		case bytes.Equal(frame[:6], mac):
			moved <- struct{}{}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	attached <- port
	port.Send(arp(all, mac, all, ip))
	go dial() // nobody answers
	select {
	case <-moved:
	case <-ctx.Done():
		t.Error("the address has moved and was announced, but the host goes on to the old place")
	}
}
