package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"baystream/daemon/mirror"
)

// Pairing is how this appliance's legs find those of its partner. With it,
// Storage does not decide any more who serves a volume: it comes up secondary
// at most, and the methods of this file do what the pair decides (daemon/pair).
type Pairing struct {
	Local, Remote netip.Addr // on the network of the mirrors
	Secret        string     // shared by both
	Port          uint32     // TCP port of minor 0, default mirrorPorts
}

// mirrorPorts begins the TCP ports of the mirrors; each volume has that of its
// minor, which is the same on both appliances.
const mirrorPorts = 7000

// The operations on what may be frozen have deadlines of their own, so that one
// volume cannot hold up its group.
const (
	detachLimit = 5 * time.Second
	resumeLimit = 5 * time.Second
	removeLimit = 20 * time.Second
)

// SetPair makes this appliance one of a pair from now on, or tells the partner's
// new address: links to the old one end. Volumes stay as they are otherwise.
func (s *Storage) SetPair(ctx context.Context, p Pairing) error {
	old := s.paired.Load()
	if old != nil && *old == p {
		return nil
	}
	var err error
	if old != nil && old.Remote.IsValid() {
		err = inParallel(s.book.all().Volumes, func(v Volume) error {
			if link, err := s.peer(v); err == nil && v.Made {
				return s.mirror.Disconnect(ctx, v.resource(), link, true)
			}
			return nil
		})
	}
	s.paired.Store(&p)
	return err
}

// inPair says that the pair decides about v: it is not one that only this
// appliance has.
func (s *Storage) inPair(v Volume) bool { return s.paired.Load() != nil && !v.Draft }

// peer is the link of a volume.
func (s *Storage) peer(v Volume) (mirror.Peer, error) {
	p := s.paired.Load()
	if p == nil {
		return mirror.Peer{}, errors.New("this appliance has no partner")
	}
	port := cmp.Or(p.Port, mirrorPorts) + v.Minor
	if port > 65535 {
		return mirror.Peer{}, fmt.Errorf("minor %d has no port", v.Minor)
	}
	return mirror.Peer{
		Local: netip.AddrPortFrom(p.Local, uint16(port)), Remote: netip.AddrPortFrom(p.Remote, uint16(port)), Secret: p.Secret,
	}, nil
}

// resource is a volume's resource in a pair.
func (s *Storage) resource(v Volume, leg string, fencing bool) mirror.Resource {
	var minors []uint32
	for _, o := range s.book.all().Volumes {
		minors = append(minors, o.Minor)
	}
	return mirror.Resource{
		Name: v.resource(), Minor: v.Minor, Leg: leg, DataSectors: v.sectors(),
		Fencing: fencing, ResyncAfter: mirror.ResyncAfter(minors, v.Minor),
	}
}

// on does f with a volume that was made, alone.
func (s *Storage) on(ctx context.Context, id, what string, f func(Volume) error) error {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	v, ok := s.book.volume(id)
	if !ok || !v.Made || v.Deleting {
		return fmt.Errorf("%s OS volume %s: %w", what, id, ErrNotFound)
	}
	if err := f(v); err != nil {
		return fmt.Errorf("%s OS volume %s (%s): %w", what, v.Name, id, err)
	}
	return nil
}

// AdoptVolume makes the leg of a volume that the partner has made, from its
// record: the same incarnation (UUID), so that it gets what was written since
// the beginning at the first Connect, and nothing more. Until then it is marked
// as what may lack something: it cannot serve. The golden image must
// be here with the same digest. It does not become primary.
func (s *Storage) AdoptVolume(ctx context.Context, v Volume) (Volume, error) {
	unlock, err := s.book.lock(ctx, v.ID)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	own, found := s.book.volume(v.ID)
	switch {
	case found && own.Draft:
		return Volume{}, fmt.Errorf("adopt OS volume %s (%s): %w: this appliance makes one of that id itself", v.Name, v.ID, ErrConflict)
	case found && own.UUID != v.UUID: // a leg of an older incarnation is worth nothing
		if err := s.destroy(ctx, own); err != nil {
			return Volume{}, fmt.Errorf("adopt OS volume %s (%s): leg of an older incarnation: %w", v.Name, v.ID, err)
		}
		found = false
	case found && own.Made:
		return own, nil
	}
	if !found {
		if err := s.MayClone(); err != nil {
			return Volume{}, err
		}
		if own, err = s.book.adopt(ctx, v); err != nil {
			return Volume{}, fmt.Errorf("adopt OS volume %s (%s): %w", v.Name, v.ID, err)
		}
	}
	own, err = s.makeLeg(ctx, own, !found, func(v Volume) error {
		leg, _, err := s.activateLeg(ctx, v, true)
		if err == nil { // before it counts as made: a crash must not leave a leg that passes for whole
			err = mirror.Disown(leg, v.sectors())
		}
		if err != nil {
			return err
		}
		return s.attach(ctx, v, false, true)
	})
	if err != nil {
		return Volume{}, fmt.Errorf("adopt OS volume %s (%s): %w", v.Name, v.ID, err)
	}
	s.log.Info("leg of the partner's volume made", "volume", own.ID, "name", own.Name)
	return own, nil
}

// attach brings a volume's resource up and leaves its role.
func (s *Storage) attach(ctx context.Context, v Volume, fresh, fencing bool) error {
	leg, written, err := s.activateLeg(ctx, v, fresh)
	if err != nil {
		return err
	}
	r := s.resource(v, leg, fencing)
	r.Fresh = written
	_, err = s.mirror.Attach(ctx, r)
	return err
}

