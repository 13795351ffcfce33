package group

import (
	"context"
	"fmt"
	"strconv"

	"baystream/daemon/cluster"
	"baystream/daemon/pair"
)

// Grants are the records of the groups in the domain state. Every answer has a
// majority behind it.
type Grants interface {
	Read(context.Context) (map[int]pair.Record, error) // with their revisions; none that was never written
	// Swap writes r under the condition that the revision there is r's.
	Swap(ctx context.Context, group int, r pair.Record) (revision int64, err error)
	Changed() <-chan struct{}
}

// Register keeps the records in registers of the domain state.
type Register struct {
	reg     *cluster.Register[pair.Record]
	groups  []int
	changed <-chan struct{}
}

// NewRegister makes the Grants of these groups; it watches until ctx ends.
func NewRegister(ctx context.Context, reg *cluster.Register[pair.Record], groups []int) *Register {
	return &Register{reg: reg, groups: groups, changed: reg.Watch(ctx)}
}

// Name is what a group is called.
func Name(group int) string { return strconv.Itoa(group) }

// Read implements Grants.
func (g *Register) Read(ctx context.Context) (map[int]pair.Record, error) {
	stored, err := g.reg.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("records of the groups: %w", err)
	}
	all := map[int]pair.Record{}
	for _, n := range g.groups {
		if s, ok := stored[Name(n)]; ok {
			r := s.Value
			r.Revision = s.Revision
			all[n] = r
		}
	}
	return all, nil
}

// Swap implements Grants.
func (g *Register) Swap(ctx context.Context, group int, r pair.Record) (int64, error) {
	return g.reg.Swap(ctx, Name(group), r.Revision, r)
}

// Changed implements Grants.
func (g *Register) Changed() <-chan struct{} { return g.changed }
