package group

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"baystream/daemon/pair"
)

// atOnce is how many volumes of a group are worked on side by side.
const atOnce = 8

// deadlines of the actions; those that are not listed have 10 s.
var deadlines = map[pair.Op]time.Duration{
	pair.PowerFence: 3 * time.Second, pair.Unexport: 20 * time.Second, pair.BringUp: 30 * time.Second,
	pair.ResetServers: time.Minute, pair.WinGrant: 5 * time.Second, pair.ClearGrant: 5 * time.Second,
	pair.YieldGrant: 5 * time.Second, pair.HandOver: 5 * time.Second, pair.Finish: 5 * time.Second,
}

func deadline(op pair.Op) time.Duration {
	if d, ok := deadlines[op]; ok {
		return d
	}
	return 10 * time.Second
}

// batch is what one round wants done for one group.
type batch struct {
	r       *Runner
	group   int
	record  pair.Record
	volumes []string
	flows   []netip.AddrPort
	asks    uint64 // the last ask of a fence handler that the round could see
}

// send lets the lane of a group carry the actions out.
func (r *Runner) send(ctx context.Context, v *pair.View, group int, asks uint64, actions []pair.Action) {
	b := &batch{r: r, group: group, asks: asks}
	for i := range v.Groups {
		if g := &v.Groups[i]; g.Number == group {
			b.record = g.Record
			for _, vol := range g.Volumes {
				b.volumes = append(b.volumes, vol.ID)
			}
		}
	}
	r.mu.Lock()
	b.flows = r.flows[group]
	what := fmt.Sprint(actions)
	last := r.tried[group]
	free := !r.busy[group] && (last.until <= v.Now || last.same != "" && last.same != what)
	anew := free && r.said[group] != what
	if free {
		r.busy[group], r.said[group] = true, what
	}
	r.mu.Unlock()
	if !free {
		return
	}
	if anew { // else it is tried again
		r.log.Info("group", "group", group, "do", what)
	}
	r.lane.Go(func() {
		began := r.cfg.Now()
		err := b.run(ctx, actions)
		r.mu.Lock()
		r.busy[group] = false
		if f := r.tried[group]; err != nil {
			f.pause = min(max(2*f.pause, retryMin), retryMax)
			f.until, f.same = r.cfg.Now()+f.pause, ""
			r.tried[group] = f
		} else {
			// What a step did not change would else be asked for without end.
			r.tried[group] = attempt{until: r.cfg.Now() + again, same: what}
		}
		r.mu.Unlock()
		switch {
		case err != nil && anew && ctx.Err() == nil:
			r.log.Warn("group", "group", group, "err", err)
		case err != nil:
			r.log.Debug("group", "group", group, "err", err)
		default:
			r.log.Info("group done", "group", group, "ms", (r.cfg.Now() - began).Milliseconds())
		}
		r.Wake()
	})
}

// run carries out actions in their order and stops at the first failure.
// Neighbours of one kind run side by side. When volumes that hang are taken
// down, each has a row of its own, so that none holds up the others.
func (b *batch) run(ctx context.Context, actions []pair.Action) error {
	if withdrawal(actions) {
		return b.withdraw(ctx, actions)
	}
	for len(actions) > 0 {
		n := 1
		for n < len(actions) && actions[n].Op == actions[0].Op {
			n++
		}
		if err := inParallel(actions[:n], func(a pair.Action) error { return b.do(ctx, a) }); err != nil {
			return err
		}
		actions = actions[n:]
	}
	return nil
}

// withdrawal says that the actions get a loser out of service: it thaws what
// has no leg any more, and no grant goes before.
func withdrawal(actions []pair.Action) bool {
	found := false
	for _, a := range actions {
		switch {
		case a.Op <= pair.Finish:
			return false
		case a.Op == pair.DetachForce, a.Op == pair.TakeDown:
			found = true
		}
	}
	return found
}

