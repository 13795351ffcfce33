package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"baystream/daemon/domain"
)

// ErrDeposed says that a write was not done because whoever wanted it is no
// longer the active appliance.
var ErrDeposed = domain.ErrDeposed

// Term is the time that one appliance is the active one.
type Term struct {
	Holder  string `json:"holder"`  // name of the member; empty: nobody
	Epoch   uint64 `json:"epoch"`   // one more with each term; never goes back
	Attempt string `json:"attempt"` // which try at being elected it was
	Lease   int64  `json:"lease"`
	created int64  // revision of the key: what a write under this term compares
	ttl     time.Duration
	until   time.Time // the first end of the lease
}

type termKey struct{}

// Context makes every transaction under ctx fail with ErrDeposed once the term
// is over: an appliance that was suspended in the midst of a write and wakes up
// after another has taken over changes nothing.
func (t Term) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, termKey{}, t)
}

// TermOf is the term that ctx writes under, and false if it is under none.
func TermOf(ctx context.Context) (Term, bool) {
	t, ok := ctx.Value(termKey{}).(Term)
	return t, ok
}

const (
	activeKey = root + "election/active" // under the holder's lease
	epochKey  = root + "election/epoch"  // of the last term
	nextKey   = root + "election/next"   // who is to be elected next, under a lease of its own
)

// DefaultTTL is how long the active appliance can be silent before another is
// elected. An upload of a golden image keeps its disk busy for longer than a
// second; that its power is gone is known sooner than by any lease.
const DefaultTTL = 3 * time.Second

// A member whose lease runs out while it can reach the domain state gets a
// longer one the next time, up to four times as long, until it has held the
// place for a minute: a slow appliance must not make the place wander.
const (
	maxPatience = 2
	calm        = time.Minute
)

// Elector elects the active appliance among those that run one with the same
// domain state.
//
// The holder keeps a lease alive; it takes itself for deposed one TTL after the
// last renewal that it knows to have succeeded, by its own monotonic clock,
// counted from before the request: always earlier than the domain state can
// give the place to another.
type Elector struct {
	client *clientv3.Client
	name   string
	ttl    time.Duration
	log    *slog.Logger

	patience int       // doublings of ttl; Run's alone, like silent
	silent   time.Time // when the last lease ran out, until the domain state answers again

	mu     sync.Mutex
	resign chan struct{} // closed to end the present term; nil without one
}

// NewElector makes the elector of the named member; ttl is rounded up to whole
// seconds, zero is DefaultTTL.
func NewElector(c *clientv3.Client, name string, ttl time.Duration, log *slog.Logger) *Elector {
	ttl = cmp.Or(ttl, DefaultTTL)
	return &Elector{client: c, name: name, ttl: (ttl + time.Second - 1).Truncate(time.Second), log: log}
}

// Run stands for election until ctx ends. While this member is the active one
// it runs serve; its context is that of the term (Term.Context) and ends with
// it. A serve that returns by itself resigns; Run waits for it in any case
// before it stands again. A fault of the domain state is waited out.
func (e *Elector) Run(ctx context.Context, serve func(context.Context, Term) error) error {
	changed := watch(ctx, e.client, activeKey)
	retry := time.NewTicker(e.ttl) // a watch that lags must not leave the place empty
	defer retry.Stop()
	for ctx.Err() == nil {
		term, won, err := e.stand(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			e.log.Debug("stand for election", "err", err)
		case won:
			if err := e.hold(ctx, term, serve); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-retry.C:
		}
	}
	return nil
}

