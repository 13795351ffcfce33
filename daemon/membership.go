package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/member"
	"baystream/daemon/pki"
	"baystream/netcfg"
)

// membership is what this module is in its domain, and how it reaches the other
// modules. What it knows of them it keeps in memory, so that a module that is
// cut off still knows its partner. It is safe for concurrent use.
type membership struct {
	d       *Daemon
	key     *pki.Module
	finder  *member.Finder
	boot    member.Boot
	Records member.Records

	// Groups and Epochs are those of the storage groups; nil: there are none.
	// They and the routes are set before anybody is served.
	Groups func(context.Context) []domain.VoteGroup
	Epochs func() map[string]uint64
	routes map[string]http.Handler

	mu       sync.Mutex
	state    member.State
	modules  map[string]domain.Module
	active   cluster.Term  // as the domain state says
	term     *cluster.Term // under which this module is the active one; nil: it is not
	electing bool          // there are terms: this module does not stand alone
	clients  map[string]*http.Client
	waiting  map[chan struct{}]bool

	voting  sync.Mutex // held while the votes are asked for
	voted   domain.VotesReport
	votedAt time.Time

	port      service     // where other modules call
	wasTaken  atomic.Bool // a domain has claimed this module since it was opened
	authority atomic.Pointer[pki.Authority]
}

// openMembership reads what this module is.
func openMembership(d *Daemon) (*membership, error) {
	m := &membership{d: d, finder: member.NewFinder(d.log), routes: map[string]http.Handler{}, modules: map[string]domain.Module{},
		clients: map[string]*http.Client{}, waiting: map[chan struct{}]bool{}}
	var err error
	if m.state, err = member.Load(d.cfg.State); err != nil {
		return nil, err
	}
	if m.key, err = pki.OpenModule(filepath.Join(d.cfg.State, "tls")); err != nil {
		return nil, err
	}
	etcd := filepath.Join(d.cfg.State, "etcd")
	if m.state.Claimed { // what it was alone before is not of this domain
		etcd = filepath.Join(d.cfg.State, "etcd-"+m.state.Domain)
	}
	m.boot = member.Boot{Dir: d.cfg.State, Etcd: etcd, Self: m.self(), Key: m.key, Log: d.log.With("part", "domain state")}
	return m, nil
}

// ID is this module's own: its serial number.
func (m *membership) ID() string { return cmp.Or(m.d.inv.Bay.Serial, "appliance") }

// Handle adds a call that other modules of the domain may make, behind mutual
// TLS (pki.PeerIdentity says who calls). It is for the wiring: nothing can be
// added once the module serves.
func (m *membership) Handle(pattern string, h http.Handler) { m.routes[pattern] = h }

// HTTP calls the module with the id and no other, whatever address is dialled,
// at member.ServicePort.
func (m *membership) HTTP(id string) *http.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.clients[id]
	if !ok {
		c = &http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
			TLSClientConfig: m.key.ClientTLS(func(who pki.Identity) error {
				if who.Serial != id {
					return fmt.Errorf("want module %s, this is %s", id, who)
				}
				return nil
			}),
		}}
		m.clients[id] = c
	}
	return c
}

// Modules are those of the domain, by id.
func (m *membership) Modules() []domain.Module {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.modules), func(a, b domain.Module) int { return strings.Compare(a.ID, b.ID) })
}

// Partner is the other appliance of the pair.
func (m *membership) Partner() (domain.Module, bool) {
	for _, o := range m.Modules() {
		if o.ID != m.ID() && o.Role == domain.RoleOfAppliance && (o.State == domain.ModuleMember || o.State == domain.ModuleJoining) {
			return o, true
		}
	}
	return domain.Module{}, false
}

// InPair says whether there is a second appliance, dead or alive.
func (m *membership) InPair() bool { _, ok := m.Partner(); return ok }

// Active is which appliance is the active one, "" if none is known to be, and
// the epoch of its term; self says whether it is this one. A module that stands
// alone is, in no epoch.
func (m *membership) Active() (id string, self bool, epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.electing:
		return m.ID(), true, 0
	case m.term != nil:
		return m.ID(), true, m.term.Epoch
	case m.active.Holder == m.ID(): // its term has ended, only the domain state does not know yet
		return "", false, m.active.Epoch
	}
	return m.active.Holder, false, m.active.Epoch
}

// Changed wakes its reader when modules, or the active one, have changed.
func (m *membership) Changed(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	m.mu.Lock()
	m.waiting[c] = true
	m.mu.Unlock()
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		delete(m.waiting, c)
		m.mu.Unlock()
	})
	return c
}

// tell wakes the readers of Changed. It is called with mu held.
func (m *membership) tell() {
	for c := range m.waiting {
		wake(c)
	}
}

// Majority says whether a majority of the votes answers.
func (m *membership) Majority(ctx context.Context) bool {
	_, err := cluster.CurrentTerm(ctx, m.d.node.Client())
	return err == nil
}

// role is what the domain took the module as, or what its bay is for.
func (m *membership) role() string {
	return cmp.Or(m.state.Role, m.bayRole())
}

// bayRole is what the frame says that the bay is for.
func (m *membership) bayRole() string {
	return cmp.Or(m.d.inv.Settings["role"], domain.RoleOfAppliance)
}

// witness says whether this module has a vote and nothing else.
func (d *Daemon) witness() bool { return d.mem.role() == domain.RoleOfWitness }

