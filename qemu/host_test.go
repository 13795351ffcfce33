package qemu

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
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