// stand tries once to become the active one.
func (e *Elector) stand(ctx context.Context) (Term, bool, error) {
	ttl := e.ttl << e.patience
	ctx, cancel := context.WithTimeout(ctx, ttl*3/2) // what is asked of a dead leader is never answered
	defer cancel()
	r, err := e.client.Txn(ctx).Then(clientv3.OpGet(activeKey), clientv3.OpGet(epochKey), clientv3.OpGet(nextKey)).Commit()
	if err != nil {
		return Term{}, false, wrap("read who is active", err)
	}
	if !e.silent.IsZero() && time.Since(e.silent) < 2*ttl {
		e.wait() // slow, not cut off
	}
	e.silent = time.Time{}
	active, epoch, next := r.Responses[0].GetResponseRange().Kvs, r.Responses[1].GetResponseRange().Kvs, r.Responses[2].GetResponseRange().Kvs
	if len(active) > 0 || len(next) > 0 && string(next[0].Value) != e.name {
		return Term{}, false, nil
	}
	begun := time.Now()
	lease, err := e.client.Grant(ctx, int64(ttl/time.Second))
	if err != nil {
		return Term{}, false, wrap("lease for the active appliance", err)
	}
	term := Term{Holder: e.name, Epoch: 1, Attempt: rand.Text(), Lease: int64(lease.ID), ttl: ttl, until: begun.Add(ttl)}
	var seen int64
	if len(epoch) > 0 {
		var last uint64
		if err := decode(epochKey, epoch[0].Value, &last); err != nil {
			return Term{}, false, err
		}
		term.Epoch, seen = last+1, epoch[0].ModRevision
	}
	// A term that is not held is no loss: its lease runs out.
	if term, err = e.take(ctx, term, seen); err != nil {
		return Term{}, false, err
	}
	if time.Now().After(term.until) {
		e.wait()
		return Term{}, false, fmt.Errorf("being elected took longer than the lease of %v", ttl)
	}
	return term, true, nil
}

// wait makes the next lease of a member for whom the last was too short twice
// as long.
func (e *Elector) wait() { e.patience = min(e.patience+1, maxPatience) }

// take writes the term where none is. An answer that is lost is asked for.
func (e *Elector) take(ctx context.Context, term Term, epochSeen int64) (Term, error) {
	value, err := encode(term)
	if err != nil {
		return term, err
	}
	epoch, err := encode(term.Epoch)
	if err != nil {
		return term, err
	}
	r, err := e.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(activeKey), "=", 0), clientv3.Compare(clientv3.ModRevision(epochKey), "=", epochSeen)).
		Then(clientv3.OpPut(activeKey, value, clientv3.WithLease(clientv3.LeaseID(term.Lease))), clientv3.OpPut(epochKey, epoch), clientv3.OpDelete(nextKey)).
		Commit()
	switch {
	case err == nil && r.Succeeded:
		term.created = r.Header.Revision
		return term, nil
	case err == nil:
		return term, ErrLost
	}
	now, rerr := e.Current(ctx)
	if rerr != nil {
		return term, errors.Join(wrap("become the active appliance", err), rerr)
	}
	if now.Attempt == term.Attempt {
		term.created = now.created
		return term, nil
	}
	return term, ErrLost
}

// hold runs serve until the term ends.
func (e *Elector) hold(ctx context.Context, term Term, serve func(context.Context, Term) error) error {
	begun := time.Now()
	resign := make(chan struct{})
	e.mu.Lock()
	e.resign = resign
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.resign = nil
		e.mu.Unlock()
	}()
	e.log.Info("active", "epoch", term.Epoch)
	inner, depose := context.WithCancelCause(term.Context(ctx))
	done := make(chan error, 1)
	go func() { done <- serve(inner, term) }()
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		depose(e.keep(inner, term, resign))
	}()
	err := <-done
	depose(errors.New("the work of the active appliance has ended"))
	<-kept
	if time.Since(begun) > calm {
		e.patience = 0
	}
	if errors.Is(context.Cause(inner), errSilent) {
		e.silent = time.Now()
	} else { // serve has ended: the next may begin at once
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), term.ttl)
		defer cancel()
		if err := e.Depose(last, term); err != nil {
			e.log.Debug("end the term", "err", err)
		}
	}
	e.log.Info("no longer active", "epoch", term.Epoch, "because", context.Cause(inner))
	if ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, ErrDeposed) {
		return nil
	}
	return err
}

// maxAsking is how many renewals may be under way: one that is lost in a change
// of raft's leader must not hold up the next.
const maxAsking = 3

var errSilent = errors.New("its lease could not be renewed in time")