// taken says whether a domain has claimed this module meanwhile.
func (m *membership) taken() bool { return m != nil && m.wasTaken.Load() }

// claimed says whether this module was taken into a domain of others.
func (m *membership) claimed() bool { return m.state.Claimed }

// self is this module as it announces itself.
func (m *membership) self() domain.Module {
	b := m.d.inv.Bay
	s := domain.Module{ID: m.ID(), Frame: b.Frame, Bay: b.Location, Role: m.bayRole(), Version: m.d.cfg.Version, Addresses: m.d.addresses()}
	if p, err := netip.ParsePrefix(s.Addresses[networkManagement]); err == nil {
		s.Address = net.JoinHostPort(p.Addr().String(), strconv.Itoa(member.ServicePort))
	}
	if m.key != nil {
		s.Fingerprint = m.key.Fingerprint()
	}
	return s
}

// The networks of Module.Addresses.
const (
	networkManagement = "management"
	networkDeployment = "deployment"
	networkFrame      = "frame"
)

// addresses are this module's own, by network.
func (d *Daemon) addresses() map[string]string {
	all := map[string]string{}
	put := func(network string, p netip.Prefix) {
		if p.IsValid() {
			all[network] = p.String()
		}
	}
	if d.net != nil {
		d.net.mu.Lock()
		put(networkManagement, d.net.management().Address)
		put(networkFrame, d.net.frameLink)
		d.net.mu.Unlock()
	}
	put(networkDeployment, d.deployment().Address)
	return all
}

// keep follows the records of the domain until ctx ends, and keeps this
// module's own up to date. It fails when the member has ended by itself.
func (m *membership) keep(ctx context.Context) error {
	client := m.d.node.Client()
	modules, active := m.Records.Modules.Watch(ctx), cluster.WatchActive(ctx, client)
	links := (<-chan struct{})(nil)
	if m.d.net != nil {
		links = netcfg.Watch(ctx)
	}
	again := time.NewTicker(time.Minute)
	defer again.Stop()
	for {
		if err := m.look(ctx); err != nil && ctx.Err() == nil {
			m.d.log.Debug("modules of the domain", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.d.node.Done():
			if ctx.Err() != nil {
				return nil
			}
			return errors.New("the domain state has stopped: its disk failed, or this module was removed from the domain")
		case <-modules:
		case <-active:
		case _, open := <-links:
			if !open {
				links = nil
			}
		case <-again.C:
		}
	}
}

// lookTime bounds one look at the domain state.
const lookTime = 5 * time.Second

func (m *membership) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	term, err := cluster.CurrentTerm(ctx, m.d.node.Client())
	if err != nil {
		return err
	}
	modules, err := m.Records.Modules.List(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	changed := term.Holder != m.active.Holder || term.Epoch != m.active.Epoch || !reflect.DeepEqual(modules, m.modules)
	m.active, m.modules = term, modules
	if changed {
		m.tell()
	}
	m.mu.Unlock()
	own, ok := modules[m.ID()]
	if !ok {
		return nil
	}
	return errors.Join(m.introduce(ctx, own), m.remember(ctx))
}

// introduce writes where this module is into its record.
func (m *membership) introduce(ctx context.Context, have domain.Module) error {
	now := m.self()
	if now.Address == "" || now.Address == have.Address && now.Version == have.Version && maps.Equal(now.Addresses, have.Addresses) {
		return nil
	}
	if now.Address != have.Address {
		if err := m.d.node.Advertise(ctx, "https://"+now.Address); err != nil {
			return err
		}
	}
	_, err := m.Records.Modules.Update(ctx, m.ID(), func(r *domain.Module) error {
		if r.ID == "" {
			return domain.Errorf(domain.NotFound, "module "+m.ID(), "is no longer in the domain")
		}
		r.Address, r.Addresses, r.Version = now.Address, now.Addresses, now.Version
		return nil
	})
	return err
}

// remember keeps who the others are for the day on which this module's own
// state is damaged.
func (m *membership) remember(ctx context.Context) error {
	var epochs map[string]uint64
	if m.Epochs != nil {
		epochs = m.Epochs()
	}
	return m.boot.Remember(ctx, m.d.node, epochs)
}

// votesFresh is how old the votes may be that are shown: many may ask.
const votesFresh = 300 * time.Millisecond

// Votes says which votes exist and what the next loss would do. Titles and
// roles are those that this module knows, so that it also answers without a
// majority.
func (m *membership) Votes(ctx context.Context) (domain.VotesReport, error) {
	m.voting.Lock()
	defer m.voting.Unlock()
	if time.Since(m.votedAt) > votesFresh {
		m.voted = m.askVotes(ctx)
		m.votedAt = time.Now()
	}
	return m.voted, nil
}

func (m *membership) askVotes(ctx context.Context) domain.VotesReport {
	known := map[string]domain.Module{}
	for _, o := range m.Modules() {
		known[o.ID] = o
	}
	r := cluster.Votes(m.d.node.Voters(ctx, m.key.ClientTLS(nil), func(name string) (string, string) {
		o, ok := known[name]
		if !ok {
			return "", domain.RoleOfAppliance
		}
		return member.Title(o), o.Role
	}))
	if m.alone() && len(r.Members) == 1 { // without terms
		r.Members[0].Active, r.Active = true, r.Members[0].Title
	}
	r.Groups = []domain.VoteGroup{}
	if m.Groups != nil {
		r.Groups = m.Groups(ctx)
	}
	return r
}
