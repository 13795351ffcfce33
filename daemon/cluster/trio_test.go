package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// rig is a domain of members in this process. They speak mutual TLS over
// loopback, and every byte passes the rig, which can cut any direction.
type rig struct {
	t         *testing.T
	authority *pki.Authority
	members   map[string]*member

	mu  sync.Mutex
	cut map[[2]string]bool // from, to
}

// member is one module: its node may stop and start, its key stays.
type member struct {
	rig    *rig
	name   string
	dir    string
	module *pki.Module
	node   *Node
	server *http.Server
	url    string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	a, err := pki.Open(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, authority: a, members: map[string]*member{}, cut: map[[2]string]bool{}}
}

// module makes a blank module of that name with a certificate of the domain.
func (r *rig) module(name string) *member {
	r.t.Helper()
	m := &member{rig: r, name: name, dir: r.t.TempDir()}
	var err error
	if m.module, err = pki.OpenModule(r.t.TempDir()); err != nil {
		r.t.Fatal(err)
	}
	req, err := m.module.Request()
	if err != nil {
		r.t.Fatal(err)
	}
	cert, err := r.authority.Sign(req, pki.Identity{Domain: "d", Frame: "f", Bay: "b", Serial: name})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := m.module.Install(cert, r.authority.PEM()); err != nil {
		r.t.Fatal(err)
	}
	r.members[name] = m
	r.t.Cleanup(m.stop)
	return m
}

func (m *member) files() Files {
	cert, key, cas := m.module.Files()
	return Files{Cert: cert, Key: key, CAs: cas}
}

func (m *member) config() Config {
	log := slog.New(slog.NewTextHandler(m.rig.t.Output(), &slog.HandlerOptions{Level: slog.LevelError})).With("member", m.name)
	return Config{Dir: m.dir, Name: m.name, Log: log, TLS: m.files(), URL: m.url}
}

// listen opens a new address for the member; start serves it.
func (m *member) listen() net.Listener {
	m.rig.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.rig.t.Fatal(err)
	}
	m.url = "https://" + ln.Addr().String()
	return ln
}

func (m *member) serve(ln net.Listener) {
	mux := http.NewServeMux()
	for _, path := range PeerPaths() {
		mux.Handle(path, m.node.PeerHandler())
	}
	mux.Handle(PingPath, m.node.Pong())
	m.server = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	config := m.module.ServerTLS()
	config.NextProtos = []string{"http/1.1"}
	go func() { _ = m.server.Serve(&gate{Listener: ln, to: m, config: config}) }()
}

// start starts the member on a new address.
func (m *member) start(join []Peer) {
	m.rig.t.Helper()
	ln := m.listen()
	m.startOn(ln, join)
}

func (m *member) startOn(ln net.Listener, join []Peer) {
	m.rig.t.Helper()
	cfg := m.config()
	cfg.Join = join
	if err := m.try(cfg, ln); err != nil {
		m.rig.t.Fatal(err)
	}
}

// try starts the member; its peers can speak to it before it is ready.
func (m *member) try(cfg Config, ln net.Listener) error {
	ctx, cancel := context.WithTimeout(m.rig.t.Context(), time.Minute)
	defer cancel()
	n, err := Open(cfg)
	if err != nil {
		ln.Close()
		return err
	}
	m.node = n
	m.serve(ln)
	if err := n.WaitReady(ctx); err != nil {
		m.stop()
		return err
	}
	return nil
}

func (m *member) stop() {
	if m.server != nil {
		m.server.Close()
		m.server = nil
	}
	if m.node != nil {
		if err := m.node.Close(); err != nil {
			m.rig.t.Error(err)
		}
		m.node = nil
	}
}

// gate lets through what the rig allows. It looks at who calls after the
// handshake, so that a connection of either direction can be cut by itself.
type gate struct {
	net.Listener
	to     *member
	config *tls.Config
}

func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &passage{Conn: tls.Server(c, g.config), gate: g}, nil
}

// passage is a connection that breaks where it is cut.
type passage struct {
	net.Conn
	gate *gate
	from string
}

func (p *passage) allowed() error {
	if p.from == "" {
		conn := p.Conn.(*tls.Conn)
		if err := conn.Handshake(); err != nil {
			return err
		}
		id, err := pki.PeerIdentity(conn.ConnectionState())
		if err != nil {
			return err
		}
		p.from = id.Serial
	}
	r := p.gate.to.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut[[2]string{p.from, p.gate.to.name}] {
		return fmt.Errorf("cut from %s", p.from)
	}
	return nil
}

