package boot

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
)

const (
	maxDHCPRequests = 64              // at work at once; more are repeated by their senders
	answerTimeout   = 5 * time.Second // for the Directory
	maxInfinite     = 0xfffffffe * time.Second
)

// noPXEDHCP is option 175 (iPXE's own) with its 176, "no-pxedhcp": iPXE does
// not wait for a ProxyDHCP server. https://ipxe.org/howto/dhcpd
var noPXEDHCP = []byte{0xb0, 1, 1}

// Names of boot programs and of the script.
const (
	uefiProgram = "snponly.efi"
	biosProgram = "undionly.kpxe"
	scriptName  = "boot.ipxe"
)

// serveDHCP answers requests until conn is closed.
func (s *Service) serveDHCP(ctx context.Context, conn net.PacketConn) error {
	p := ipv4.NewPacketConn(conn)
	var g errgroup.Group
	g.SetLimit(maxDHCPRequests)
	defer g.Wait()
	buf := make([]byte, 4096)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		req, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			s.log.Debug("dhcp request unreadable", "err", err)
			continue
		}
		g.TryGo(func() error {
			if ans := s.answerDHCP(ctx, req); ans != nil {
				s.sendDHCP(p, ans)
			}
			return nil
		})
	}
}

// answerDHCP looks the sender up and makes the answer, or nil for none.
func (s *Service) answerDHCP(ctx context.Context, req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	if !forUs(req, s.cfg) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	seen := sighting(req)
	s.cfg.Directory.Seen(ctx, seen)
	srv, err := s.cfg.Directory.ByMAC(ctx, seen.MAC)
	if err != nil {
		if s.complaints.Allow() {
			s.log.Warn("dhcp request without answer", "mac", seen.MAC.String(), "err", err)
		}
		return nil
	}
	if !s.cfg.Address.Contains(srv.Addr) || srv.Addr == s.cfg.Address.Addr() {
		s.log.Warn("dhcp request without answer: address outside the network", "mac", seen.MAC.String(), "server", srv.Name, "address", srv.Addr)
		return nil
	}
	ans := reply(req, srv, s.cfg)
	if ans != nil {
		s.log.Debug("dhcp answer", "mac", seen.MAC.String(), "server", srv.Name, "type", ans.MessageType(), "address", srv.Addr, "file", ans.BootFileName)
		if req.MessageType() == dhcpv4.MessageTypeDiscover {
			s.log.Info("server asks for its address", "mac", seen.MAC.String(), "server", srv.Name, "address", srv.Addr, "arch", seen.Arch, "file", ans.BootFileName)
		}
	}
	return ans
}

// sendDHCP sends to the client's address if it has one, else to all: firmware
// takes both, and a client without address hears nothing else.
func (s *Service) sendDHCP(p *ipv4.PacketConn, ans *dhcpv4.DHCPv4) {
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
	if ip := ans.ClientIPAddr.To4(); ip != nil && !ip.IsUnspecified() && ans.MessageType() == dhcpv4.MessageTypeAck {
		to.IP = ip
	}
	from := &ipv4.ControlMessage{Src: s.cfg.Address.Addr().AsSlice()}
	if _, err := p.WriteTo(ans.ToBytes(), from, to); err != nil {
		s.log.Warn("dhcp answer not sent", "mac", ans.ClientHWAddr.String(), "err", err)
	}
}

// forUs says whether req is a question to us: from this network, not through a
// relay agent, and not for another server.
func forUs(req *dhcpv4.DHCPv4, cfg Config) bool {
	relayed := req.GatewayIPAddr != nil && !req.GatewayIPAddr.IsUnspecified() ||
		req.HopCount > 0 || req.Options.Has(dhcpv4.OptionRelayAgentInformation)
	if req.OpCode != dhcpv4.OpcodeBootRequest || relayed || len(req.ClientHWAddr) != 6 || req.HWType != iana.HWTypeEthernet {
		return false
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform:
	default: // nothing is lent, so nothing can be declined or released
		return false
	}
	id := req.ServerIdentifier()
	return id == nil || id.Equal(cfg.Address.Addr().AsSlice())
}

// sighting takes out of req what it tells about its sender.
func sighting(req *dhcpv4.DHCPv4) Sighting {
	s := Sighting{MAC: req.ClientHWAddr, Arch: archOf(req)}
	if id := req.Options.Get(dhcpv4.OptionClientMachineIdentifier); len(id) == 17 && id[0] == 0 {
		s.UUID = firmwareUUID(id[1:])
	}
	return s
}