// keep renews the lease and returns why the term is over.
func (e *Elector) keep(ctx context.Context, term Term, resign <-chan struct{}) error {
	gone := make(chan struct{})
	watchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for r := range e.client.Watch(watchCtx, activeKey, clientv3.WithRev(term.created+1)) {
			for _, ev := range r.Events {
				if ev.Type == clientv3.EventTypeDelete {
					close(gone)
					return
				}
			}
		}
	}()
	deadline := term.until
	beat := time.NewTicker(term.ttl / 4)
	defer beat.Stop()
	renewed := make(chan time.Time, maxAsking)
	asking := 0
	for {
		over := time.NewTimer(time.Until(deadline))
		select {
		case <-ctx.Done():
			over.Stop()
			return context.Cause(ctx)
		case <-resign:
			over.Stop()
			return errors.New("it has resigned")
		case <-gone:
			over.Stop()
			return errors.New("it was deposed")
		case <-over.C:
			return errSilent
		case begun := <-renewed:
			asking--
			if until := begun.Add(term.ttl); !begun.IsZero() && until.After(deadline) {
				deadline = until
			}
		case <-beat.C:
			if asking == maxAsking {
				break
			}
			asking++
			go func() {
				begun := time.Now()
				once, cancel := context.WithTimeout(ctx, term.ttl)
				defer cancel()
				if err := e.renew(once, term); err != nil {
					begun = time.Time{}
				}
				renewed <- begun
			}()
		}
		over.Stop()
	}
}

// renew renews the lease of a term. A leader of raft that is cut off goes on
// renewing until it notices, so a read that a majority has to confirm follows,
// in the same term of raft.
func (e *Elector) renew(ctx context.Context, term Term) error {
	r, err := e.client.KeepAliveOnce(ctx, clientv3.LeaseID(term.Lease))
	if err != nil {
		return err
	}
	got, err := e.client.Get(ctx, activeKey)
	switch {
	case err != nil:
		return err
	case r.TTL <= 0 || len(got.Kvs) == 0 || got.Kvs[0].CreateRevision != term.created:
		return ErrDeposed
	case got.Header.RaftTerm != r.RaftTerm:
		return errors.New("raft's leader changed meanwhile")
	}
	return nil
}

// Current is the present term; one without a holder means that nobody is
// active.
func (e *Elector) Current(ctx context.Context) (Term, error) { return CurrentTerm(ctx, e.client) }

// CurrentTerm is the present term in the state of c.
func CurrentTerm(ctx context.Context, c *clientv3.Client) (Term, error) {
	r, err := c.Get(ctx, activeKey)
	if err != nil {
		return Term{}, wrap("read who is active", err)
	}
	if len(r.Kvs) == 0 {
		return Term{}, nil
	}
	var t Term
	err = decode(activeKey, r.Kvs[0].Value, &t)
	t.created = r.Kvs[0].CreateRevision
	return t, err
}

// LastEpoch is the epoch of the last term in the state of c, 0 if nobody was
// ever elected.
func LastEpoch(ctx context.Context, c *clientv3.Client) (uint64, error) {
	r, err := c.Get(ctx, epochKey)
	if err != nil {
		return 0, wrap("read the last epoch", err)
	}
	if len(r.Kvs) == 0 {
		return 0, nil
	}
	var epoch uint64
	err = decode(epochKey, r.Kvs[0].Value, &epoch)
	return epoch, err
}

// WatchActive wakes its reader once when it stands and whenever another
// appliance becomes active or none is.
func WatchActive(ctx context.Context, c *clientv3.Client) <-chan struct{} {
	return watch(ctx, c, activeKey)
}

// grace is how long the place is kept for whom it was handed to.
const grace = 10 // s

// HandOver ends the present term, whoever holds it, in favour of the named
// member, which has ten seconds to take it. With an empty name anybody may.
func (e *Elector) HandOver(ctx context.Context, to string) error {
	now, err := e.Current(ctx)
	if err != nil {
		return err
	}
	if to != "" {
		if now.Holder == to {
			return nil
		}
		lease, err := e.client.Grant(ctx, grace)
		if err != nil {
			return wrap("hand over to "+to, err)
		}
		if _, err := e.client.Put(ctx, nextKey, to, clientv3.WithLease(lease.ID)); err != nil {
			return wrap("hand over to "+to, err)
		}
	}
	e.mu.Lock()
	resign := e.resign
	e.resign = nil
	e.mu.Unlock()
	if resign != nil { // in order: what runs here ends first
		close(resign)
		return nil
	}
	return e.Depose(ctx, now)
}

// Depose ends a term at once, because its holder is known to be dead or is to
// stop. A holder that lives after all stops when it sees it, and its writes
// fail from now on. A term that is over already is none to end.
func (e *Elector) Depose(ctx context.Context, t Term) error {
	if t.Holder == "" {
		return nil
	}
	_, err := e.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(activeKey), "=", t.created)).
		Then(clientv3.OpDelete(activeKey)).Commit()
	if err != nil {
		return wrap("depose "+t.Holder, err)
	}
	return nil
}
