package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startTFTP serves files on the loopback and returns the address.
func startTFTP(t *testing.T, files fs.FS, retry time.Duration) netip.AddrPort {
	t.Helper()
	listen := func() (net.PacketConn, error) { return net.ListenPacket("udp4", "127.0.0.1:0") }
	conn, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	srv := &tftpServer{files: files, log: slog.New(slog.DiscardHandler), maxBlock: 1468, retry: retry, listen: listen}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.serve(context.Background(), conn)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func rrq(name string, options ...string) []byte {
	return append([]byte{0, opRRQ}, strings.Join(append([]string{name, "octet"}, append(options, "")...), "\x00")...)
}

// A tftpClient is the other side, one packet at a time.
type tftpClient struct {
	*testing.T
	conn *net.UDPConn
	from netip.AddrPort // the server's transfer
}

func dialTFTP(t *testing.T, conn *net.UDPConn) *tftpClient {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &tftpClient{T: t, conn: conn}
}

func localTFTP(t *testing.T) *tftpClient {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return dialTFTP(t, conn)
}

func (c *tftpClient) send(p []byte, to netip.AddrPort) {
	c.Helper()
	if _, err := c.conn.WriteToUDPAddrPort(p, to); err != nil {
		c.Fatal(err)
	}
}

func (c *tftpClient) receive() []byte {
	c.Helper()
	buf := make([]byte, 2048)
	n, from, err := c.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		c.Fatal(err)
	}
	c.from = from
	return buf[:n]
}

func ackOf(block uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0, opACK}, block) }

// get fetches a file and returns the options that the server took.
func (c *tftpClient) get(server netip.AddrPort, name string, options ...string) ([]byte, string) {
	c.Helper()
	c.send(rrq(name, options...), server)
	block, taken := 512, ""
	var data []byte
	for {
		p := c.receive()
		switch p[1] {
		case opOACK:
			taken = strings.ReplaceAll(strings.TrimSuffix(string(p[2:]), "\x00"), "\x00", " ")
			fmt.Sscanf(taken, "blksize %d", &block)
			c.send(ackOf(0), c.from)
		case opDATA:
			data = append(data, p[4:]...)
			c.send(ackOf(binary.BigEndian.Uint16(p[2:])), c.from)
			if len(p)-4 < block {
				return data, taken
			}
		default:
			c.Fatalf("server says %q", p)
		}
	}
}

