package storage

import (
	"cmp"
	"context"
	"slices"

	"baystream/daemon/mirror"
	"baystream/daemon/pool"
	"baystream/daemon/target"
)

// Status is the whole of an appliance's storage at one moment.
type Status struct {
	Pool    pool.Status
	Warning string // for the operator; empty when all is well
	Goldens []Golden
	Volumes []VolumeStatus
}

// VolumeStatus is one volume, as recorded and as it is.
type VolumeStatus struct {
	Volume
	Mirror    mirror.State
	Running   bool   // DRBD is primary on a good leg
	Used      uint64 // bytes of the leg that are mapped, those shared with the image included
	Exported  bool
	Sessions  []target.Session
	Condition string // "ready", "in use", "not running", "being made", "being deleted", "frozen"
}

// Status asks the kernel and the records. It touches no volume's data.
func (s *Storage) Status(ctx context.Context) (Status, error) {
	var st Status
	var err error
	if st.Pool, err = s.pool.Status(); err != nil {
		return Status{}, err
	}
	st.Warning = st.Pool.Warning()
	states, err := s.mirror.States(ctx)
	if err != nil {
		return Status{}, err
	}
	byMinor := map[uint32]mirror.State{}
	for _, m := range states {
		byMinor[m.Minor] = m
	}
	iqns, err := s.target.Targets()
	if err != nil {
		return Status{}, err
	}
	book := s.book.all()
	for _, v := range book.Volumes {
		vs := VolumeStatus{Volume: v, Mirror: byMinor[v.Minor], Exported: slices.Contains(iqns, iqn(v))}
		vs.Running = vs.Mirror.Role == mirror.Primary && vs.Mirror.Disk == mirror.UpToDate
		vs.Used, _ = s.pool.Mapped(v.leg()) // 0 while it has no node
		if vs.Exported {
			if vs.Sessions, err = s.target.Sessions(ctx, iqn(v)); err != nil {
				return Status{}, err
			}
		}
		vs.Condition = condition(vs)
		st.Volumes = append(st.Volumes, vs)
	}
	st.Goldens = book.Goldens
	slices.SortFunc(st.Volumes, func(a, b VolumeStatus) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	slices.SortFunc(st.Goldens, func(a, b Golden) int { return cmp.Compare(a.ID, b.ID) })
	return st, nil
}

// condition is a volume's state in words.
func condition(v VolumeStatus) string {
	switch {
	case v.Deleting:
		return "being deleted"
	case !v.Made:
		return "being made"
	case v.Mirror.Suspended:
		return "frozen"
	case !v.Running:
		return "not running"
	case len(v.Sessions) > 0:
		return "in use"
	}
	return "ready"
}
