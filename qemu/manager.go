package qemu

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"baystream/qemu/manager"
)

const (
	httpsPort     = 443
	peerPatience  = 2 * time.Second // for a linked frame's manager to answer
	managerPort   = "manager"       // its port on the frame link
	managerPrefix = "bay-"          // of a module's user name
)

// controlled is a frame's manager and where it stands: on the frame link, on
// the ring if there are more frames, and on 127.0.0.1 for this machine.
type controlled struct {
	*manager.Manager
	hosts     []*Host
	url       string // on this machine
	passwords map[string]string
}

func (f *Frame) startManager() error {
	m, err := manager.New(manager.Config{
		Frame: f.Serial, Log: f.rig.cfg.Log,
		Addresses: []netip.Addr{managerAddress(f.Number).Addr(), ringAddress(f.Number).Addr(), netip.AddrFrom4([4]byte{127, 0, 0, 1})},
	})
	if err != nil {
		return err
	}
	f.manager = &controlled{Manager: m, passwords: map[string]string{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	f.manager.url = "https://" + l.Addr().String()
	m.Serve(l)
	if err := f.manager.join(f.link, managerPort, managerAddress(f.Number)); err != nil {
		return err
	}
	password := rand.Text()
	m.AddUser(UserName, password, manager.Administrator)
	if err := os.WriteFile(f.file("manager-password"), []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate()})
	return os.WriteFile(f.file("manager.pem"), cert, 0o644)
}

// join makes a manager answer on a network.
func (c *controlled) join(network *Switch, port string, addr netip.Prefix) error {
	h, err := NewHost(network, PortConfig{Name: port, Access: nativeVLAN}, addr)
	if err != nil {
		return err
	}
	c.hosts = append(c.hosts, h)
	l, err := h.ListenTCP(httpsPort)
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	c.Serve(l)
	return nil
}

func (c *controlled) close() {
	c.Manager.Close()
	for _, h := range c.hosts {
		h.Close()
	}
}

// ManagerAccess returns how to reach the frame's manager from this machine.
func (f *Frame) ManagerAccess() ManagerState {
	if f.manager == nil { // the frame did not come up
		return ManagerState{}
	}
	return ManagerState{URL: f.manager.url, CertFile: f.file("manager.pem"), User: UserName, PasswordFile: f.file("manager-password")}
}

// managedBays is what the manager shows of the frame.
func (f *Frame) managedBays() (bays []manager.Bay) {
	for _, b := range f.Bays {
		bays = append(bays, manager.Bay{Location: b.Identity.Location, Number: b.Number, Model: productName,
			Serial: b.Identity.Serial, UUID: b.Identity.UUID, Module: module{b.VM}, MACs: b.MACs})
	}
	for _, n := range interconnects {
		bays = append(bays, manager.Bay{Location: interconnectBay(n), Number: n, Model: "Virtual interconnect", Serial: fmt.Sprintf("%sI%02d", f.Serial, n)})
	}
	return bays
}

// interconnects are the bays of interconnect modules.
var interconnects = []int{3, 6}

func interconnectBay(n int) string { return fmt.Sprintf("interconnect bay %d", n) }

// A Document is what a module's BMC tells it of its frame, as FRU device 1: a
// channel that only the frame can speak on, so what the module knows the
// manager by. The password is the module's own.
type Document struct {
	Frame   string          `json:"frame"`
	Bay     string          `json:"bay"`
	Address netip.Prefix    `json:"address"` // of the module on the frame link
	Manager DocumentManager `json:"manager"`
	Bays    []DocumentBay   `json:"bays"`
}

// A DocumentManager is how a module reaches the manager.
type DocumentManager struct {
	URL      string `json:"url"`
	SHA256   string `json:"certificateSha256"` // of the DER, hexadecimal
	User     string `json:"user"`
	Password string `json:"password"`
}

// A DocumentBay is one line of the frame's map.
type DocumentBay struct {
	Bay  string `json:"bay"`
	Kind string `json:"kind"`
}

// document returns what makes the document of the module in a bay.
func (f *Frame) document(p place) func() []byte {
	d := Document{Frame: f.Serial, Bay: p.location(), Address: p.linkAddress(), Manager: DocumentManager{
		URL: "https://" + managerAddress(f.Number).Addr().String(), SHA256: f.manager.Fingerprint(),
		User: fmt.Sprintf("%s%s-%d", managerPrefix, p.kind, p.bay), Password: rand.Text(),
	}}
	f.manager.AddUser(d.Manager.User, d.Manager.Password, manager.Operator)
	return func() []byte {
		d := d
		for _, b := range f.Bays {
			d.Bays = append(d.Bays, DocumentBay{b.Identity.Location, string(b.Kind)})
		}
		for _, n := range interconnects {
			d.Bays = append(d.Bays, DocumentBay{interconnectBay(n), "interconnect"})
		}
		b, err := json.Marshal(d)
		if err != nil {
			f.rig.cfg.Log.Error("frame document", "err", err)
		}
		return b
	}
}

// linkManagers joins the managers of all frames by the ring, and makes them
// known to each other.
func (r *rig) linkManagers() error {
	if len(r.frames) < 2 {
		return nil
	}
	ring := r.network(Ring)
	for _, f := range r.frames {
		if err := f.manager.join(ring, fmt.Sprintf("frame%d", f.Number), ringAddress(f.Number)); err != nil {
			return err
		}
	}
	for i, a := range r.frames {
		for _, b := range r.frames[:i] {
			password := rand.Text()
			manager.Link(a.manager.Manager, b.manager.Manager, a.peerFor(b, password), b.peerFor(a, password))
		}
	}
	return nil
}

// peerFor is how another frame's manager reaches this one: by the ring.
func (f *Frame) peerFor(other *Frame, password string) manager.Peer {
	cert, err := x509.ParseCertificate(f.manager.Certificate())
	if err != nil {
		panic(err) // we made it
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	ringHost := other.manager.hosts[len(other.manager.hosts)-1]
	return manager.Peer{
		Frame: f.Serial, URL: "https://" + ringAddress(f.Number).Addr().String(),
		User: "manager-" + other.Serial, Pass: password,
		Client: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, peerPatience)
				defer cancel()
				return ringHost.DialContext(ctx, network, address)
			},
			TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: peerPatience, ResponseHeaderTimeout: peerPatience, IdleConnTimeout: time.Minute,
		}},
	}
}