func (b *batch) withdraw(ctx context.Context, actions []pair.Action) error {
	rows := map[string][]pair.Action{}
	var order []string
	for _, a := range actions {
		switch {
		case a.Volume == "": // the address, which goes first
			if err := b.do(ctx, a); err != nil {
				return err
			}
		default:
			if rows[a.Volume] == nil {
				order = append(order, a.Volume)
			}
			rows[a.Volume] = append(rows[a.Volume], a)
		}
	}
	return inParallel(order, func(volume string) error {
		for _, a := range rows[volume] {
			if err := b.do(ctx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// do carries out one action within its deadline.
func (b *batch) do(ctx context.Context, a pair.Action) error {
	ctx, cancel := context.WithTimeout(ctx, deadline(a.Op))
	defer cancel()
	r := b.r
	var err error
	switch a.Op {
	case pair.WinGrant, pair.ClearGrant, pair.YieldGrant, pair.HandOver, pair.Finish:
		err = b.swap(ctx, a)
	case pair.PowerFence:
		if r.cfg.Power.Fence != nil {
			if ferr := r.cfg.Power.Fence(ctx); ferr != nil {
				r.log.Warn("partner's power", "err", ferr) // grants alone are safe too
			}
		}
	case pair.AnswerWon, pair.AnswerLost:
		r.cfg.Desk.Answer(r.cfg.Volumes.Resource(a.Volume), b.asks, a.Op == pair.AnswerWon)
	case pair.Promote:
		done := r.cfg.Desk.Expect(r.cfg.Volumes.Resource(a.Volume), a.Alone)
		err = r.cfg.Volumes.Do(ctx, a)
		done()
	case pair.Flush:
		err = inParallel(b.volumes, func(id string) error {
			return r.cfg.Volumes.Do(ctx, pair.Action{Op: pair.Flush, Group: b.group, Volume: id})
		})
		if err == nil {
			r.mu.Lock()
			r.flushed[b.group] = true
			r.mu.Unlock()
		}
	case pair.AddPortal:
		err = r.cfg.Portals.Add(ctx, b.group)
	case pair.RemovePortal:
		err = r.cfg.Portals.Remove(ctx, b.group)
	case pair.Announce:
		err = r.cfg.Portals.Announce(ctx, b.group)
	case pair.Tickle:
		if terr := r.cfg.Portals.Tickle(ctx, b.group, b.flows); terr != nil {
			r.log.Warn("tickle", "group", b.group, "err", terr) // servers notice by themselves, later
		}
	case pair.ResetServers:
		if r.cfg.Power.ResetServers == nil {
			err = errors.New("nothing here can reset servers")
		} else {
			err = r.cfg.Power.ResetServers(ctx, b.volumes)
		}
	case pair.HoldService, pair.DropService, pair.Quarantine: // not a group's
	default:
		err = r.cfg.Volumes.Do(ctx, a)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", a, err)
	}
	return nil
}

// swap writes the record that follows; later actions of the batch see it. After
// any failure nothing rests on the record before it was read again.
func (b *batch) swap(ctx context.Context, a pair.Action) error {
	var next pair.Record
	var err error
	switch a.Op {
	case pair.WinGrant:
		next, err = b.record.Win(b.r.cfg.Self)
	case pair.ClearGrant:
		next, err = b.record.Clear(b.r.cfg.Self)
	case pair.YieldGrant:
		next = b.record.Yield(b.r.cfg.Self)
	case pair.HandOver:
		next = b.record.HandOver(a.To)
	case pair.Finish:
		next = b.record.Finish()
	}
	if err != nil {
		return err
	}
	r := b.r
	r.mu.Lock()
	r.unsure[b.group] = r.reads // a read that began before the answer tells nothing
	r.mu.Unlock()
	revision, err := r.cfg.Grants.Swap(ctx, b.group, next)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.unsure[b.group] = r.reads
		return err
	}
	next.Revision = revision
	delete(r.unsure, b.group)
	b.record, r.records[b.group] = next, next
	return nil
}

// inParallel calls f for all, a few at a time, and joins the errors.
func inParallel[T any](all []T, f func(T) error) error {
	if len(all) == 1 {
		return f(all[0])
	}
	errs := make([]error, len(all))
	tokens := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, v := range all {
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			errs[i] = f(v)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
