package member

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// machine is a module with its disk. It may be off, unclaimed, or a member.
type machine struct {
	t     *testing.T
	self  domain.Module
	key   *pki.Module
	state string // directory
	etcd  string
	tls   string

	node    *cluster.Node
	claims  *Claims // of the founder
	office  *Office
	free    error // why it cannot be claimed
	recover bool  // it goes on without the others
	stop    func()
	tickets <-chan Ticket
}

func blank(t *testing.T, serial, frame string) *machine {
	t.Helper()
	m := &machine{t: t, state: t.TempDir(), etcd: t.TempDir(), tls: t.TempDir(), stop: func() {}}
	var err error
	if m.key, err = pki.OpenModule(m.tls); err != nil {
		t.Fatal(err)
	}
	m.self = domain.Module{ID: serial, Frame: frame, Bay: "appliance bay 1", Fingerprint: m.key.Fingerprint()}
	t.Cleanup(func() { m.off() })
	return m
}

func (m *machine) off() {
	m.stop()
	m.stop = func() {}
	if m.node != nil {
		if err := m.node.Close(); err != nil {
			m.t.Error(err)
		}
		m.node = nil
	}
}

// port opens the address that the machine had, or a new one.
func (m *machine) port() net.Listener {
	m.t.Helper()
	addr := m.self.Address
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.self.Address = ln.Addr().String()
	return ln
}

func (m *machine) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelError})).With("module", m.self.ID)
}

// unclaimed powers the machine on; it waits for a claim.
func (m *machine) unclaimed() {
	m.t.Helper()
	ln := m.port()
	u := &Unclaimed{Module: m.key, Dir: m.state, Self: func() domain.Module { return m.self }, Free: func(context.Context) error { return m.free }, Log: m.log()}
	m.tickets = u.Joined()
	config, err := m.key.UnclaimedTLS()
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, ln, config, u.Handler(), m.log()); err != nil {
			m.t.Error(err)
		}
	})
	m.stop = func() { cancel(); wg.Wait() }
}

// member powers the machine on as its state says: this is what the daemon does.
func (m *machine) member() error {
	m.t.Helper()
	ln := m.port()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	var err error
	m.node, err = m.boot().Member(ctx, func(n *cluster.Node) error {
		m.node = n
		m.serve(ln, nil)
		return nil
	})
	if m.node == nil {
		err = errors.Join(err, ln.Close())
	}
	return err
}

func (m *machine) boot() Boot {
	return Boot{Dir: m.state, Etcd: m.etcd, Self: m.self, Key: m.key, Log: m.log(), Recover: m.recover}
}

func (m *machine) serve(ln net.Listener, authority *pki.Authority) {
	s := &Service{Module: m.key, Node: m.node, Records: NewRecords(m.node.Client()), Self: func() domain.Module { return m.self }, Authority: func() *pki.Authority { return authority }}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, ln, m.key.ServerTLS(), s.Handler(), m.log()); err != nil {
			m.t.Error(err)
		}
	})
	m.stop = func() { cancel(); wg.Wait() }
}

// found makes the machine the first of a domain.
func (m *machine) found(name string) {
	m.t.Helper()
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	authority, err := pki.Open(m.tls, name)
	must(err)
	m.node, err = m.boot().Alone(m.t.Context(), authority)
	must(err)
	first := m.node
	ln := m.port()
	m.claims = &Claims{Records: NewRecords(m.node.Client()), Members: m.node, Authority: authority, Self: m.key, Finder: NewFinder(m.log()), Log: m.log()}
	m.office = &Office{
		Claims: m.claims, Node: m.node, Self: func() domain.Module { return m.self }, Dir: m.state,
		Listen: sync.OnceValue(func() error { m.serve(ln, authority); return nil }),
	}
	for range 2 { // as after a crash
		d, err := m.office.CreateDomain(m.t.Context(), name)
		must(err)
		if d.ID != DomainID(authority) || d.Name != name || d.Founder != m.self.ID || m.node != first {
			m.t.Errorf("domain %+v, want one founded by %s without a restart", d, m.self.ID)
		}
	}
	m.self.Role = domain.RoleOfAppliance
}

func (m *machine) claim(c *machine, role, replaces string) error {
	m.t.Helper()
	_, _, err := m.claims.Claim(m.t.Context(), domain.ClaimRequest{Address: c.self.Address, Fingerprint: c.self.Fingerprint, Role: role, Replaces: replaces}, "administrator")
	return err
}

