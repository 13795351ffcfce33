package member

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// Members is the part of cluster.Node that claims need.
type Members interface {
	Add(ctx context.Context, p cluster.Peer) ([]cluster.Peer, error)
	Promote(ctx context.Context, name string) error
	Remove(ctx context.Context, name string) error
}

// Records are the modules of the domain, by id, and the domain itself.
type Records struct {
	Domain  *cluster.Value[domain.Domain]
	Modules *cluster.KV[domain.Module]
	client  *clientv3.Client
}

// NewRecords makes the records in the state of c.
func NewRecords(c *clientv3.Client) Records {
	return Records{Domain: cluster.NewValue[domain.Domain](c, "domain"), Modules: cluster.NewKV[domain.Module](c, "modules"), client: c}
}

// Found makes the domain, with self as its first module, if there is none yet;
// else it returns the one there is.
func (r Records) Found(ctx context.Context, id, name string, self domain.Module) (domain.Domain, error) {
	now := domain.Stamp(time.Now())
	d := domain.Domain{ID: id, Name: name, Created: now, Founder: self.ID}
	self.State, self.Claimed = domain.ModuleMember, now
	err := cluster.Atomically(ctx, r.client, func(tx *cluster.Txn) error {
		have, ok, err := r.Domain.GetIn(tx)
		if err != nil || ok {
			d = have
			return err
		}
		return errors.Join(r.Domain.PutIn(tx, d), r.Modules.PutIn(tx, self.ID, self))
	})
	return d, err
}

// Returned marks a module that comes back with old data (Returning) as the
// target of a resync and nothing else.
func (r Records) Returned(ctx context.Context, id string, known, now map[string]uint64) (resync bool, err error) {
	if !Returning(known, now) {
		return false, nil
	}
	_, err = r.Modules.Update(ctx, id, func(m *domain.Module) error {
		m.Resync = true
		return nil
	})
	return true, err
}

// LeaveBehind shuts out all modules but the one with the id: the domain was
// recovered without them, and what they hold of it is no longer its state.
func (r Records) LeaveBehind(ctx context.Context, id string) error {
	all, err := r.Modules.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for other, m := range all {
		if other == id {
			continue
		}
		m.State, m.Detail = domain.ModuleQuarantined, "the domain was recovered without it: reset it to its factory state, remove it, and claim it again"
		errs = append(errs, r.Modules.Put(ctx, other, m))
	}
	return errors.Join(errs...)
}

// Claims takes modules into the domain. It runs on the active appliance.
type Claims struct {
	Records   Records
	Members   Members
	Authority *pki.Authority
	Self      *pki.Module
	Finder    *Finder
	Log       *slog.Logger

	mu sync.Mutex // one claim at a time
}

// List returns the modules of the domain and those that announce themselves.
func (c *Claims) List(ctx context.Context) ([]domain.Module, error) {
	known, err := c.Records.Modules.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range c.Finder.Found() {
		if _, ok := known[a.Module.ID]; ok {
			continue
		}
		m := a.Module
		m.State = domain.ModuleUnclaimed
		if a.Domain != "" {
			m.State = domain.ModuleForeign
		}
		known[m.ID] = m
	}
	return slices.SortedFunc(maps.Values(known), func(a, b domain.Module) int {
		return strings.Compare(a.Frame+a.Bay+a.ID, b.Frame+b.Bay+b.ID)
	}), nil
}

// Claim begins to take a module in, and returns its record and what the
// administrator should know. The fingerprint is needed always: it is what the
// administrator has compared with the module's console.
func (c *Claims) Claim(ctx context.Context, req domain.ClaimRequest, user string) (domain.Module, []string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var none domain.Module
	address, err := c.locate(req)
	if err != nil {
		return none, nil, err
	}
	var seen domain.Module
	if err := call(ctx, pki.PinnedTLS(req.Fingerprint), address, "GET", pathIdentity, nil, &seen); err != nil {
		return none, nil, err
	}
	seen.Address, seen.Fingerprint = address, req.Fingerprint
	known, err := c.Records.Modules.List(ctx)
	if err != nil {
		return none, nil, err
	}
	d := Decide(slices.Collect(maps.Values(known)), seen, req.Role, req.Replaces)
	seen.Role, seen.Claimed, seen.By, seen.State = req.Role, domain.Stamp(time.Now()), user, domain.ModuleJoining
	switch d.Action {
	case Refuse:
		return none, nil, domain.Errorf(domain.Conflict, "claim", "%s", d.Why).Fix(d.Remedy)
	case Quarantine:
		seen.State, seen.Detail = domain.ModuleQuarantined, d.Why
		err := c.Records.Modules.Put(ctx, seen.ID, seen)
		return seen, nil, errors.Join(domain.Errorf(domain.Conflict, "module "+seen.ID, "is in quarantine: %s", d.Why).Fix(d.Remedy), err)
	case Replace:
		if err := c.remove(ctx, d.Replaces); err != nil {
			return none, nil, err
		}
	}
	// A module that was ever claimed has volumes of an unknown age, or none.
	seen.Resync = req.Role == domain.RoleOfAppliance
	if err := c.Records.Modules.Put(ctx, seen.ID, seen); err != nil {
		return none, nil, err
	}
	c.Log.Info("module claimed", "module", seen.ID, "frame", seen.Frame, "bay", seen.Bay, "role", seen.Role, "user", user)
	return seen, d.Warnings, c.advance(ctx, seen)
}

