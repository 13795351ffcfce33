// Package boot starts servers over the deployment network: it gives each its
// address, the boot program its firmware can take, and an iPXE script that
// attaches the server's OS volume by iSCSI.
//
// A Service listens on one interface and nowhere else: DHCP (RFC 2131, 4578),
// router solicitations (RFC 4861), TFTP (RFC 1350) and HTTP. Whatever way a
// server's firmware goes, it ends at http://ADDR/boot.ipxe:
//
//	iPXE                             → boot.ipxe
//	PXE, UEFI or BIOS  → TFTP, iPXE  → boot.ipxe
//	UEFI HTTP boot     → HTTP, iPXE  → boot.ipxe
//
// and the script tries again until the server is known and its volume ready. An
// operating system that asks DHCP gets the address and nothing to boot.
//
// The Service keeps no state that matters. Who a server is, whether it may boot and which
// address is its own says the Directory; Allocate finds it an address once. A
// server has one address. Known under two MAC addresses, it gets the same one
// for whichever port asked last: firmware tries its ports one after the other,
// and the second asks only after the first has failed.
//
// CHAP secrets go to the server's own address only, in the body of its script
// (iPXE takes them from nowhere else), never into a URL or a log.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"baystream/netcfg"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// A Server is what the Directory knows about the owner of a MAC address.
type Server struct {
	ID   string // empty: unknown
	Name string
	// Addr is the server's address on the deployment network, the same at each
	// call. Servers that are not known have one too.
	Addr netip.Addr
	// Lease is how long it may keep Addr unasked; 0 stands for Config.Lease.
	Lease time.Duration
	// Ready says that the Target can be attached; else Reason says what is
	// missing, in words for whoever looks at the server's screen.
	Ready  bool
	Reason string
	Target Target
}

// A Target is an OS volume as its server sees it.
type Target struct {
	IQN          string
	Portal       netip.AddrPort
	LUN          int
	InitiatorIQN string
	User, Secret string // CHAP; empty for none
}

// A Sighting is a server that showed up, known or not. Fields are empty where
// the firmware did not say.
type Sighting struct {
	MAC     net.HardwareAddr
	UUID    string // as dmidecode prints it, in lower case
	Arch    Arch
	Serial  string
	Product string
	Asset   string
}

// A Directory knows the servers. Its methods are called by many goroutines and
// for each request, also for requests that are repeated.
type Directory interface {
	// ByMAC returns the server with this port. One that nobody knows has no ID,
	// but an address and a reason. After an error the request gets no answer.
	ByMAC(ctx context.Context, mac net.HardwareAddr) (Server, error)
	// Seen tells of a server before ByMAC is asked about it.
	Seen(ctx context.Context, s Sighting)
}

// A Config says where a Service works.
type Config struct {
	// Interface is the deployment network's; it must have Address.
	Interface string
	Address   netip.Prefix
	// Router is given to the servers if valid. Deployment networks have none.
	Router netip.Addr
	// MTU in bytes that the servers shall use; 0 leaves it to them.
	MTU int
	// Lease is how long servers may keep their address unasked; 0 means a week.
	Lease time.Duration
	// Files has the boot programs: snponly.efi for UEFI, and undionly.kpxe if
	// BIOS servers shall boot too.
	Files     fs.FS
	Directory Directory
	Log       *slog.Logger
}

// ComplainEvery is how often the log speaks of requests that cannot be served:
// whoever sends many must not fill it.
var ComplainEvery = rate.Every(10 * time.Second)

const defaultLease = 7 * 24 * time.Hour

// A Service is the boot service of one deployment network.
type Service struct {
	cfg Config
	log *slog.Logger

	complaints *rate.Limiter // about requests that get no answer

	mu   sync.Mutex
	told map[string]string // MAC → what was logged last
}

