package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"baystream/netcfg"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	testMAC    = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	strangeMAC = net.HardwareAddr{0x52, 0x54, 0, 0xff, 0xff, 0xff}
	program    = bytes.Repeat([]byte("boot program "), 4000)
)

const testSecret = "Sup3rSecretChap"

// directory knows one server, and says that of all others.
type directory struct {
	mu     sync.Mutex
	server Server
	seen   []Sighting
}

func newDirectory() *directory {
	return &directory{server: Server{
		ID: "s1", Name: "node-1", Addr: netip.MustParseAddr("198.51.100.101"), Ready: true,
		Target: Target{
			IQN: "iqn.2026-11.org.baystream:v1", Portal: netip.MustParseAddrPort("198.51.100.3:3260"),
			InitiatorIQN: "iqn.2026-11.org.baystream.server:s1", User: "s1", Secret: testSecret,
		},
	}}
}

func (d *directory) ByMAC(_ context.Context, mac net.HardwareAddr) (Server, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch mac.String() {
	case testMAC.String():
		return d.server, nil
	case strangeMAC.String():
		return Server{Addr: netip.MustParseAddr("198.51.100.150"), Reason: "add it to a logical enclosure"}, nil
	}
	return Server{}, ErrPoolFull
}

func (d *directory) Seen(_ context.Context, s Sighting) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, s)
}

func testConfig(d Directory, log *slog.Logger) Config {
	return Config{
		Interface: "srv0",
		Address:   netip.MustParsePrefix("198.51.100.2/24"),
		MTU:       1400,
		Files:     fstest.MapFS{"snponly.efi": {Data: program}, "sub/secret": {Data: []byte("no")}},
		Directory: d,
		Log:       log,
	}
}

