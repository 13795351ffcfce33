package boot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const inChild = "BAYSTREAM_TEST_NETNS"

// inNetNS runs the rest of the test in a network namespace of its own: a
// process of its own, for the Service has goroutines on threads of the
// runtime's choice. It returns false in the process that only watched.
func inNetNS(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inChild) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), inChild+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig means this thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skipf("needs CAP_SYS_ADMIN for a network namespace: %v", err)
	case err != nil:
		t.Fatalf("in the namespace: %v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("in the namespace: %s", out)
	}
	return false
}

// serverPort makes the link srv0 of the Service, whose other end is the port of
// a server, srv1, in another namespace: that of the calling goroutine's thread
// from now on. Sockets opened by this goroutine are the server's.
func serverPort(t *testing.T) {
	t.Helper()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Skipf("needs veth links: %s: %v", what, err)
		}
	}
	a := netlink.NewLinkAttrs()
	a.Name = "srv0"
	must("add veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "srv1", PeerHardwareAddr: testMAC}))
	srv0, err := netlink.LinkByName("srv0")
	must("srv0", err)
	addr, _ := netlink.ParseAddr("198.51.100.2/24")
	must("address", netlink.AddrAdd(srv0, addr))
	must("up", netlink.LinkSetUp(srv0))
	srv1, err := netlink.LinkByName("srv1")
	must("srv1", err)

	runtime.LockOSThread() // never unlocked: the thread ends with the test
	must("unshare", unix.Unshare(unix.CLONE_NEWNET))
	ns, err := os.Open("/proc/thread-self/ns/net")
	must("open namespace", err)
	defer ns.Close()
	done := make(chan error)
	go func() { done <- netlink.LinkSetNsFd(srv1, int(ns.Fd())) }() // on a thread of the Service's
	must("move srv1", <-done)
	must("up", netlink.LinkSetUp(srv1))
}

// setAddress gives srv1 an address, as a DHCP client would.
func setAddress(t *testing.T, s string) {
	t.Helper()
	srv1, err := netlink.LinkByName("srv1")
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr(s)
	if err := netlink.AddrReplace(srv1, addr); err != nil {
		t.Fatal(err)
	}
}