// New returns a Service. It does not start it.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Interface == "":
		return nil, errors.New("boot: no interface: name that of the deployment network")
	case !cfg.Address.IsValid() || !cfg.Address.Addr().Is4():
		return nil, fmt.Errorf("boot: address %v of %s: use an IPv4 address with prefix length", cfg.Address, cfg.Interface)
	case cfg.Directory == nil || cfg.Files == nil || cfg.Log == nil:
		return nil, errors.New("boot: directory, files and log must be set")
	}
	if cfg.Lease == 0 {
		cfg.Lease = defaultLease
	}
	return &Service{cfg: cfg, log: cfg.Log.With("link", cfg.Interface), told: map[string]string{}, complaints: rate.NewLimiter(ComplainEvery, 5)}, nil
}

// ErrInterface says that the interface has gone, or no longer has the address.
var ErrInterface = errors.New("interface changed: start again when it is back")

// Run serves until ctx ends and then returns nil. It returns an error if it
// cannot listen, and ErrInterface when the interface is made anew below it.
// After it has returned, nothing is left and Run may be called again.
func (s *Service) Run(ctx context.Context) error {
	err := s.run(ctx)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("boot: link %s: %w", s.cfg.Interface, err)
}

func (s *Service) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// Sockets are opened here, in the caller's network namespace.
	ifi, err := net.InterfaceByName(s.cfg.Interface)
	if err != nil {
		return err
	}
	changed := netcfg.Watch(ctx)
	l, err := s.listen(ctx, ifi)
	if err != nil {
		return err
	}
	defer l.close()
	stop := context.AfterFunc(ctx, l.close)
	defer stop()

	g.Go(func() error { return wrap("dhcp", s.serveDHCP(ctx, l.dhcp)) })
	g.Go(func() error { return wrap("tftp", s.serveTFTP(ctx, l.tftp)) })
	g.Go(func() error { return wrap("http", s.serveHTTP(ctx, l.http)) })
	if l.icmp != nil {
		g.Go(func() error { return wrap("router advertisement", s.serveRA(l.icmp)) })
	}
	g.Go(func() error { return s.watch(ctx, ifi.Index, changed) })
	s.log.Info("boot service started", "address", s.cfg.Address)
	return g.Wait()
}

// watch returns an error when the interface is no longer the one that the
// sockets are bound to.
func (s *Service) watch(ctx context.Context, index int, changed <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, open := <-changed:
			if !open {
				return ctx.Err()
			}
		}
		ifi, err := net.InterfaceByName(s.cfg.Interface)
		if err != nil || ifi.Index != index {
			return ErrInterface
		}
		if addrs, err := ifi.Addrs(); err == nil && !hasAddr(addrs, s.cfg.Address.Addr()) {
			return ErrInterface
		}
	}
}

func hasAddr(addrs []net.Addr, want netip.Addr) bool {
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == want {
			return true
		}
	}
	return false
}

func wrap(part string, err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}

// base is the URL of the HTTP server.
func (c Config) base() string { return "http://" + c.Address.Addr().String() }

// hasFile says whether there is a boot program of this name.
func (c Config) hasFile(name string) bool {
	info, err := fs.Stat(c.Files, name)
	return err == nil && info.Mode().IsRegular()
}

// An Arch is a firmware's kind: the RFC 4578 client system architecture. The
// zero Arch stands for "did not say", so 0 (BIOS) is Arch 1 and so on.
type Arch int

// The kinds of firmware that we know how to start.
const (
	BIOS         Arch = 1 + 0
	UEFI         Arch = 1 + 7
	UEFIByteCode Arch = 1 + 9 // x86-64 too, by an erratum of RFC 4578
	UEFIHTTP     Arch = 1 + 16
)

func (a Arch) String() string {
	switch a {
	case 0:
		return ""
	case BIOS:
		return "bios"
	case UEFI, UEFIByteCode:
		return "uefi"
	case UEFIHTTP:
		return "uefi-http"
	}
	return fmt.Sprintf("arch-%d", int(a)-1)
}

// firmwareUUID decodes a UUID from SMBIOS or RFC 4578 option 97, where the
// first three fields are little-endian. It returns "" for one that is not set.
func firmwareUUID(b []byte) string {
	if len(b) != 16 {
		return ""
	}
	u := uuid.UUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(u[8:], b[8:])
	if u == uuid.Nil || u == uuid.Max {
		return ""
	}
	return u.String()
}