func testService(t *testing.T, d Directory) *Service {
	t.Helper()
	s, err := New(testConfig(d, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A client is a kind of DHCP client, as it shows itself.
func client(mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	req, err := dhcpv4.NewDiscovery(testMAC, mods...)
	if err != nil {
		panic(err)
	}
	return req
}

func asIPXE(d *dhcpv4.DHCPv4) {
	dhcpv4.WithUserClass("iPXE", false)(d)
	d.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003010"))
	asArch(7)(d)
}

func asPXE(arch int) dhcpv4.Modifier {
	return func(d *dhcpv4.DHCPv4) {
		d.UpdateOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003000", arch)))
		asArch(arch)(d)
	}
}

func asHTTP(d *dhcpv4.DHCPv4) {
	d.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient:Arch:00016:UNDI:003000"))
	asArch(16)(d)
}

func asArch(arch int) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClientArch(iana.Arch(arch)))
}

func TestReplyNamesBootProgram(t *testing.T) {
	d := newDirectory()
	cfg := testConfig(d, nil)
	withBIOS := cfg
	withBIOS.Files = fstest.MapFS{biosProgram: {Data: program}}
	for _, tt := range []struct {
		name               string
		cfg                Config
		req                *dhcpv4.DHCPv4
		file, class, tftp  string
		option175, hasNext bool
	}{
		{"iPXE", cfg, client(asIPXE), "http://198.51.100.2/boot.ipxe", "", "", true, true},
		{"UEFI PXE", cfg, client(asPXE(7)), "snponly.efi", "", "198.51.100.2", false, true},
		{"UEFI PXE as byte code", cfg, client(asPXE(9)), "snponly.efi", "", "198.51.100.2", false, true},
		{"BIOS PXE without program", cfg, client(asPXE(0)), "", "", "", false, false},
		{"BIOS PXE", withBIOS, client(asPXE(0)), "undionly.kpxe", "", "198.51.100.2", false, true},
		{"UEFI PXE of another machine", cfg, client(asPXE(11)), "", "", "", false, false},
		{"UEFI HTTP", cfg, client(asHTTP), "http://198.51.100.2/snponly.efi", "HTTPClient", "", false, true},
		{"operating system", cfg, client(), "", "", "", false, false},
	} {
		ans := reply(tt.req, d.server, tt.cfg)
		if ans == nil {
			t.Errorf("%s: no answer", tt.name)
			continue
		}
		if ans.MessageType() != dhcpv4.MessageTypeOffer || !ans.YourIPAddr.Equal(d.server.Addr.AsSlice()) {
			t.Errorf("%s: answer %v, address %v", tt.name, ans.MessageType(), ans.YourIPAddr)
		}
		if ans.BootFileName != tt.file || ans.BootFileNameOption() != tt.file {
			t.Errorf("%s: file %q, option 67 %q, want %q", tt.name, ans.BootFileName, ans.BootFileNameOption(), tt.file)
		}
		if ans.ClassIdentifier() != tt.class || ans.TFTPServerName() != tt.tftp {
			t.Errorf("%s: option 60 %q, 66 %q, want %q, %q", tt.name, ans.ClassIdentifier(), ans.TFTPServerName(), tt.class, tt.tftp)
		}
		if got := ans.Options.Get(dhcpv4.GenericOptionCode(175)); (string(got) == "\xb0\x01\x01") != tt.option175 {
			t.Errorf("%s: option 175 %x", tt.name, got)
		}
		if next := ans.ServerIPAddr.Equal(net.IPv4(198, 51, 100, 2)); next != tt.hasNext {
			t.Errorf("%s: siaddr %v", tt.name, ans.ServerIPAddr)
		}
		mtu := binary.BigEndian.Uint16(ans.Options.Get(dhcpv4.OptionInterfaceMTU))
		ones, _ := ans.SubnetMask().Size()
		if mtu != 1400 || ones != 24 || len(ans.Router()) != 0 || !ans.BroadcastAddress().Equal(net.IPv4(198, 51, 100, 255)) {
			t.Errorf("%s: mtu %d, mask %d, router %v, broadcast %v", tt.name, mtu, ones, ans.Router(), ans.BroadcastAddress())
		}
	}
}

func TestReplyKeepsAddressesStable(t *testing.T) {
	d := newDirectory()
	s := testService(t, d)
	self, other := net.IPv4(198, 51, 100, 2), net.IPv4(198, 51, 100, 9)
	own, alien := net.IP(d.server.Addr.AsSlice()), net.IPv4(198, 51, 100, 77)
	request := dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)
	asks := func(ip net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)) }
	chose := func(ip net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip)) }
	mac := func(m net.HardwareAddr) dhcpv4.Modifier { return dhcpv4.WithHwAddr(m) }
	none := dhcpv4.MessageTypeNone
	for _, tt := range []struct {
		name string
		req  *dhcpv4.DHCPv4
		want dhcpv4.MessageType
	}{
		{"discover", client(), dhcpv4.MessageTypeOffer},
		{"unknown server gets one too", client(mac(strangeMAC)), dhcpv4.MessageTypeOffer},
		{"directory has no address", client(mac(net.HardwareAddr{2, 0, 0, 0, 0, 9})), none},
		{"takes our offer", client(request, asks(own), chose(self)), dhcpv4.MessageTypeAck},
		{"takes another server's offer", client(request, asks(own), chose(other)), none},
		{"after a reboot", client(request, asks(own)), dhcpv4.MessageTypeAck},
		{"with an address of elsewhere", client(request, asks(alien)), dhcpv4.MessageTypeNak},
		{"renews", client(request, dhcpv4.WithClientIP(own)), dhcpv4.MessageTypeAck},
		{"renews what moved away", client(request, dhcpv4.WithClientIP(alien)), dhcpv4.MessageTypeNak},
		{"informs", client(dhcpv4.WithMessageType(dhcpv4.MessageTypeInform), dhcpv4.WithClientIP(own)), dhcpv4.MessageTypeAck},
		{"releases", client(dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease)), none},
		{"through a relay agent", client(dhcpv4.WithRelay(other)), none},
		{"with relay agent's option", client(dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 1, 1})), none},
	} {
		got := none
		if ans := s.answerDHCP(t.Context(), tt.req); ans != nil {
			got = ans.MessageType()
			if _, err := dhcpv4.FromBytes(ans.ToBytes()); err != nil {
				t.Errorf("%s: answer unreadable: %v", tt.name, err)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestStrangersHaveShortLeases(t *testing.T) {
	cfg := testService(t, newDirectory()).cfg
	addr := newDirectory().server.Addr
	for lease, want := range map[time.Duration]time.Duration{0: cfg.Lease, time.Minute: time.Minute} {
		if got := reply(client(), Server{Addr: addr, Lease: lease}, cfg).IPAddressLeaseTime(0); got != want {
			t.Errorf("a server with lease %v gets %v, want %v", lease, got, want)
		}
	}
}

func TestSighting(t *testing.T) {
	id := append([]byte{0}, 0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 1, 2, 3, 4, 5, 6, 7, 8)
	got := sighting(client(asPXE(7), dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, id)))
	want := Sighting{MAC: testMAC, UUID: "12345678-9abc-def0-0102-030405060708", Arch: UEFI}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sighting (-want +got):\n%s", diff)
	}
	if s := fmt.Sprint(got.Arch, Arch(0), BIOS, UEFIHTTP, Arch(12)); s != "uefi  bios uefi-http arch-11" {
		t.Errorf("names of Arch: %s", s)
	}
	if u := firmwareUUID(make([]byte, 16)); u != "" {
		t.Errorf("UUID that is not set = %q", u)
	}
}

// get asks the service for a path from an address.
func get(t *testing.T, s *Service, path, from string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

const ask = ":ask\nchain --autofree --replace http://198.51.100.2/boot.ipxe?mac=${netX/mac}&uuid=${uuid}"

func TestScript(t *testing.T) {
	own, alien := "198.51.100.101:1000", "198.51.100.150:1000"
	for _, tt := range []struct {
		name, path, from string
		change           func(*Server)
		has, hasNot      []string
	}{
		{"who are you", "/boot.ipxe", own, nil, []string{"#!ipxe\n" + ask, "dhcp net1 && goto ask ||"}, []string{"sanboot"}},
		{"ready", "/boot.ipxe?mac=52:54:00:12:34:56", own, nil, []string{
			"#!ipxe\necho Baystream: node-1 boots from",
			"\nset initiator-iqn iqn.2026-11.org.baystream.server:s1\nset username s1\nset password " + testSecret + "\n" +
				"sanboot iscsi:198.51.100.3::3260:0:iqn.2026-11.org.baystream:v1 ||\nclear password ||\n",
			"\nsleep 2\n" + ask,
		}, nil},
		{"without CHAP", "/boot.ipxe?mac=52:54:00:12:34:56", own, func(s *Server) { s.Target.User, s.Target.Secret = "", "" },
			[]string{"clear username ||\nclear password ||\nsanboot"}, []string{"set password"}},
		{"somebody else asks", "/boot.ipxe?mac=52:54:00:12:34:56", alien, nil,
			[]string{"but this request came from 198.51.100.150", "\ngoto lost\n"}, []string{testSecret, "sanboot"}},
		{"not ready", "/boot.ipxe?mac=52:54:00:12:34:56", own, func(s *Server) { s.Ready, s.Reason = false, "no profile:\nsanboot ${x}" },
			[]string{"echo Baystream: node-1 does not boot yet: no profile: sanboot _{x}\nsleep 2\n" + ask}, []string{testSecret, "\nsanboot"}},
		{"unknown", "/boot.ipxe?mac=52:54:00:ff:ff:ff", alien, nil,
			[]string{"unknown server 52:54:00:ff:ff:ff does not boot yet: add it to a logical enclosure\nsleep 2\n" + ask}, []string{"sanboot"}},
		{"directory fails", "/boot.ipxe?mac=02:00:00:00:00:09", alien, nil,
			[]string{"cannot look it up now\nsleep 2\n" + ask}, []string{"sanboot"}},
		{"secret does not fit into a script", "/boot.ipxe?mac=52:54:00:12:34:56", own, func(s *Server) { s.Target.Secret = "q w$c" },
			[]string{"its CHAP secret has characters that a boot script cannot carry"}, []string{"q w", "sanboot"}},
		{"target incomplete", "/boot.ipxe?mac=52:54:00:12:34:56", own, func(s *Server) { s.Target.IQN = "" },
			[]string{"target or initiator name is missing"}, []string{"sanboot", testSecret}},
	} {
		d := newDirectory()
		if tt.change != nil {
			tt.change(&d.server)
		}
		code, body := get(t, testService(t, d), tt.path, tt.from)
		if code != http.StatusOK {
			t.Errorf("%s: status %d", tt.name, code)
		}
		for _, h := range tt.has {
			if !strings.Contains(body, h) {
				t.Errorf("%s: script has no %q:\n%s", tt.name, h, body)
			}
		}
		for _, h := range tt.hasNot {
			if strings.Contains(body, h) {
				t.Errorf("%s: script has %q:\n%s", tt.name, h, body)
			}
		}
	}
}

func TestSecretStaysOutOfLogs(t *testing.T) {
	var log bytes.Buffer
	s, err := New(testConfig(newDirectory(), slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	if err != nil {
		t.Fatal(err)
	}
	_, body := get(t, s, "/boot.ipxe?mac=52:54:00:12:34:56", "198.51.100.101:1")
	s.answerDHCP(t.Context(), client(asIPXE))
	get(t, s, "/boot.ipxe?mac=52:54:00:12:34:56", "198.51.100.101:1")
	if n := strings.Count(log.String(), `level=INFO msg="boot script"`); n != 1 {
		t.Errorf("the same script was logged %d times", n)
	}
	if !strings.Contains(body, testSecret) || log.Len() == 0 || strings.Contains(log.String(), testSecret) {
		t.Errorf("log with secret, or nothing logged:\n%s", log.String())
	}
}

func TestHTTPServesBootProgramsOnly(t *testing.T) {
	d := newDirectory()
	s := testService(t, d)
	for path, want := range map[string]int{
		"/snponly.efi": 200, "/": 404, "/sub": 404, "/sub/secret": 404, "/..%2fsecret": 404, "/boot.ipxe?mac=x": 400, "/other": 404,
	} {
		if code, body := get(t, s, path, "198.51.100.101:1"); code != want || code == 200 && body != string(program) {
			t.Errorf("GET %s = %d, %d bytes, want %d", path, code, len(body), want)
		}
	}
	get(t, s, "/boot.ipxe?mac=52:54:00:12:34:56&uuid=12345678-9ABC-def0-0102-030405060708&serial=CZ%201&product=X&asset=$y%0a", "198.51.100.101:1")
	want := []Sighting{{MAC: testMAC, UUID: "12345678-9abc-def0-0102-030405060708", Serial: "CZ 1", Product: "X", Asset: "_y"}}
	if diff := cmp.Diff(want, d.seen, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
}

func FuzzScriptQuery(f *testing.F) {
	f.Add("mac=52:54:00:12:34:56&uuid=12345678-9abc-def0-0102-030405060708&serial=CZ&product=P&asset=")
	f.Add("mac=${x}&serial=%0asanboot")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		s, err := parseQuery(q)
		if err != nil {
			return
		}
		for _, w := range []string{s.Serial, s.Product, s.Asset} {
			if len(w) > maxText || plain(w) != w {
				t.Errorf("parseQuery(%q) lets %q through", query, w)
			}
		}
		body := script(Server{Reason: s.Serial, Addr: netip.MustParseAddr("198.51.100.101")}, s, netip.Addr{}, testConfig(nil, nil))
		if lines := strings.Count(body, "\n"); lines != strings.Count(scriptTail(testConfig(nil, nil)), "\n")+3 {
			t.Errorf("script for %q has %d lines:\n%s", query, lines, body)
		}
	})
}

func TestAllocate(t *testing.T) {
	pool := netcfg.Pool{First: netip.MustParseAddr("198.51.100.250"), Last: netip.MustParseAddr("198.51.101.3")}
	taken := map[netip.Addr]string{}
	for i := range pool.Size() {
		key := fmt.Sprint("server ", i)
		alone, _ := Allocate(pool, nil, key)
		if again, _ := Allocate(pool, nil, key); again != alone {
			t.Errorf("Allocate(%s) = %v, then %v", key, alone, again)
		}
		a, err := Allocate(pool, taken, key)
		if err != nil || !pool.Contains(a) || taken[a] != "" {
			t.Fatalf("Allocate(%s) = %v, %v; taken by %q", key, a, err, taken[a])
		}
		taken[a] = key
		if again, _ := Allocate(pool, taken, key); again != a {
			t.Errorf("Allocate(%s) = %v, recorded %v", key, again, a)
		}
	}
	if a, err := Allocate(pool, taken, "one more"); !errors.Is(err, ErrPoolFull) {
		t.Errorf("Allocate from a full pool = %v, %v", a, err)
	}
	if _, err := Allocate(netcfg.Pool{}, nil, "x"); !errors.Is(err, ErrPoolFull) {
		t.Errorf("Allocate from no pool: %v", err)
	}
	outside := map[netip.Addr]string{netip.MustParseAddr("203.0.113.1"): "x"}
	if a, _ := Allocate(pool, outside, "x"); !pool.Contains(a) {
		t.Errorf("Allocate after the pool moved = %v", a)
	}
}

func TestNewRefuses(t *testing.T) {
	good := testConfig(newDirectory(), slog.New(slog.DiscardHandler))
	for name, change := range map[string]func(*Config){
		"interface":   func(c *Config) { c.Interface = "" },
		"address":     func(c *Config) { c.Address = netip.MustParsePrefix("2001:db8::1/64") },
		"must be set": func(c *Config) { c.Directory = nil },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("New without %s: %v", name, err)
		}
	}
}
