package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// Boot is what a module needs to come up as what its State says.
type Boot struct {
	Dir  string // of State
	Etcd string // directory of the domain state
	Self domain.Module
	Key  *pki.Module
	Log  *slog.Logger
	// Recover: the other members are lost for good (cluster.Config.Alone).
	Recover bool
}

// DomainID is the id of the domain that an authority founds: it is known before
// the domain is, so that a module that stands alone has a certificate that will
// do, and nothing restarts when others join.
func DomainID(a *pki.Authority) string { return a.Fingerprint()[:32] }

// Alone starts the domain state of a module that no domain has claimed: the
// development configuration. It listens nowhere.
func (b Boot) Alone(ctx context.Context, a *pki.Authority) (*cluster.Node, error) {
	if id, ok := b.Key.Identity(); !ok || id.Domain != DomainID(a) || b.Key.Ageing() {
		if err := enrol(a, b.Key, DomainID(a), b.Self); err != nil {
			return nil, err
		}
	}
	return cluster.Start(ctx, b.config())
}

func (b Boot) config() cluster.Config {
	cert, key, cas := b.Key.Files()
	return cluster.Config{Dir: b.Etcd, Name: b.Self.ID, Log: b.Log, TLS: cluster.Files{Cert: cert, Key: key, CAs: cas}}
}

// Member starts the domain state of a module that belongs to a domain, at
// Self.Address. serve is called as soon as other members can speak to it and
// must answer them (Service). A state that is damaged is set aside, and the
// others give it anew. If ctx ends before a majority was found the node is
// returned beside the error, and goes on looking.
func (b Boot) Member(ctx context.Context, serve func(*cluster.Node) error) (*cluster.Node, error) {
	st, err := Load(b.Dir)
	if err != nil {
		return nil, err
	}
	cfg := b.config()
	cfg.URL, cfg.Join, cfg.Alone = "https://"+b.Self.Address, st.Peers, b.Recover
	n, err := cluster.Open(cfg)
	var damaged *cluster.DamagedError
	if errors.As(err, &damaged) {
		b.Log.Error("domain state", "err", err)
		// A place first: without one the damaged files are all there is.
		peers, perr := Reenter(ctx, b.Key, st, cfg.URL)
		if perr != nil {
			return nil, errors.Join(err, perr)
		}
		if err := damaged.SetAside(); err != nil {
			return nil, err
		}
		st.Peers, cfg.Join = peers, peers
		if err := st.Save(b.Dir); err != nil {
			return nil, err
		}
		n, err = cluster.Open(cfg)
	}
	if err != nil {
		return nil, err
	}
	if err := serve(n); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if err := n.WaitReady(ctx); err != nil {
		return n, err
	}
	if b.Recover {
		if err := NewRecords(n.Client()).LeaveBehind(ctx, b.Self.ID); err != nil {
			return n, err
		}
	}
	return n, n.Advertise(ctx, cfg.URL)
}

// Remember keeps who the members are, for the day on which this module's own
// state is damaged, and the epochs of the storage groups; nil leaves those.
func (b Boot) Remember(ctx context.Context, n *cluster.Node, epochs map[string]uint64) error {
	st, err := Load(b.Dir)
	if err != nil || st.Domain == "" {
		return err
	}
	s, err := n.Status(ctx)
	if err != nil {
		return err
	}
	now := st
	now.Peers = nil
	for _, m := range s.Members {
		if m.Name != "" { // else it has not come up yet
			now.Peers = append(now.Peers, cluster.Peer{Name: m.Name, URL: m.URL})
		}
	}
	if epochs != nil {
		now.Epochs = epochs
	}
	if slices.Equal(now.Peers, st.Peers) && maps.Equal(now.Epochs, st.Epochs) {
		return nil
	}
	return now.Save(b.Dir)
}

