package daemon

import (
	"context"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/member"
	"baystream/daemon/pki"
)

// office is the domain as REST serves it.
type office struct {
	*member.Office
	m *membership
}

// newOffice makes the office of this module. Listen, when a domain is created,
// opens the port to other modules until ctx ends.
func (m *membership) newOffice(ctx context.Context, authority *pki.Authority, e *cluster.Elector) *office {
	claims := &member.Claims{Records: m.Records, Members: m.d.node, Authority: authority, Self: m.key, Finder: m.finder, Log: m.d.log.With("part", "domain")}
	return &office{m: m, Office: &member.Office{
		Claims: claims, Node: m.d.node, Elector: e, Self: m.self, Dir: m.d.cfg.State, Groups: m.Groups,
		Listen: func() error { return m.serveMembers(ctx, m.d.node) },
	}}
}

// onModule refuses what only a module in a frame can be part of.
func (o *office) onModule() error {
	if o.m.d.onModule() {
		return nil
	}
	return domain.Errorf(domain.Conflict, "domain", "cannot be formed by this host: it is no module of a frame").
		Fix("Use an appliance in a frame; this host runs the development configuration.")
}

// Votes implements rest.Membership.
func (o *office) Votes(ctx context.Context) (domain.VotesReport, error) { return o.m.Votes(ctx) }

// CreateDomain implements rest.Membership.
func (o *office) CreateDomain(ctx context.Context, name string) (domain.Domain, error) {
	if err := o.onModule(); err != nil {
		return domain.Domain{}, err
	}
	d, err := o.Office.CreateDomain(ctx, name)
	if err != nil {
		return d, err
	}
	o.m.mu.Lock()
	o.m.state.Domain, o.m.state.Name, o.m.state.Role = d.ID, d.Name, domain.RoleOfAppliance
	o.m.tell()
	o.m.mu.Unlock()
	return d, o.m.remember(ctx)
}

// Claim implements rest.Membership.
func (o *office) Claim(ctx context.Context, req domain.ClaimRequest, user string) (domain.Module, []string, error) {
	if err := o.onModule(); err != nil {
		return domain.Module{}, nil, err
	}
	return o.Office.Claim(ctx, req, user)
}

// HandOver implements rest.Membership.
func (o *office) HandOver(ctx context.Context, to string) error {
	partner, paired := o.m.Partner()
	if o.m.alone() || !paired {
		return domain.Errorf(domain.Conflict, "management", "has nowhere to go: there is no second appliance").Fix("Claim one with bayctl appliance claim.")
	}
	if to == "" { // the other one, and not whoever is the first to ask
		to = partner.ID
		if _, self, _ := o.m.Active(); !self {
			to = o.m.ID()
		}
	}
	return o.Office.HandOver(ctx, to)
}

// MoveGroup implements rest.Membership.
func (o *office) MoveGroup(ctx context.Context, name, to string) (domain.VoteGroup, error) {
	return o.m.d.role.moveGroup(ctx, name, to)
}