// locate finds out where the module is that a claim means.
func (c *Claims) locate(req domain.ClaimRequest) (string, error) {
	if len(req.Fingerprint) != 64 {
		return "", domain.Errorf(domain.Invalid, "claim", "needs the fingerprint of the module's key, 64 hex digits").
			Fix("Read it on the module's console; bayctl appliance list shows what the module announces.")
	}
	if req.Address != "" {
		if _, err := netip.ParseAddrPort(req.Address); err != nil {
			return "", domain.Errorf(domain.Invalid, "claim", "address %q: want ADDRESS:PORT", req.Address)
		}
		return req.Address, nil
	}
	for _, a := range c.Finder.Found() {
		if a.Module.ID == req.ID && a.Module.Fingerprint == req.Fingerprint {
			return a.Module.Address, nil
		}
	}
	return "", domain.Errorf(domain.NotFound, "module "+req.ID, "does not announce itself with that fingerprint").
		Fix("Check that it is powered on and in the same management network, or claim it by its address.")
}

// Remove takes a module out of the domain.
func (c *Claims) Remove(ctx context.Context, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if own, ok := c.Self.Identity(); ok && own.Serial == id {
		return domain.Errorf(domain.Conflict, "module "+id, "is the active appliance").Fix("Hand management over first.")
	}
	if _, ok, err := c.Records.Modules.Get(ctx, id); err != nil || !ok {
		return errors.Join(err, domain.Errorf(domain.NotFound, "module "+id, "does not exist").Fix("List the modules with bayctl appliance list."))
	}
	return c.remove(ctx, id)
}

func (c *Claims) remove(ctx context.Context, id string) error {
	if err := c.Members.Remove(ctx, id); err != nil {
		return err
	}
	return c.Records.Modules.Delete(ctx, id)
}

// Advance goes on with every claim that is not done, and renews certificates.
// It is called again and again; what fails is tried the next time.
func (c *Claims) Advance(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := c.Records.Modules.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(all)) {
		m := all[id]
		switch m.State {
		case domain.ModuleJoining:
			errs = append(errs, c.advance(ctx, m))
		case domain.ModuleMember:
			errs = append(errs, c.renew(ctx, m))
		}
	}
	return errors.Join(errs...)
}

// promotionTime is how long one Advance waits for a module to catch up.
const promotionTime = 5 * time.Second

// advance does the next step of one claim. The module is either a member that
// has to get its vote, or unclaimed still, or on its way from one to the other
// and does not answer.
func (c *Claims) advance(ctx context.Context, m domain.Module) error {
	if err := call(ctx, c.clientTLS(m), m.Address, "GET", pathIdentity, nil, nil); err == nil {
		ctx, cancel := context.WithTimeout(ctx, promotionTime)
		defer cancel()
		if err := c.Members.Promote(ctx, m.ID); err != nil {
			return err
		}
		_, err := c.Records.Modules.Update(ctx, m.ID, func(m *domain.Module) error {
			m.State = domain.ModuleMember
			return nil
		})
		if err == nil {
			c.Log.Info("module is a member", "module", m.ID, "role", m.Role)
		}
		return err
	}
	pinned := pki.PinnedTLS(m.Fingerprint)
	var request []byte
	if err := call(ctx, pinned, m.Address, "POST", pathRequest, nil, &request); err != nil {
		if domain.KindOf(err) == domain.Unavailable {
			return nil // it starts, or is off: nothing to do but to wait
		}
		return err
	}
	t, err := c.ticket(ctx, m, request)
	if err != nil {
		return err
	}
	return call(ctx, pinned, m.Address, "POST", pathJoin, t, nil)
}

func (c *Claims) ticket(ctx context.Context, m domain.Module, request []byte) (Ticket, error) {
	d, ok, err := c.Records.Domain.Get(ctx)
	if err != nil || !ok {
		return Ticket{}, errors.Join(err, errors.New("member: this appliance has no domain yet"))
	}
	t := Ticket{Domain: d, Role: m.Role}
	if t.Certificate, t.CAs, err = c.sign(d, m, request); err != nil {
		return Ticket{}, err
	}
	t.Peers, err = c.Members.Add(ctx, cluster.Peer{Name: m.ID, URL: "https://" + m.Address})
	return t, err
}

func (c *Claims) sign(d domain.Domain, m domain.Module, request []byte) (cert, cas []byte, err error) {
	return sign(c.Authority, d.ID, m, request)
}

func sign(a *pki.Authority, domainID string, m domain.Module, request []byte) (cert, cas []byte, err error) {
	var addrs []netip.Addr
	if addr, err := netip.ParseAddrPort(m.Address); err == nil {
		addrs = append(addrs, addr.Addr()) // for people who look; nothing depends on it
	}
	id := pki.Identity{Domain: domainID, Frame: m.Frame, Bay: m.Bay, Serial: m.ID}
	if cert, err = a.Sign(request, id, addrs...); err != nil {
		return nil, nil, err
	}
	cas, err = a.Bundle()
	return cert, cas, err
}

// enrol gives this module its own certificate, from its own CA.
func enrol(a *pki.Authority, key *pki.Module, domainID string, self domain.Module) error {
	request, err := key.Request()
	if err != nil {
		return err
	}
	cert, cas, err := sign(a, domainID, self, request)
	if err != nil {
		return err
	}
	return key.Install(cert, cas)
}

// clientTLS is for calls to the module of the record and no other.
func (c *Claims) clientTLS(m domain.Module) *tls.Config {
	return c.Self.ClientTLS(func(id pki.Identity) error {
		if id.Serial != m.ID {
			return fmt.Errorf("member: at %s is %s, not module %s", m.Address, id, m.ID)
		}
		return nil
	})
}
