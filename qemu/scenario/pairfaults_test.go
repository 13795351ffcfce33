package scenario

import (
	"context"
	"errors"
	"testing"
	"time"

	"baystream/qemu"
	"baystream/qemu/block"
	"baystream/qemu/pair"
)

// pairFault is something that goes wrong with a pair, and is mended. Two servers
// write all the while (through).
type pairFault struct {
	name string
	do   func(ctx context.Context) error
}

// faults are what goes wrong with a pair, one after the other: all of it in
// make test-long, each by go test -run TestFramePair/.../NAME.
func (s *pairSite) faults() []pairFault {
	links := func(link string) func(context.Context) error {
		return func(ctx context.Context) error {
			defer s.MendLinks()
			return errors.Join(s.CutLink(link, s.A, s.B), wait(ctx, pair.Patience))
		}
	}
	oneWay := func(from, to *qemu.Bay) func(context.Context) error {
		return func(ctx context.Context) error {
			defer s.MendLinks()
			return errors.Join(s.CutOneWay(qemu.MirrorLink, from, to), wait(ctx, pair.Patience))
		}
	}
	network := func(f qemu.Fault) func(context.Context) error {
		return func(ctx context.Context) error {
			defer func() { _ = s.Heal(context.WithoutCancel(ctx)) }()
			for _, name := range []string{qemu.Management, qemu.IC3, qemu.IC6} {
				n, err := s.Network(name)
				if err == nil {
					err = n.SetFault(f)
				}
				if err != nil {
					return err
				}
			}
			return wait(ctx, 2*pair.Patience)
		}
	}
	power := func(bays ...*qemu.Bay) func(context.Context) error {
		return func(ctx context.Context) error {
			for _, b := range bays {
				b.PowerOff()
			}
			err := wait(ctx, pair.Patience)
			for _, b := range bays {
				err = errors.Join(err, b.PowerOn(ctx))
			}
			return err
		}
	}
	disk := func(f block.Fault) func(context.Context) error {
		return func(ctx context.Context) error {
			d, err := s.A.Drive("disk0")
			if err != nil {
				return err
			}
			f.From, f.To = poolFrom, poolTo
			if err := d.SetFault(f); err != nil {
				return err
			}
			defer d.Heal()
			return wait(ctx, 2*pair.Patience)
		}
	}
	return []pairFault{
		{"StandbyDies", power(s.B)},
		{"WitnessDies", power(s.Witness)},
		{"MirrorCut", links(qemu.MirrorLink)},
		{"ManagementCut", links(qemu.ManagementLink)},
		{"AllCutBetweenThem", links(qemu.AllLinks)},
		{"MirrorOneWay", oneWay(s.A, s.B)},
		{"MirrorOtherWay", oneWay(s.B, s.A)},
		{"MirrorFlaps", func(ctx context.Context) error {
			flap, done := context.WithTimeout(ctx, 2*pair.Patience)
			defer done()
			return s.Flap(flap, qemu.MirrorLink, s.A, s.B, time.Second)
		}},
		{"Loss", network(qemu.Fault{Loss: 0.05})},
		{"Delay", network(qemu.Fault{Delay: 100 * time.Millisecond, Jitter: 50 * time.Millisecond})},
		{"DuplicatesAndReordering", network(qemu.Fault{Duplicate: 0.05, Reorder: 0.05})},
		{"OwnerHangs", func(ctx context.Context) error {
			err := errors.Join(s.A.Pause(ctx), wait(ctx, pair.Patience))
			_ = s.A.Resume(ctx) // the partner may have taken its power meanwhile, and given it back
			return err
		}},
		{"DiskErrors", disk(block.Fault{ReadErrors: true, WriteErrors: true})},
		{"BothDie", power(s.A, s.B)},
		{"AllDie", power(s.A, s.B, s.Witness)},
	}
}

// Where the pool is on an appliance's data disk, in bytes: behind the local
// partition.
const (
	poolFrom = 1<<30 + 1<<20
	poolTo   = 8 << 30
)

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// fault lets f happen and holds what through holds.
func (s *pairSite) fault(f pairFault) func(t *testing.T) {
	return func(t *testing.T) {
		s.through(t, f.name, func(ctx context.Context) { must(t, f.do(ctx)) })
	}
}