// BringUp attaches the leg of a volume. Disown marks it before as what may lack
// something: then it can become nothing but the target of a resync.
func (s *Storage) BringUp(ctx context.Context, id string, disown bool) error {
	return s.on(ctx, id, "bring up", func(v Volume) error {
		if disown {
			leg, _, err := s.activateLeg(ctx, v, false)
			if err == nil {
				err = mirror.Disown(leg, v.sectors())
			}
			if err != nil {
				return err
			}
		}
		return s.attach(ctx, v, false, true)
	})
}

// BringDown ends the resource of a volume. It answers ErrInUse while its device
// is open.
func (s *Storage) BringDown(ctx context.Context, id string) error {
	return s.on(ctx, id, "bring down", func(v Volume) error { return s.down(ctx, v) })
}

// Connect lets a volume look for its partner; from then on it freezes when it
// loses it.
func (s *Storage) Connect(ctx context.Context, id string) error {
	return s.on(ctx, id, "connect", func(v Volume) error {
		p, err := s.peer(v)
		if err != nil {
			return err
		}
		if err := s.mirror.Reconfigure(ctx, s.resource(v, "", true)); err != nil {
			return err
		}
		return s.mirror.Connect(ctx, v.resource(), v.Minor, p)
	})
}

// ForceDisconnect leaves a partner that is believed dead, without waiting for it.
func (s *Storage) ForceDisconnect(ctx context.Context, id string) error {
	return s.on(ctx, id, "disconnect", func(v Volume) error {
		p, err := s.peer(v)
		if err != nil {
			return err
		}
		return s.mirror.Disconnect(ctx, v.resource(), p, true)
	})
}

// Promote makes a volume primary, see mirror.Control.Promote.
func (s *Storage) Promote(ctx context.Context, id string) error {
	return s.on(ctx, id, "promote", func(v Volume) error { return s.mirror.Promote(ctx, v.resource(), v.Minor) })
}

// Demote makes a volume secondary, with all that was acknowledged on the disks
// of both sides. Its target must be gone.
func (s *Storage) Demote(ctx context.Context, id string) error {
	return s.on(ctx, id, "demote", func(v Volume) error {
		if err := s.releasePartitions(ctx, v); err != nil {
			return err
		}
		if err := s.syncGood(ctx, v); err != nil {
			return err
		}
		err := s.mirror.Demote(ctx, v.resource(), v.Minor)
		if errors.Is(err, mirror.ErrInUse) {
			return fmt.Errorf("%w: %w", ErrInUse, err)
		}
		return err
	})
}

// syncGood flushes a primary, unless it reaches no leg: then there is nothing
// that could be flushed.
func (s *Storage) syncGood(ctx context.Context, v Volume) error {
	st, found, err := s.mirror.State(ctx, v.Minor)
	if err != nil || !found || st.Role != mirror.Primary {
		return err
	}
	if st.Disk <= mirror.Failed && !st.Connection.Up() {
		return nil
	}
	return syncNode(v.Device())
}

// Outdate marks the attached leg of a volume as older than the partner's.
func (s *Storage) Outdate(ctx context.Context, id string) error {
	return s.on(ctx, id, "outdate", func(v Volume) error { return s.mirror.Outdate(ctx, v.resource(), v.Minor) })
}

// ResumeIO thaws a frozen volume whose leg is attached: this side has won.
func (s *Storage) ResumeIO(ctx context.Context, id string) error {
	return s.on(ctx, id, "resume", func(v Volume) error { return s.mirror.ResumeIO(ctx, v.resource(), v.Minor) })
}

// FlushLeg writes the cache of a volume's leg to the disk. A secondary device
// cannot be opened, so it is the leg that is.
func (s *Storage) FlushLeg(ctx context.Context, id string) error {
	return s.on(ctx, id, "flush", func(v Volume) error {
		leg, _, err := s.activateLeg(ctx, v, false)
		if err != nil {
			return err
		}
		return syncNode(leg)
	})
}

func syncNode(node string) error {
	f, err := os.OpenFile(node, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// GiveUp gets a volume that lost, and is frozen, back to what can be attached
// and resynced, without a reboot. The portal address must be gone already, so
// that servers see silence and not the errors that follow. The order is what
// keeps the leg as it is: it is dropped first, then what hangs ends in errors,
// then target and resource go. BringUp and Connect follow.
func (s *Storage) GiveUp(ctx context.Context, id string) error {
	return s.on(ctx, id, "give up", func(v Volume) error {
		st, found, err := s.mirror.State(ctx, v.Minor)
		if err != nil || !found {
			return err
		}
		if st.Suspended {
			if err := within(ctx, detachLimit, func(ctx context.Context) error {
				return s.mirror.DetachForce(ctx, v.resource(), v.Minor)
			}); err != nil {
				return err // never resume what is still attached
			}
			if err := within(ctx, resumeLimit, func(ctx context.Context) error {
				return s.mirror.ResumeIO(ctx, v.resource(), v.Minor)
			}); err != nil {
				return err
			}
		}
		return within(ctx, removeLimit, func(ctx context.Context) error {
			if err := s.target.Remove(ctx, iqn(v), v.ID, true); err != nil {
				return err
			}
			return s.down(ctx, v)
		})
	})
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}
