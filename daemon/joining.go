package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/member"
	"baystream/daemon/pki"
)

// errClaimed ends the life of an unclaimed module: the daemon begins anew, as a
// member.
var errClaimed = errors.New("this module was claimed")

// service is the port where other modules call. It serves one thing at a time:
// claims, or the members of the domain, or nothing.
type service struct {
	mu   sync.Mutex
	stop func() // ends what is served, and waits
	what string
}

// The things that a service can serve.
const (
	servesNobody  = ""
	servesClaims  = "claims"
	servesMembers = "members"
)

// serve serves h until ctx ends or something else is served. What is served
// already goes on.
func (s *service) serve(ctx context.Context, d *Daemon, what string, config *tls.Config, h http.Handler) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.what == what {
		return nil
	}
	s.end()
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", member.ServicePort))
	if err != nil {
		return fmt.Errorf("port for other modules: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := member.Serve(ctx, ln, config, h, d.log); err != nil && ctx.Err() == nil {
			d.log.Error("port for other modules", "err", err)
		}
	}()
	s.what, s.stop = what, func() { cancel(); <-done }
	return nil
}

// close serves nothing any more.
func (s *service) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

func (s *service) end() {
	if s.stop != nil {
		s.stop()
	}
	s.what, s.stop = servesNobody, nil
}

// serveMembers answers the other modules of the domain.
func (m *membership) serveMembers(ctx context.Context, n *cluster.Node) error {
	calls := &member.Service{Module: m.key, Node: n, Records: member.NewRecords(n.Client()), Self: m.self, Authority: m.authority.Load}
	mux := calls.Handler()
	for pattern, h := range m.routes {
		mux.Handle(pattern, h)
	}
	return m.port.serve(ctx, m.d, servesMembers, m.key.ServerTLS(), mux)
}

// awaitClaim announces this module and answers whoever claims it, while free
// says that it can be claimed, until ctx ends. Its error is errClaimed when it
// was.
func (m *membership) awaitClaim(ctx context.Context, free func(context.Context) error, changed <-chan struct{}) error {
	config, err := m.key.UnclaimedTLS()
	if err != nil {
		return err
	}
	u := &member.Unclaimed{Module: m.key, Dir: m.d.cfg.State, Self: m.self, Free: free, Log: m.d.log}
	joined := u.Joined()
	inner, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	m.d.cfg.Console("module %s key SHA-256 %s", m.ID(), m.key.Fingerprint())
	if mgmt, _, _ := ports(m.d.inv); mgmt.Name != "" {
		wg.Go(func() {
			member.Announce(inner, mgmt.Name, m.key, func() member.Announcement { return member.Announcement{Module: m.self()} }, m.d.log)
		})
	}
	look := time.NewTicker(usersEvery)
	defer look.Stop()
	for {
		if free(ctx) != nil {
			m.port.mu.Lock()
			if m.port.what == servesClaims { // else it founds a domain
				m.port.end()
			}
			m.port.mu.Unlock()
			return nil // set up by itself: a factory reset begins anew
		}
		if err := m.port.serve(ctx, m.d, servesClaims, config, u.Handler()); err != nil {
			m.d.log.Warn("this module cannot be claimed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-look.C:
		case t := <-joined:
			m.d.cfg.Console("claimed by domain %s as %s", t.Domain.Name, t.Role)
			time.Sleep(answerTime) // so that the domain hears that it was
			m.wasTaken.Store(true)
			return errClaimed
		}
	}
}

const answerTime = 500 * time.Millisecond

// free says why this module cannot be claimed now.
func (m *membership) free(ctx context.Context) error {
	object := "module " + m.ID()
	m.mu.Lock()
	st := m.state
	m.mu.Unlock()
	switch {
	case st.Domain != "":
		return domain.Errorf(domain.Conflict, object, "belongs to domain %s", st.Name).Fix("Reset it to its factory state at its console first.")
	case m.d.disk.Path == "":
		return domain.Errorf(domain.Conflict, object, "has no data disk").Fix("Insert a blank disk, then restart the module.")
	case m.d.state == nil: // a witness has none of its own
		return nil
	}
	users, err := m.d.state.Users.List(ctx)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return domain.Errorf(domain.Conflict, object, "is set up as a domain of its own").Fix("Reset it to its factory state at its console first.")
	}
	return nil
}

// startAlone starts the domain state of a module that no domain has claimed.
func (m *membership) startAlone(ctx context.Context) (*pki.Authority, error) {
	authority, err := pki.Open(filepath.Join(m.d.cfg.State, "tls"), m.d.name())
	if err != nil {
		return nil, err
	}
	m.d.node, err = m.boot.Alone(ctx, authority)
	return authority, err
}

