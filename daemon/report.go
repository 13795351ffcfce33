package daemon

import (
	"context"
	"fmt"

	"baystream/daemon/domain"
)

// report is what the appliance says of itself (rest.Appliance).
type report struct{ d *Daemon }

func (r report) identity() domain.Identity {
	b := r.d.inv.Bay
	role := r.d.inv.Settings["role"]
	if role == "" {
		role = "appliance"
	}
	return domain.Identity{Name: r.d.name(), Frame: b.Frame, Bay: b.Location, Serial: b.Serial, Role: role, Version: r.d.cfg.Version, Kernel: r.d.inv.Kernel}
}

// Health implements rest.Appliance.
func (r report) Health(context.Context) domain.Health {
	parts, _ := r.d.board.all()
	if r.d.onModule() {
		parts = append(parts, initHealth()...)
	}
	return domain.Health{Status: worst(parts), Appliance: r.identity(), Started: domain.Stamp(r.d.started), Parts: parts}
}

// Inventory implements rest.Appliance.
func (r report) Inventory(context.Context) any { return r.d.hw.Document() }

// Network implements rest.Appliance.
func (r report) Network(ctx context.Context) any {
	if r.d.net == nil {
		return domain.NetReport{Links: []domain.NetLink{}, Drift: []string{}}
	}
	rep, err := r.d.net.report(ctx)
	if err != nil {
		rep.Drift = append(rep.Drift, err.Error())
	}
	return rep
}

// Storage implements rest.Appliance.
func (r report) Storage(ctx context.Context) any { return r.d.role.report(ctx) }

// Cluster implements rest.Appliance.
func (r report) Cluster(ctx context.Context) any {
	st, err := r.d.node.Status(ctx)
	rep := domain.ClusterReport{Members: []domain.ClusterMember{}, Revision: st.Revision, DBBytes: st.DBBytes}
	if err != nil {
		rep.Verdict = "the domain state does not answer: " + err.Error()
		return rep
	}
	rep.Leader = st.Leader
	for _, m := range st.Members {
		rep.Members = append(rep.Members, domain.ClusterMember{Name: m.Name, ID: m.ID, Voter: m.Voter})
	}
	rep.Verdict = verdict(len(st.Members))
	return rep
}

// verdict says what the loss of a voter would do.
func verdict(voters int) string {
	switch {
	case voters == 1:
		return "one voter, the development configuration: losing this appliance stops everything until it is back"
	case voters == 2:
		return "two voters: losing either stops changes until it is back; a witness in a third frame would prevent that"
	}
	return fmt.Sprintf("%d voters: %d may be lost", voters, (voters-1)/2)
}