func archOf(req *dhcpv4.DHCPv4) Arch {
	if b := req.Options.Get(dhcpv4.OptionClientSystemArchitectureType); len(b) >= 2 {
		return Arch(binary.BigEndian.Uint16(b)) + 1
	}
	return 0
}

// isIPXE looks at the user class, which iPXE sends without RFC 3004's lengths.
func isIPXE(req *dhcpv4.DHCPv4) bool {
	return bytes.Contains(req.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE"))
}

// reply makes the answer to req for srv: an offer, an acknowledgement, a
// refusal, or nil if there is nothing to say. It does no I/O.
func reply(req *dhcpv4.DHCPv4, srv Server, cfg Config) *dhcpv4.DHCPv4 {
	ans, err := dhcpv4.NewReplyFromRequest(req)
	if err != nil {
		return nil
	}
	self := net.IP(cfg.Address.Addr().AsSlice())
	ans.UpdateOption(dhcpv4.OptServerIdentifier(self))
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		ans.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer))
	case dhcpv4.MessageTypeRequest:
		if wanted := wantedAddr(req); wanted != srv.Addr {
			ans.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
			ans.UpdateOption(dhcpv4.OptMessage("your address here is " + srv.Addr.String()))
			ans.SetBroadcast()
			return ans
		}
		ans.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeAck))
		ans.ClientIPAddr = req.ClientIPAddr
	case dhcpv4.MessageTypeInform:
		ans.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeAck))
		ans.ClientIPAddr = req.ClientIPAddr
	default:
		return nil
	}
	if req.MessageType() != dhcpv4.MessageTypeInform { // RFC 2131 section 4.3.5
		ans.YourIPAddr = srv.Addr.AsSlice()
		lease := min(cmp.Or(srv.Lease, cfg.Lease), maxInfinite)
		ans.UpdateOption(dhcpv4.OptIPAddressLeaseTime(lease))
		ans.UpdateOption(dhcpv4.OptRenewTimeValue(lease / 2))
		ans.UpdateOption(dhcpv4.OptRebindingTimeValue(lease / 8 * 7))
	}
	addNetwork(ans, cfg)
	addBoot(ans, req, cfg)
	return ans
}

// wantedAddr is the address that a request is about: the offered one, one from
// an earlier life, or the one in use. RFC 2131 section 4.3.2.
func wantedAddr(req *dhcpv4.DHCPv4) netip.Addr {
	ip := req.RequestedIPAddress()
	if ip == nil {
		ip = req.ClientIPAddr
	}
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

func addNetwork(ans *dhcpv4.DHCPv4, cfg Config) {
	mask := net.CIDRMask(cfg.Address.Bits(), 32)
	last := cfg.Address.Masked().Addr().As4()
	for i := range last {
		last[i] |= ^mask[i]
	}
	ans.UpdateOption(dhcpv4.OptSubnetMask(mask))
	ans.UpdateOption(dhcpv4.OptBroadcastAddress(last[:]))
	if cfg.Router.IsValid() {
		ans.UpdateOption(dhcpv4.OptRouter(cfg.Router.AsSlice()))
	}
	if cfg.MTU != 0 {
		ans.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(cfg.MTU))))
	}
}

// addBoot names the file for the firmware that asks. There is no option 60 for
// PXE: EDK2 refuses one without option 43 (PXE-E16), and needs neither.
func addBoot(ans, req *dhcpv4.DHCPv4, cfg Config) {
	self := net.IP(cfg.Address.Addr().AsSlice())
	setFile := func(name string) {
		ans.ServerIPAddr = self
		ans.BootFileName = name
		ans.UpdateOption(dhcpv4.OptBootFileName(name))
	}
	class, arch := req.ClassIdentifier(), archOf(req)
	switch {
	case isIPXE(req):
		setFile(cfg.base() + "/" + scriptName)
		ans.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), noPXEDHCP))
	case strings.HasPrefix(class, "HTTPClient"):
		if arch == UEFIHTTP && cfg.hasFile(uefiProgram) {
			setFile(cfg.base() + "/" + uefiProgram)
			ans.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient")) // else EDK2 drops the offer
		}
	case strings.HasPrefix(class, "PXEClient"):
		program := map[Arch]string{BIOS: biosProgram, UEFI: uefiProgram, UEFIByteCode: uefiProgram}[arch]
		if program != "" && cfg.hasFile(program) {
			setFile(program)
			ans.UpdateOption(dhcpv4.OptTFTPServerName(self.String()))
		}
	}
}