func (p *passage) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if e := p.allowed(); e != nil {
		p.Conn.Close()
		return 0, e
	}
	return n, err
}

func (p *passage) Write(b []byte) (int, error) {
	if e := p.allowed(); e != nil {
		p.Conn.Close()
		return 0, e
	}
	return p.Conn.Write(b)
}

// isolate cuts the named member off from all others; heal ends every cut.
func (r *rig) isolate(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other := range r.members {
		if other != name {
			r.cut[[2]string{name, other}], r.cut[[2]string{other, name}] = true, true
		}
	}
}

func (r *rig) heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.cut)
}

// join adds blank member m by way of via, with a vote.
func (r *rig) join(via, m *member) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	ln := m.listen()
	peers, err := via.node.Add(ctx, Peer{Name: m.name, URL: m.url})
	if err != nil {
		r.t.Fatal(err)
	}
	m.startOn(ln, peers)
	if err := via.node.Promote(ctx, m.name); err != nil {
		r.t.Fatal(err)
	}
}

// trio is a domain of three voters, grown from one.
func trio(t *testing.T) (r *rig, a, b, w *member) {
	t.Helper()
	r = newRig(t)
	a, b, w = r.module("a"), r.module("b"), r.module("w")
	a.start(nil)
	r.join(a, b)
	r.join(a, w)
	return r, a, b, w
}

func voters(t *testing.T, n *Node) map[string]bool {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range s.Members {
		out[m.Name] = m.Voter
	}
	return out
}

// One module in the development configuration becomes a domain of three votes
// while it is read from and written to without a pause.
func TestOneMemberGrowsToThreeUnderLoad(t *testing.T) {
	r := newRig(t)
	a, b, w := r.module("a"), r.module("b"), r.module("w")
	cfg := a.config() // no address: alone
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.node = n
	first, err := scriptTable(n).Create(t.Context(), named("before"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	written := 0
	var longest time.Duration
	load.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			begin := time.Now()
			if _, err := scriptTable(n).Get(ctx, first.ID); err != nil && ctx.Err() == nil {
				t.Errorf("read %d: %v", i, err)
			}
			longest = max(longest, time.Since(begin))
			if _, err := scriptTable(n).Create(ctx, named(fmt.Sprint("load ", i))); err == nil {
				written++
			} else if ctx.Err() == nil {
				t.Errorf("write %d: %v", i, err)
			}
		}
	})
	ln := a.listen()
	a.serve(ln)
	if err := n.Advertise(t.Context(), a.url); err != nil {
		t.Fatal(err)
	}
	r.join(a, b)
	r.join(a, w)
	cancel()
	load.Wait()
	t.Logf("%d writes meanwhile, the longest read took %v", written, longest)
	for _, m := range []*member{a, b, w} {
		if v := voters(t, m.node); len(v) != 3 || !v["a"] || !v["b"] || !v["w"] {
			t.Errorf("%s sees the votes %v, want three", m.name, v)
		}
		all, err := scriptTable(m.node).List(t.Context())
		if err != nil || len(all) < written+1 {
			t.Errorf("%s has %d resources, %v; want %d", m.name, len(all), err, written+1)
		}
	}
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func write(n *Node, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := scriptTable(n).Create(ctx, named(name))
	if domain.KindOf(err) == domain.Conflict && err != nil {
		return nil // an earlier try went through
	}
	return err
}