// start runs a Service in the process's namespace until the test ends, and
// returns once it listens.
func start(t *testing.T, d Directory) (wait func() error) {
	t.Helper()
	started := make(chan struct{}, 1)
	s, err := New(testConfig(d, slog.New(onMessage{"boot service started", started})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(cancel)
	select {
	case <-started:
	case err := <-done:
		t.Fatalf("Run = %v", err)
	}
	return func() error {
		t.Helper()
		cancel()
		return <-done
	}
}

// onMessage is a log that tells when a message comes.
type onMessage struct {
	text string
	c    chan struct{}
}

func (o onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (o onMessage) WithAttrs([]slog.Attr) slog.Handler       { return o }
func (o onMessage) WithGroup(string) slog.Handler            { return o }
func (o onMessage) Handle(_ context.Context, r slog.Record) error {
	if r.Message == o.text {
		select {
		case o.c <- struct{}{}:
		default:
		}
	}
	return nil
}

func TestServerBoots(t *testing.T) {
	if !inNetNS(t) {
		return
	}
	d := newDirectory()
	serverPort(t)
	wait := start(t, d)

	for _, tt := range []struct {
		name, file string
		mods       []dhcpv4.Modifier
	}{
		{"iPXE", "http://198.51.100.2/boot.ipxe", []dhcpv4.Modifier{asIPXE}},
		{"UEFI PXE", "snponly.efi", []dhcpv4.Modifier{asPXE(7)}},
		{"UEFI HTTP", "http://198.51.100.2/snponly.efi", []dhcpv4.Modifier{asHTTP}},
		{"operating system", "", nil},
	} {
		c, err := nclient4.New("srv1", nclient4.WithTimeout(200*time.Millisecond), nclient4.WithRetry(100)) // a new link drops what comes first
		if err != nil {
			t.Fatal(err)
		}
		lease, err := c.Request(t.Context(), tt.mods...)
		c.Close()
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if ack := lease.ACK; ack.BootFileName != tt.file || !ack.YourIPAddr.Equal(d.server.Addr.AsSlice()) {
			t.Errorf("%s: file %q, address %v", tt.name, ack.BootFileName, ack.YourIPAddr)
		}
	}

	setAddress(t, "198.51.100.101/24")
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: d.server.Addr.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	tftp := netip.MustParseAddrPort("198.51.100.2:69")
	if got, taken := dialTFTP(t, udp).get(tftp, "snponly.efi", "blksize", "1468", "tsize", "0"); !bytes.Equal(got, program) || taken != "blksize 1368 tsize 52000" {
		t.Errorf("TFTP: %d bytes, options %q", len(got), taken)
	}
	if body := fetch(t, "/boot.ipxe?mac="+testMAC.String()); !strings.Contains(body, "set password "+testSecret) {
		t.Errorf("script:\n%s", body)
	}
	if body := fetch(t, "/snponly.efi"); body != string(program) {
		t.Errorf("HTTP: %d bytes", len(body))
	}

	if err := wait(); err != nil {
		t.Errorf("Run = %v after its end, want nil", err)
	}
	again := start(t, d) // starting is safe to repeat
	fetch(t, "/boot.ipxe")
	if err := again(); err != nil {
		t.Errorf("second Run = %v", err)
	}
}

// fetch gets a path in the calling thread's namespace, where http.Get would
// connect from a thread of its own.
func fetch(t *testing.T, path string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp4", "198.51.100.2:80", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req, _ := http.NewRequest(http.MethodGet, "http://198.51.100.2"+path, nil)
	req.Close = true
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", path, res.Status, err)
	}
	return body.String()
}

func TestRouterSolicitationIsAnswered(t *testing.T) {
	if !inNetNS(t) {
		return
	}
	serverPort(t)
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		t.Skipf("needs IPv6: %v", err)
	}
	defer conn.Close()
	start(t, newDirectory())
	p := conn.IPv6PacketConn()
	srv1, err := net.InterfaceByName("srv1")
	if err != nil {
		t.Fatal(err)
	}
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterAdvertisement)
	if err := errors.Join(p.SetICMPFilter(&only), p.SetMulticastInterface(srv1), p.SetMulticastHopLimit(255),
		p.SetControlMessage(ipv6.FlagHopLimit, true)); err != nil {
		t.Fatal(err)
	}
	// Addresses of either end may still be checked for duplicates: ask until
	// there is an answer, as every client does.
	solicit := []byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}
	buf := make([]byte, 100)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		p.WriteTo(solicit, nil, &net.IPAddr{IP: allRouters, Zone: "srv1"})
		p.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, cm, _, err := p.ReadFrom(buf)
		if err != nil {
			continue
		}
		clear(buf[2:4]) // the checksum
		if diff := cmp.Diff(emptyRA, buf[:n]); diff != "" || cm.HopLimit != 255 {
			t.Errorf("advertisement with hop limit %d (-want +got):\n%s", cm.HopLimit, diff)
		}
		return
	}
	t.Fatal("no router advertisement")
}

func TestRunEndsWhenInterfaceIsMadeAnew(t *testing.T) {
	if !inNetNS(t) {
		return
	}
	serverPort(t)
	s, err := New(testConfig(newDirectory(), slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{}, 1)
	s.log = slog.New(onMessage{"boot service started", started})
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	<-started
	srv1, err := netlink.LinkByName("srv1")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(srv1); err != nil { // and with it srv0
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrInterface) {
		t.Errorf("Run = %v, want %v", err, ErrInterface)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "srv0") {
		t.Errorf("Run without interface = %v", err)
	}
}
