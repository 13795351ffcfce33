package manager

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"baystream/qemu/bmc"
)

// A Module is the computer in a bay, as a manager sees it.
type Module interface {
	bmc.Machine
	Readings() []bmc.Reading
}

// A Bay is a place in the frame.
type Bay struct {
	Location string // "appliance bay 1"
	Number   int    // 1 for the first of its kind
	Model    string
	Serial   string // of what is in it; "": empty
	UUID     string
	Module   Module // nil: no computer, such as an interconnect module
	MACs     []string
}

// A Peer is the manager of a linked frame.
type Peer struct {
	Frame  string // serial number
	URL    string // https://169.254.0.2
	Client *http.Client
	User   string
	Pass   string
}

// A Role is what a user may do.
type Role string

// Roles. Those of an operator may switch power.
const (
	Administrator Role = "Administrator"
	Operator      Role = "Operator"
	ReadOnly      Role = "ReadOnly"
	peerRole      Role = "Manager" // of a linked frame: hears of this frame only
)

// Config says what a Manager is of.
type Config struct {
	Frame     string       // serial number
	Addresses []netip.Addr // for the certificate
	Bays      []Bay
	Log       *slog.Logger
}

// A Manager is one frame's.
type Manager struct {
	cfg    Config
	cert   tls.Certificate
	events *events
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	users    map[string]user
	sessions map[string]session // by token
	peers    []Peer
	bays     []Bay
}

type user struct {
	password [sha256.Size]byte
	role     Role
}

type session struct{ id, user string }

// New returns a manager without users, with a certificate of its own.
func New(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cert, err := selfSigned("frame-manager", cfg.Addresses)
	if err != nil {
		return nil, fmt.Errorf("manager of %s: %w", cfg.Frame, err)
	}
	m := &Manager{cfg: cfg, cert: cert, events: newEvents(), users: map[string]user{}, sessions: map[string]session{}, bays: cfg.Bays}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// SetBays replaces what is in the frame.
func (m *Manager) SetBays(bays []Bay) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bays = bays
}

// Certificate returns the manager's certificate in DER.
func (m *Manager) Certificate() []byte { return m.cert.Certificate[0] }

// Fingerprint returns the SHA-256 of the certificate in hexadecimal.
func (m *Manager) Fingerprint() string {
	sum := sha256.Sum256(m.Certificate())
	return hex.EncodeToString(sum[:])
}

// AddUser lets somebody in.
func (m *Manager) AddUser(name, password string, role Role) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users[name] = user{sha256.Sum256([]byte(password)), role}
}

// AddPeer links another frame's manager: requests for its resources are passed
// on, its events are passed here.
func (m *Manager) AddPeer(p Peer) {
	m.mu.Lock()
	m.peers = append(m.peers, p)
	m.mu.Unlock()
	m.wg.Go(func() { m.follow(p) })
}

// Link makes two managers known to each other. The client of each reaches the
// other one's address.
func Link(a, b *Manager, reachA, reachB Peer) {
	a.AddUser(reachA.User, reachA.Pass, peerRole)
	b.AddUser(reachB.User, reachB.Pass, peerRole)
	a.AddPeer(reachB)
	b.AddPeer(reachA)
}

// Serve answers on a listener, which it closes, until the manager is closed.
func (m *Manager) Serve(l net.Listener) {
	srv := &http.Server{
		Handler:           m.handler(),
		ReadHeaderTimeout: 30 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return m.ctx },
		ErrorLog:          slog.NewLogLogger(m.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{m.cert}, MinVersion: tls.VersionTLS12},
	}
	stop := context.AfterFunc(m.ctx, func() { srv.Close() })
	m.wg.Go(func() {
		defer stop()
		if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, io.EOF) {
			m.cfg.Log.Debug("manager: serve", "frame", m.cfg.Frame, "err", err)
		}
	})
}

// Close ends all connections.
func (m *Manager) Close() {
	m.cancel()
	m.wg.Wait()
}

// bay finds a bay by the id of its chassis.
func (m *Manager) bay(id string) (Bay, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.bays {
		if m.chassisID(b) == id {
			return b, true
		}
	}
	return Bay{}, false
}

// system finds a bay by the serial number of the computer in it.
func (m *Manager) system(id string) (Bay, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.bays {
		if b.Module != nil && b.Serial == id {
			return b, true
		}
	}
	return Bay{}, false
}

func (m *Manager) all() []Bay {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bays
}

// chassisID is the frame's serial number and the bay: VF0001-appliance-bay-1.
func (m *Manager) chassisID(b Bay) string {
	return m.cfg.Frame + "-" + strings.ReplaceAll(b.Location, " ", "-")
}

// peerOf returns the manager that a resource id belongs to, if it is another.
func (m *Manager) peerOf(id string) (Peer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if strings.HasPrefix(id, p.Frame) {
			return p, true
		}
	}
	return Peer{}, false
}

func (m *Manager) linked() []Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peers
}
