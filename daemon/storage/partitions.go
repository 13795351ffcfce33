package storage

import (
	"context"
	"errors"
	"fmt"
	"os"

	"baystream/daemon/pool/dm"
)

// A Partition is a partition of an OS volume with a node of its own, for the
// appliance to personalise it. Number 0 is the whole of a volume without a
// partition table.
type Partition struct {
	Slice
	Node string
}

// Partitions gives every partition in the volume's GPT or MBR a node. The
// volume must not be exported: two writers would destroy its file systems.
// ReleasePartitions takes the nodes away; until then the volume can neither be
// exported nor deleted while one is open. A repeat reads the table again.
func (s *Storage) Partitions(ctx context.Context, id string) ([]Partition, error) {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, ok := s.book.volume(id)
	if !ok || !v.Made || v.Deleting {
		return nil, fmt.Errorf("partitions of OS volume %s: %w", id, ErrNotFound)
	}
	p, err := s.partitions(ctx, v)
	if err != nil {
		err = errors.Join(err, s.releasePartitions(context.WithoutCancel(ctx), v))
		return nil, fmt.Errorf("partitions of OS volume %s (%s): %w", v.Name, id, err)
	}
	return p, nil
}

func (s *Storage) partitions(ctx context.Context, v Volume) ([]Partition, error) {
	if v.Access != nil {
		return nil, fmt.Errorf("%w: exported to %s: unexport it first", ErrInUse, v.Access.InitiatorIQN)
	}
	if err := s.releasePartitions(ctx, v); err != nil {
		return nil, err
	}
	f, err := os.Open(v.Device())
	if err != nil {
		return nil, err
	}
	slices, err := ReadTable(f, v.sectors())
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(slices) == 0 {
		return []Partition{{Slice: Slice{Sectors: v.sectors()}, Node: v.Device()}}, nil
	}
	var out []Partition
	for _, sl := range slices {
		node, err := s.pool.Linear(ctx, fmt.Sprintf("%s%d", v.partPrefix(), sl.Number), v.Device(), sl.Start, sl.Sectors)
		if err != nil {
			return nil, err
		}
		out = append(out, Partition{Slice: sl, Node: node})
	}
	return out, nil
}

func (v Volume) partPrefix() string { return v.leg() + partMark }

// partMark stands between the names of a leg and of a partition's node.
const partMark = "-p"

// ReleasePartitions takes the nodes that Partitions made away again, all
// written data flushed. It answers ErrInUse while one is open or mounted.
func (s *Storage) ReleasePartitions(ctx context.Context, id string) error {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	v, ok := s.book.volume(id)
	if !ok {
		return nil
	}
	if err := s.releasePartitions(ctx, v); err != nil {
		return fmt.Errorf("release partitions of OS volume %s (%s): %w", v.Name, id, err)
	}
	return nil
}

func (s *Storage) releasePartitions(ctx context.Context, v Volume) error {
	names, err := s.pool.Active(v.partPrefix())
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := s.pool.Deactivate(ctx, n); err != nil {
			if errors.Is(err, dm.ErrBusy) {
				return fmt.Errorf("%w: %w: unmount it", ErrInUse, err)
			}
			return err
		}
	}
	return nil
}