// Office is the domain as REST serves it, on the active appliance.
type Office struct {
	Claims  *Claims
	Node    *cluster.Node
	Elector *cluster.Elector     // nil: this module stands alone
	Self    func() domain.Module // with its address
	Dir     string               // of State
	Listen  func() error         // serves other members at Self().Address; may be repeated
	Groups  func(context.Context) []domain.VoteGroup
}

// Votes implements rest.Membership.
func (o *Office) Votes(ctx context.Context) (domain.VotesReport, error) {
	modules, err := o.Claims.Records.Modules.List(ctx)
	if err != nil {
		modules = nil // without a majority the votes are what one wants to see
	}
	r := cluster.Votes(o.Node.Voters(ctx, o.Claims.Self.ClientTLS(nil), func(name string) (string, string) {
		m, ok := modules[name]
		if !ok {
			return "", domain.RoleOfAppliance
		}
		return Title(m), m.Role
	}))
	r.Groups = []domain.VoteGroup{}
	if o.Groups != nil {
		r.Groups = o.Groups(ctx)
	}
	return r, nil
}

// Title names a module for people.
func Title(m domain.Module) string {
	if m.Frame == "" {
		return m.ID
	}
	return fmt.Sprintf("%s, %s", m.Frame, m.Bay)
}

// Domain implements rest.Membership.
func (o *Office) Domain(ctx context.Context) (domain.Domain, bool, error) {
	return o.Claims.Records.Domain.Get(ctx)
}

// CreateDomain implements rest.Membership: this module, which stood alone, is
// the first of a domain from now on. Every step may be repeated after a crash.
func (o *Office) CreateDomain(ctx context.Context, name string) (domain.Domain, error) {
	self := o.Self()
	if _, _, err := net.SplitHostPort(self.Address); err != nil || self.ID == "" {
		return domain.Domain{}, domain.Errorf(domain.Unavailable, "domain", "needs a module with a serial number and a management address").
			Fix("Check both with bayctl hw and bayctl net.")
	}
	id := DomainID(o.Claims.Authority)
	if err := (State{Domain: id, Name: name, Role: domain.RoleOfAppliance}).Save(o.Dir); err != nil {
		return domain.Domain{}, err
	}
	if err := o.Listen(); err != nil {
		return domain.Domain{}, err
	}
	if err := o.Node.Advertise(ctx, "https://"+self.Address); err != nil {
		return domain.Domain{}, err
	}
	self.Role, self.Fingerprint = domain.RoleOfAppliance, o.Claims.Self.Fingerprint()
	return o.Claims.Records.Found(ctx, id, name, self)
}

// Modules implements rest.Membership.
func (o *Office) Modules(ctx context.Context) ([]domain.Module, error) { return o.Claims.List(ctx) }

// Claim implements rest.Membership.
func (o *Office) Claim(ctx context.Context, req domain.ClaimRequest, user string) (domain.Module, []string, error) {
	return o.Claims.Claim(ctx, req, user)
}

// RemoveModule implements rest.Membership.
func (o *Office) RemoveModule(ctx context.Context, id string) error { return o.Claims.Remove(ctx, id) }

// HandOver implements rest.Membership: management goes to the module with the
// id, or to any that can take it.
func (o *Office) HandOver(ctx context.Context, to string) error {
	if o.Elector == nil {
		return domain.Errorf(domain.Conflict, "management", "has nowhere to go: this appliance stands alone").
			Fix("Claim a second appliance first.")
	}
	if to == "" {
		return o.Elector.HandOver(ctx, "")
	}
	m, ok, err := o.Claims.Records.Modules.Get(ctx, to)
	switch {
	case err != nil:
		return err
	case !ok || m.State != domain.ModuleMember || m.Role != domain.RoleOfAppliance:
		return domain.Errorf(domain.Conflict, "module "+to, "is no appliance of this domain that could take management over").
			Fix("List the modules with bayctl appliance list.")
	}
	return o.Elector.HandOver(ctx, to)
}
