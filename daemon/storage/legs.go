package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"baystream/daemon/mirror"
	"baystream/daemon/target"
)

// A Leg is a volume of a pair as it is on this appliance.
type Leg struct {
	Volume
	Up       bool // the resource is there
	Mirror   mirror.State
	Exported bool
	Sessions []target.Session
	// Done and Waiting are the requests that the leg has completed since it
	// came up, and those that wait in it now. One that keeps requests shows
	// the same Done for as long.
	Done    uint64
	Waiting uint64
}

// Legs returns every volume that was made here, by id. It touches no device, so
// it does not hang with one.
func (s *Storage) Legs(ctx context.Context) (map[string]Leg, error) {
	states, err := s.mirror.States(ctx)
	if err != nil {
		return nil, err
	}
	byMinor := map[uint32]mirror.State{}
	for _, m := range states {
		byMinor[m.Minor] = m
	}
	iqns, err := s.target.Targets()
	if err != nil {
		return nil, err
	}
	legs := map[string]Leg{}
	for _, v := range s.book.all().Volumes {
		if !v.Made || v.Deleting {
			continue
		}
		l := Leg{Volume: v}
		if l.Mirror, l.Up = byMinor[v.Minor]; l.Mirror.Name != v.resource() {
			l.Mirror, l.Up = mirror.State{}, false // another's minor
		}
		if l.Exported = slices.Contains(iqns, iqn(v)); l.Exported {
			if l.Sessions, err = s.target.Sessions(ctx, iqn(v)); err != nil {
				return nil, err
			}
		}
		if l.Up && l.Mirror.Leg != "" {
			l.Done, l.Waiting = traffic("/", l.Mirror.Leg)
		}
		legs[v.ID] = l
	}
	return legs, nil
}

// traffic reads what a block device has done and what waits in it, from its
// statistics (Linux Documentation/block/stat.rst). It is nothing for one that
// has gone.
func traffic(root, node string) (done, waiting uint64) {
	b, err := os.ReadFile(filepath.Join(root, "sys/block", filepath.Base(node), "stat"))
	if err != nil {
		return 0, 0
	}
	f := strings.Fields(string(b))
	number := func(i int) uint64 {
		if i >= len(f) {
			return 0
		}
		n, _ := strconv.ParseUint(f[i], 10, 64)
		return n
	}
	return number(0) + number(4) + number(11) + number(15), number(8) // reads, writes, discards, flushes; in flight
}

// Resource is the name that DRBD has for a volume; empty for one that is not here.
func (s *Storage) Resource(id string) string {
	v, ok := s.book.volume(id)
	if !ok {
		return ""
	}
	return v.resource()
}

// Watch wakes its reader when the state of a mirror may have changed.
func (s *Storage) Watch(ctx context.Context) (<-chan struct{}, error) { return s.mirror.Watch(ctx) }

// Expose makes a volume of a pair reachable as a says. Unlike Export it leaves
// no record: who may reach the volumes of a pair is on the pair's.
func (s *Storage) Expose(ctx context.Context, id string, a Access) error {
	return s.on(ctx, id, "expose", func(v Volume) error {
		v.Access = &a
		return s.export(ctx, v)
	})
}

// Hide takes the target of a volume of a pair away. While a server is logged in
// it answers ErrInUse, unless force is set.
func (s *Storage) Hide(ctx context.Context, id string, force bool) error {
	return s.on(ctx, id, "hide", func(v Volume) error { return s.unexport(ctx, v, force) })
}

// Meet lets a draft look for its partner and go on without it when it is lost:
// it gets the other leg what was written here.
func (s *Storage) Meet(ctx context.Context, id string) error {
	return s.on(ctx, id, "meet", func(v Volume) error {
		p, err := s.peer(v)
		if err != nil {
			return err
		}
		return s.mirror.Connect(ctx, v.resource(), v.Minor, p)
	})
}

// Settle ends that a volume is a draft. It becomes secondary and freezes from
// now on when it is primary and loses its partner: who serves it is for the
// pair to say. One that is none any more is left alone.
func (s *Storage) Settle(ctx context.Context, id string) error {
	return s.on(ctx, id, "settle", func(v Volume) error {
		if !v.Draft {
			return nil // whoever has it may be serving it
		}
		if s.paired.Load() != nil {
			if err := s.releasePartitions(ctx, v); err != nil {
				return err
			}
			if err := s.syncGood(ctx, v); err != nil {
				return err
			}
			if err := s.mirror.Demote(ctx, v.resource(), v.Minor); err != nil {
				return err
			}
			if err := s.mirror.Reconfigure(ctx, s.resource(v, "", true)); err != nil {
				return err
			}
		}
		v.Draft = false
		return s.book.putVolume(ctx, v)
	})
}

// DetachForce drops the leg of a volume without waiting for its I/O. It fails
// unless DRBD shows it gone afterwards.
func (s *Storage) DetachForce(ctx context.Context, id string) error {
	return s.on(ctx, id, "detach", func(v Volume) error {
		return within(ctx, detachLimit, func(ctx context.Context) error {
			return s.mirror.DetachForce(ctx, v.resource(), v.Minor)
		})
	})
}

// OpenVolume opens the contents of a volume for reading: its device where this
// appliance is primary, else its leg, as a secondary cannot be opened. Nobody
// should be writing meanwhile.
func (s *Storage) OpenVolume(ctx context.Context, id string) (f *os.File, size int64, err error) {
	err = s.on(ctx, id, "read", func(v Volume) error {
		size = int64(v.SizeBytes)
		st, found, err := s.mirror.State(ctx, v.Minor)
		switch {
		case err != nil:
			return err
		case found && st.Role == mirror.Primary:
			f, err = os.Open(v.Device())
			return err
		case !found || st.Disk != mirror.UpToDate || st.Connection != mirror.Connected:
			return errors.New("its copy here may be older than the partner's: wait for the resync")
		}
		if f, err = os.Open(st.Leg); err != nil {
			return err
		}
		// What was read of the leg before may be in the page cache, which DRBD's
		// writes do not go through.
		return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	})
	return f, size, err
}