// patience is how long the daemon waits for the other modules before it says
// that it runs, and waits on.
const patience = 20 * time.Second

// startMember starts the domain state of a module of a domain, and returns when
// a majority is there.
func (m *membership) startMember(ctx context.Context) error {
	m.clearPast()
	var err error
	if m.boot.Self.Address, err = m.ownAddress(ctx); err != nil {
		return err
	}
	m.boot.Recover = m.recovering()
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	n, err := m.boot.Member(wait, func(n *cluster.Node) error { return m.serveMembers(ctx, n) })
	if n == nil {
		return err
	}
	m.d.node = n
	if m.stopped() {
		return fmt.Errorf("%w: if this module was removed from domain %s, reset it to its factory state", err, m.state.Name)
	}
	if err == nil && m.boot.Recover {
		err = m.recovered()
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	m.d.log.Warn("no majority of the votes answers: waiting", "err", err)
	m.d.board.set("domain state", domain.StatusCritical, "no majority of the domain's votes answers", "Switch on the other modules; if they are lost for good, see bayctl domain recover.")
	m.d.cfg.Console("waiting for the other modules of domain %s", m.state.Name)
	m.d.ready()
	alive, stop := context.WithCancel(ctx)
	defer stop()
	go func() { _ = m.d.beat(alive) }() // it ends with its context
	if err := n.WaitReady(ctx); err != nil {
		return err
	}
	return n.Advertise(ctx, "https://"+m.boot.Self.Address)
}

// stopped says whether the member has ended by itself: its disk failed, or the
// others have removed it.
func (m *membership) stopped() bool {
	select {
	case <-m.d.node.Done():
		return true
	default:
		return false
	}
}

// clearPast removes the domain state that a claimed module had alone.
func (m *membership) clearPast() {
	if !m.state.Claimed {
		return
	}
	if err := os.RemoveAll(filepath.Join(m.d.cfg.State, "etcd")); err != nil {
		m.d.log.Warn("domain state of before the claim", "err", err)
	}
}

// ownAddress is where other modules find this one. If the management port gets
// no address in time, that is where they found it last.
func (m *membership) ownAddress(ctx context.Context) (string, error) {
	last := ""
	for _, p := range m.state.Peers {
		if p.Name == m.ID() {
			last = strings.TrimPrefix(p.URL, "https://")
		}
	}
	wait, cancel := context.WithTimeout(ctx, restFirst)
	defer cancel()
	if last == "" {
		wait = ctx
	}
	ip, err := m.d.managementAddress(wait)
	switch {
	case err == nil:
		return netip.AddrPortFrom(ip, member.ServicePort).String(), nil
	case last != "" && ctx.Err() == nil:
		return last, nil
	}
	return "", err
}

// domainAuthority is the CA of the domain, which the appliances of the pair
// have. A module that was claimed asks the others for it until one answers.
func (m *membership) domainAuthority(ctx context.Context) (*pki.Authority, error) {
	dir := filepath.Join(m.d.cfg.State, "tls")
	a, err := pki.Open(dir, m.d.name())
	if err == nil && strings.Contains(string(m.key.Trusted()), string(a.PEM())) {
		return a, nil
	}
	told := false
	for {
		err := m.fetchAuthority(ctx, dir)
		if err == nil {
			return pki.Open(dir, m.d.name())
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if !told {
			m.d.log.Warn("the domain's authority is not here yet", "err", err)
			told = true
		}
		pause(ctx, 2*time.Second)
	}
}

func (m *membership) fetchAuthority(ctx context.Context, dir string) error {
	errs := []error{errors.New("no other appliance has it")}
	for _, p := range m.state.Peers {
		if p.Name == m.ID() {
			continue
		}
		err := member.FetchAuthority(ctx, m.key, strings.TrimPrefix(p.URL, "https://"), dir)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// find listens for modules that could be claimed.
func (m *membership) find(ctx context.Context) error {
	if mgmt, _, _ := ports(m.d.inv); mgmt.Name != "" {
		m.finder.Run(ctx, mgmt.Name)
	}
	return nil
}

// announce says that this module is there, and that it belongs to its domain,
// once it does.
func (m *membership) announce(ctx context.Context) error {
	changed := m.Changed(ctx)
	for !m.inDomain() {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
	mgmt, _, _ := ports(m.d.inv)
	if mgmt.Name == "" {
		return nil
	}
	member.Announce(ctx, mgmt.Name, m.key, func() member.Announcement {
		m.mu.Lock()
		defer m.mu.Unlock()
		return member.Announcement{Module: m.self(), Domain: m.state.Domain}
	}, m.d.log)
	return nil
}

func (m *membership) inDomain() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Domain != ""
}