// taken lets a claimed machine start anew as a member and waits for its vote.
func (m *machine) taken(c *machine) {
	m.t.Helper()
	select {
	case <-c.tickets:
	case <-time.After(time.Minute):
		m.t.Fatal("no ticket")
	}
	c.off()
	if err := c.member(); err != nil {
		m.t.Fatal(err)
	}
	m.advance(c.self.ID, domain.ModuleMember)
}

func (m *machine) advance(id, want string) {
	m.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := m.claims.Advance(m.t.Context())
		rec, _, gerr := m.claims.Records.Modules.Get(m.t.Context(), id)
		if gerr == nil && rec.State == want {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("module %s is %s, want %s: %v", id, rec.State, want, errors.Join(err, gerr))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (m *machine) votes(want int) {
	m.t.Helper()
	s, err := m.node.Status(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	n := 0
	for _, v := range s.Members {
		if v.Voter {
			n++
		}
	}
	if n != want || len(s.Members) != want {
		m.t.Errorf("%s sees %d votes of %d members, want %d: %+v", m.self.ID, n, len(s.Members), want, s.Members)
	}
}

func TestThreeModulesBecomeADomain(t *testing.T) {
	whole := t
	a, b, w := blank(t, "SA", "f1"), blank(t, "SB", "f2"), blank(t, "SW", "f3")
	a.found("production")
	b.unclaimed()
	w.unclaimed()

	wrong := *b
	wrong.self.Fingerprint = w.self.Fingerprint
	if err := a.claim(&wrong, domain.RoleOfAppliance, ""); err == nil || !strings.Contains(err.Error(), "another module") {
		t.Errorf("claim with a wrong fingerprint = %v", err)
	}
	b.free = domain.Errorf(domain.Conflict, "module SB", "is set up as a domain of its own")
	if err := a.claim(b, domain.RoleOfAppliance, ""); domain.KindOf(err) != domain.Conflict {
		t.Errorf("claim of a module that is set up = %v", err)
	}
	b.free = nil
	if err := a.claim(b, domain.RoleOfAppliance, ""); err != nil {
		t.Fatal(err)
	}
	if rec, _, err := a.claims.Records.Modules.Get(t.Context(), "SB"); err != nil || !rec.Resync || rec.State != domain.ModuleJoining {
		t.Errorf("record of the second appliance: %+v, %v; want one that joins and is a resync target", rec, err)
	}
	a.taken(b)
	if err := a.claim(w, domain.RoleOfWitness, ""); err != nil {
		t.Fatal(err)
	}
	a.taken(w)
	for _, m := range []*machine{a, b, w} {
		m.votes(3)
	}

	t.Run("the votes", func(t *testing.T) {
		r, err := a.office.Votes(t.Context())
		if err != nil || r.Voters != 3 || r.Healthy != 3 || r.Members[2].Title != "f3, appliance bay 1" || r.Members[2].Role != domain.RoleOfWitness {
			t.Errorf("Votes = %+v, %v; want three that answer, the last one the witness in frame f3", r, err)
		}
		if err := a.office.HandOver(t.Context(), "SB"); domain.KindOf(err) != domain.Conflict {
			t.Errorf("HandOver without an election = %v", err)
		}
		if err := a.boot().Remember(t.Context(), a.node, map[string]uint64{"1": 2}); err != nil {
			t.Fatal(err)
		}
		if st, err := Load(a.state); err != nil || len(st.Peers) != 3 || st.Epochs["1"] != 2 {
			t.Errorf("remembered %+v, %v", st, err)
		}
	})

	t.Run("the authority goes to the standby and not to the witness", func(t *testing.T) {
		if err := FetchAuthority(t.Context(), b.key, a.self.Address, b.tls); err != nil {
			t.Fatal(err)
		}
		copied, err := pki.Open(b.tls, "b")
		if err != nil || copied.Fingerprint() != a.claims.Authority.Fingerprint() {
			t.Errorf("the standby's authority: %v, want that of the domain", err)
		}
		if err := FetchAuthority(t.Context(), w.key, a.self.Address, w.tls); domain.KindOf(err) != domain.Forbidden {
			t.Errorf("the witness asks for the CA's key: %v, want Forbidden", err)
		}
		if err := FetchAuthority(t.Context(), blank(t, "SX", "f9").key, a.self.Address, t.TempDir()); err == nil {
			t.Error("a stranger got the CA's key")
		}
	})

	t.Run("certificates follow the CA", func(t *testing.T) {
		auth := a.claims.Authority
		for _, step := range []func() error{auth.Prepare, auth.Switch, auth.Retire} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := a.claims.Advance(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for _, m := range []*machine{a, b, w} {
				bundle, err := auth.Bundle()
				if err != nil || !bytes.Equal(bytes.TrimSpace(bundle), bytes.TrimSpace(m.key.Trusted())) || m.key.Ageing() {
					t.Errorf("%s: %v, ageing %v; want the present CAs and a certificate of theirs", m.self.ID, err, m.key.Ageing())
				}
			}
		}
		// The members of etcd read the CAs when they start: one after the other.
		for _, m := range []*machine{b, w} {
			m.off()
			if err := m.member(); err != nil {
				t.Fatal(err)
			}
		}
		a.restartFounder()
		a.votes(3)
	})

	t.Run("a claimed module refuses another domain", func(t *testing.T) {
		other := blank(t, "SO", "f8")
		other.found("other")
		if err := other.claim(w, domain.RoleOfWitness, ""); err == nil {
			t.Error("a member was claimed by another domain")
		}
		w.off()
		if err := w.key.Forget(false); err != nil { // its certificate is lost, its state is not
			t.Fatal(err)
		}
		w.unclaimed()
		if err := other.claim(w, domain.RoleOfWitness, ""); err != nil && !strings.Contains(err.Error(), "belongs to domain production") {
			t.Errorf("claim = %v", err)
		} else if err == nil {
			t.Error("a module of the first domain was claimed by another")
		}
		w.off()
	})

	t.Run("a blank module takes the place of a dead one", func(t *testing.T) {
		w2 := blank(whole, "SW2", "f3")
		w2.unclaimed()
		err := a.claim(w2, domain.RoleOfWitness, "")
		if err == nil || !strings.Contains(err.Error(), "quarantine") {
			t.Errorf("claim of a second module for one bay = %v, want quarantine", err)
		}
		if err := a.claims.Remove(t.Context(), "SW2"); err != nil {
			t.Fatal(err)
		}
		if err := a.claim(w2, domain.RoleOfWitness, "SW"); err != nil {
			t.Fatal(err)
		}
		a.taken(w2)
		a.votes(3)
		w = w2
	})

	t.Run("a damaged member asks for a new place", func(t *testing.T) {
		w.off()
		junk(t, w.etcd)
		if err := w.member(); err != nil {
			t.Fatal(err)
		}
		a.advance(w.self.ID, domain.ModuleMember)
		w.votes(3)
	})

	t.Run("old data come back as a resync target only", func(t *testing.T) {
		rec := a.claims.Records
		if _, err := rec.Modules.Update(t.Context(), "SB", func(m *domain.Module) error { m.Resync = false; return nil }); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			known uint64
			want  bool
		}{{5, false}, {4, true}} {
			got, err := rec.Returned(t.Context(), "SB", map[string]uint64{"1": c.known}, map[string]uint64{"1": 5})
			m, _, gerr := rec.Modules.Get(t.Context(), "SB")
			if err != nil || gerr != nil || got != c.want || m.Resync != c.want {
				t.Errorf("back with epoch %d of 5: %v, recorded %v, %v; want %v", c.known, got, m.Resync, errors.Join(err, gerr), c.want)
			}
		}
	})

	t.Run("one goes on when the others are lost for good", func(t *testing.T) {
		b.off()
		w.off()
		a.recover = true
		a.restartFounder()
		a.votes(1)
		for _, id := range []string{"SB", "SW2"} {
			if m, _, err := a.claims.Records.Modules.Get(t.Context(), id); err != nil || m.State != domain.ModuleQuarantined {
				t.Errorf("module %s after the recovery: %+v, %v; want it shut out", id, m, err)
			}
		}
	})
}

// restartFounder restarts the first module of the domain in place.
func (m *machine) restartFounder() {
	m.t.Helper()
	m.off()
	if err := m.member(); err != nil {
		m.t.Fatal(err)
	}
	m.claims.Members, m.claims.Records, m.office.Node = m.node, NewRecords(m.node.Client()), m.node
}