func TestMembersComeAndGo(t *testing.T) {
	r, a, b, w := trio(t)
	n := 0
	works := func(t *testing.T, on ...*member) {
		t.Helper()
		for _, m := range on {
			n++
			eventually(t, "write on "+m.name, func() error { return write(m.node, fmt.Sprint("w", n)) })
		}
	}
	count := func(t *testing.T, m *member) {
		t.Helper()
		eventually(t, "read on "+m.name, func() error {
			all, err := scriptTable(m.node).List(t.Context())
			if err == nil && len(all) != n {
				err = fmt.Errorf("%d resources, want %d", len(all), n)
			}
			return err
		})
	}
	works(t, a, b, w)

	t.Run("any one may be away", func(t *testing.T) {
		for _, m := range []*member{a, b, w} {
			m.stop()
			for _, o := range []*member{a, b, w} {
				if o != m {
					works(t, o)
				}
			}
			m.start(nil) // on a new address
			if err := m.node.Advertise(t.Context(), m.url); err != nil {
				t.Fatal(err)
			}
			works(t, m)
		}
		for _, m := range []*member{a, b, w} {
			count(t, m)
		}
	})

	t.Run("a blank module replaces a dead one", func(t *testing.T) {
		b.stop()
		b2 := r.module("b2")
		if err := a.node.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		r.join(a, b2)
		works(t, b2, a, w)
		if v := voters(t, a.node); len(v) != 3 || !v["b2"] {
			t.Errorf("votes %v, want a, b2 and w", v)
		}
		if err := a.node.Remove(t.Context(), "b"); err != nil {
			t.Errorf("a member that is gone is removed again: %v", err)
		}
		b = b2
	})

	t.Run("a damaged member is rebuilt from the others", func(t *testing.T) {
		for _, c := range []struct {
			file   string
			damage func(*testing.T, string)
		}{{"snap/db", damage}, {"wal", damage}, {"wal", breakOff}} {
			file := c.file
			w.stop()
			c.damage(t, filepath.Join(w.dir, "member", "member", file))
			works(t, a, b)
			ln := w.listen()
			err := w.try(w.config(), ln)
			damaged, ok := err.(*DamagedError)
			if !ok {
				t.Fatalf("start after damage to %s = %v, want a DamagedError", file, err)
			}
			t.Log(err)
			if err := damaged.SetAside(); err != nil {
				t.Fatal(err)
			}
			r.join(a, w)
			works(t, w)
			count(t, w)
		}
	})

	t.Run("a member that is cut off answers nothing rather than something old", func(t *testing.T) {
		r.isolate("b2")
		works(t, a, w)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		all, err := scriptTable(b.node).List(ctx)
		if err == nil {
			t.Errorf("cut off it lists %d resources, want an error", len(all))
		}
		wantKind(t, "List", err, domain.Unavailable)
		r.heal()
		works(t, b)
		count(t, b)
	})

	t.Run("the votes say who is away", func(t *testing.T) {
		describe := func(name string) (string, string) { return "module " + name, domain.RoleOfAppliance }
		report := func() domain.VotesReport {
			return Votes(a.node.Voters(t.Context(), a.module.ClientTLS(nil), describe))
		}
		if r := report(); r.Healthy != 3 || r.Status != domain.StatusOK {
			t.Errorf("votes of three that run: %+v", r)
		}
		r.isolate("w")
		eventually(t, "w counted as lost", func() error {
			if r := report(); r.Healthy != 2 || !strings.Contains(r.Verdict, "module w is lost") {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		r.heal()
		works(t, w)
	})

	t.Run("the lead is handed over", func(t *testing.T) {
		for _, m := range []*member{a, b, w} {
			eventually(t, "lead at w", func() error {
				if _, err := m.node.Lead(t.Context(), "w"); err != nil {
					return err
				}
				s, err := a.node.Status(t.Context())
				if err == nil && s.Leader != "w" && m == w {
					err = fmt.Errorf("leader %q", s.Leader)
				}
				return err
			})
		}
	})
}

// breakOff makes the newest log in a folder end in its middle, as if the rest had
// never been written.
func breakOff(t *testing.T, dir string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(all) == 0 {
		t.Fatal("no log files", err)
	}
	file := all[len(all)-1]
	fi, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(file, 2048), os.Truncate(file, fi.Size())); err != nil {
		t.Fatal(err)
	}
}

// damage overwrites the middle of a file, or of the newest file in a folder.
func damage(t *testing.T, path string) {
	t.Helper()
	if fi, err := os.Stat(path); err != nil {
		t.Fatal(err)
	} else if fi.IsDir() {
		all, err := filepath.Glob(filepath.Join(path, "*.wal"))
		if err != nil || len(all) == 0 {
			t.Fatal("no log files", err)
		}
		path = all[len(all)-1]
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	junk := make([]byte, 512)
	for i := range junk {
		junk[i] = 0xa5
	}
	for off := int64(1024); off < 64<<10; off += 8192 {
		if _, err := f.WriteAt(junk, off); err != nil {
			t.Fatal(err)
		}
	}
}
