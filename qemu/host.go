package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const hostNIC tcpip.NICID = 1

// A Host is a machine on a Switch made of a user-space TCP/IP stack: how this
// process reaches the modules of a frame. IPv4 only.
type Host struct {
	addr  netip.Prefix
	stack *stack.Stack
	link  *channel.Endpoint
	port  *Port

	ctx    context.Context // ends with the host
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewHost attaches a machine with that address to a network. Its MAC address
// derives from the port's name.
func NewHost(s *Switch, cfg PortConfig, addr netip.Prefix) (*Host, error) {
	sum := sha256.Sum256([]byte(s.name + "/" + cfg.Name))
	mac := append(net.HardwareAddr{0x02}, sum[:5]...)
	h := &Host{
		addr: addr,
		link: channel.New(portQueue, 1500, tcpip.LinkAddress(mac)),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	if err := h.configure(); err != nil {
		return nil, fmt.Errorf("host %s on %s: %w", addr, s.name, err)
	}
	port, err := s.Attach(cfg, func(frame []byte) {
		h.believe(frame)
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(bytes.Clone(frame))})
		h.link.InjectInbound(0, pkt)
		pkt.DecRef()
	})
	if err != nil {
		return nil, err
	}
	h.port = port
	h.wg.Go(func() {
		for {
			pkt := h.link.ReadContext(h.ctx)
			if pkt == nil {
				return
			}
			port.Send(slices.Concat(pkt.AsSlices()...))
			pkt.DecRef()
		}
	})
	return h, nil
}

// believe forgets where an address was when somebody announces it: its network
// stack would ask there for seconds, where a kernel follows at once.
func (h *Host) believe(frame []byte) {
	eth := header.Ethernet(frame)
	if len(frame) < header.EthernetMinimumSize+header.ARPSize || eth.Type() != header.ARPProtocolNumber {
		return
	}
	a := header.ARP(frame[header.EthernetMinimumSize:])
	if a.IsValid() && bytes.Equal(a.ProtocolAddressSender(), a.ProtocolAddressTarget()) {
		_ = h.stack.RemoveNeighbor(hostNIC, ipv4.ProtocolNumber, tcpip.AddrFromSlice(a.ProtocolAddressSender())) // if it was known
	}
}

func (h *Host) configure() error {
	sack := tcpip.TCPSACKEnabled(true)
	if err := h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return errors.New(err.String())
	}
	if err := h.stack.CreateNIC(hostNIC, ethernet.New(h.link)); err != nil {
		return errors.New(err.String())
	}
	ip := tcpip.AddrFrom4(h.addr.Addr().As4())
	pa := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: ip, PrefixLen: h.addr.Bits()},
	}
	if err := h.stack.AddProtocolAddress(hostNIC, pa, stack.AddressProperties{}); err != nil {
		return errors.New(err.String())
	}
	h.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: hostNIC}})
	return nil
}

// Addr returns the host's address.
func (h *Host) Addr() netip.Prefix { return h.addr }

// Port returns the host's port on its network.
func (h *Host) Port() *Port { return h.port }

func fullAddr(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{Port: a.Port()}
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		f.NIC, f.Addr = hostNIC, tcpip.AddrFrom4(a.Addr().As4())
	}
	return f
}

// DialContext connects by "tcp" or "udp" to an address like 192.0.2.10:443 on
// the host's network; it fits http.Transport.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w; give an address of the frame's network, there are no names", address, err)
	}
	remote := fullAddr(to)
	switch network {
	case "tcp", "tcp4":
		return gonet.DialContextTCP(ctx, h.stack, remote, ipv4.ProtocolNumber)
	case "udp", "udp4":
		return gonet.DialUDP(h.stack, nil, &remote, ipv4.ProtocolNumber)
	}
	return nil, fmt.Errorf("dial %s %s: %w", network, address, net.UnknownNetworkError(network))
}

// ListenTCP accepts connections from the network at a port of the host.
func (h *Host) ListenTCP(port uint16) (net.Listener, error) {
	return gonet.ListenTCP(h.stack, tcpip.FullAddress{NIC: hostNIC, Port: port}, ipv4.ProtocolNumber)
}

// ListenUDP opens a UDP port of the host. It receives broadcasts, and may send
// to 255.255.255.255: enough for a DHCP server or client.
func (h *Host) ListenUDP(port uint16) (net.PacketConn, error) {
	var wq waiter.Queue
	ep, terr := h.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		return nil, fmt.Errorf("listen udp %d: %s", port, terr)
	}
	ep.SocketOptions().SetBroadcast(true)
	if terr := ep.Bind(tcpip.FullAddress{Port: port}); terr != nil {
		ep.Close()
		return nil, fmt.Errorf("listen udp %d: %s", port, terr)
	}
	return gonet.NewUDPConn(&wq, ep), nil
}

// Ping sends one ICMP echo and waits for its answer.
func (h *Host) Ping(ctx context.Context, to netip.Addr) error {
	var wq waiter.Queue
	ep, terr := h.stack.NewEndpoint(icmp.ProtocolNumber4, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		return fmt.Errorf("ping %s: %s", to, terr)
	}
	defer ep.Close()
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr := ep.Connect(fullAddr(netip.AddrPortFrom(to, 0))); terr != nil {
		return fmt.Errorf("ping %s: %s", to, terr)
	}
	echo := make(header.ICMPv4, header.ICMPv4MinimumSize+8)
	echo.SetType(header.ICMPv4Echo)
	if _, terr := ep.Write(bytes.NewReader(echo), tcpip.WriteOptions{}); terr != nil {
		return fmt.Errorf("ping %s: %s", to, terr)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("ping %s: %w", to, ctx.Err())
	case <-readable:
	}
	if _, terr := ep.Read(io.Discard, tcpip.ReadOptions{}); terr != nil {
		return fmt.Errorf("ping %s: %s", to, terr)
	}
	return nil
}

// Forward listens on a random port of 127.0.0.1 and passes each connection on
// to an address on the host's network. It returns the local address, and ends
// with the host.
func (h *Host) Forward(to netip.AddrPort) (local string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("forward to %s: %w", to, err)
	}
	stop := context.AfterFunc(h.ctx, func() { l.Close() })
	h.wg.Go(func() {
		defer stop()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { h.forward(conn, to) })
		}
	})
	return l.Addr().String(), nil
}

func (h *Host) forward(near net.Conn, to netip.AddrPort) {
	defer near.Close()
	far, err := h.DialContext(h.ctx, "tcp", to.String())
	if err != nil {
		return // the peer sees its connection close
	}
	defer far.Close()
	stop := context.AfterFunc(h.ctx, func() { near.Close(); far.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(far, near)
		far.(*gonet.TCPConn).CloseWrite()
	})
	wg.Go(func() {
		io.Copy(near, far)
		near.(*net.TCPConn).CloseWrite()
	})
	wg.Wait()
}

// Close takes the host off the network and ends its connections.
func (h *Host) Close() {
	h.cancel()
	h.port.Close()
	h.wg.Wait()
	h.stack.Close()
	h.link.Close()
}