func TestTFTPSendsFile(t *testing.T) {
	files := fstest.MapFS{"snponly.efi": {Data: program}, "even": {Data: program[:1024]}, "empty": {}}
	server := startTFTP(t, files, time.Minute)
	for _, tt := range []struct {
		name    string
		options []string
		taken   string
	}{
		{"snponly.efi", nil, ""},
		{"/snponly.efi", []string{"tsize", "0", "blksize", "1428"}, "blksize 1428 tsize 52000"},
		{`\snponly.efi`, []string{"BlkSize", "9000", "windowsize", "8"}, "blksize 1468"},
		{"even", []string{"timeout", "3", "blksize", "4"}, "timeout 3"},
		{"empty", nil, ""},
	} {
		got, taken := localTFTP(t).get(server, tt.name, tt.options...)
		want := files[strings.Trim(tt.name, `/\`)].Data
		if !bytes.Equal(got, want) || taken != tt.taken {
			t.Errorf("get %s %v: %d bytes, options %q; want %d, %q", tt.name, tt.options, len(got), taken, len(want), tt.taken)
		}
	}
}

// ackConn acknowledges each packet at once.
type ackConn struct {
	net.PacketConn
	peer  netip.AddrPort
	block uint16
	bytes int
}

func (c *ackConn) SetReadDeadline(time.Time) error { return nil }

func (c *ackConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	c.block = 0
	if p[1] == opDATA {
		c.block = binary.BigEndian.Uint16(p[2:])
		c.bytes += len(p) - 4
	}
	return len(p), nil
}

func (c *ackConn) ReadFrom(p []byte) (int, net.Addr, error) {
	return copy(p, ackOf(c.block)), net.UDPAddrFromAddrPort(c.peer), nil
}

func TestTFTPBlockNumbersWrap(t *testing.T) {
	const size = 70000 * minBlock
	files := fstest.MapFS{"long": {Data: make([]byte, size)}}
	peer := netip.MustParseAddrPort("192.0.2.1:1000")
	conn := &ackConn{peer: peer}
	x := transfer{conn: conn, peer: peer, retry: time.Minute}
	req := tftpRequest{op: opRRQ, file: "long", options: map[string]string{"blksize": "8"}}
	if n, err := x.send(files, req, 1468); err != nil || n != size || conn.bytes != size {
		t.Errorf("send = %d, %v, with %d bytes on the wire, want %d", n, err, conn.bytes, size)
	}
}

func TestTFTPRefuses(t *testing.T) {
	server := startTFTP(t, fstest.MapFS{"sub/f": {}}, time.Minute)
	for _, tt := range []struct {
		request []byte
		code    byte
	}{
		{rrq("nothing"), errNotFound},
		{rrq("../../etc/passwd"), errNotFound},
		{rrq("sub"), errNotFound},
		{[]byte("\x00\x02sub/f\x00octet\x00"), errAccess},
		{[]byte("\x00\x01sub/f\x00netascii\x00"), errIllegal},
		{[]byte("\x00\x01sub/f"), errIllegal},
		{[]byte("\x00\x09what"), errIllegal},
	} {
		c := localTFTP(t)
		c.send(tt.request, server)
		if p := c.receive(); len(p) < 5 || p[1] != opERROR || p[3] != tt.code {
			t.Errorf("%q: answer %q, want error %d", tt.request, p, tt.code)
		}
	}
}

func TestTFTPRepeatsUntilAcknowledged(t *testing.T) {
	server := startTFTP(t, fstest.MapFS{"f": {Data: program[:600]}}, time.Millisecond)
	c := localTFTP(t)
	c.send(rrq("f"), server)
	first := c.receive()
	if again := c.receive(); !bytes.Equal(first, again) {
		t.Errorf("second packet = %q, want the first again", again)
	}
	stranger := localTFTP(t)
	stranger.send(ackOf(1), c.from)
	if p := stranger.receive(); p[1] != opERROR || p[3] != errUnknownTID {
		t.Errorf("stranger gets %q", p)
	}
}

func TestTFTPClientMayAbort(t *testing.T) {
	server := startTFTP(t, fstest.MapFS{"f": {Data: program}}, time.Minute)
	c := localTFTP(t)
	c.send(rrq("f", "tsize", "0"), server)
	if p := c.receive(); p[1] != opOACK {
		t.Fatalf("answer %q", p)
	}
	c.send(tftpError(errNotDefined, "only asked"), c.from)
	// EDK2 does this and then asks again, from another port.
	if got, _ := localTFTP(t).get(server, "f", "blksize", "1428"); !bytes.Equal(got, program) {
		t.Errorf("got %d bytes after an aborted transfer", len(got))
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(rrq("snponly.efi", "tsize", "0", "blksize", "1428"))
	f.Add([]byte("\x00\x02f\x00OCTET\x00"))
	f.Add([]byte{0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := parseRequest(b)
		if err != nil {
			return
		}
		if req.file == ".." || strings.HasPrefix(req.file, "../") || strings.HasPrefix(req.file, "/") {
			t.Errorf("parseRequest(%q).file = %q", b, req.file)
		}
		block, timeout, ack := negotiate(req.options, 7, 1468)
		if block < minBlock || block > 1468 || timeout < 0 || len(oack(ack)) > 100 {
			t.Errorf("negotiate(%q) = %d, %v, %q", req.options, block, timeout, ack)
		}
	})
}

func TestParseRequest(t *testing.T) {
	got, err := parseRequest(rrq("/a//b/../snponly.efi", "TSIZE", "0", "odd"))
	want := tftpRequest{op: opRRQ, file: "a/snponly.efi", options: map[string]string{"tsize": "0"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tftpRequest{})); diff != "" || err != nil {
		t.Errorf("parseRequest: %v (-want +got):\n%s", err, diff)
	}
}
