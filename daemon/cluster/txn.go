package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"baystream/daemon/domain"
)

// root is the prefix of all our keys.
const root = "/baystream/"

// maxTries bounds how often a transaction is tried again after losing a race.
const maxTries = 64

// Txn is a transaction under construction: reads are remembered with the
// revision they saw, writes are queued, and a read sees the writes queued
// before it. Tables and KVs have methods that take one (GetIn, CreateIn, ...).
type Txn struct {
	ctx    context.Context
	client *clientv3.Client
	seen   map[string]int64 // key: mod revision read, 0 if it was absent
	writes map[string]*string
	order  []string
}

// Atomically runs fill and commits what it did in one step. When another
// writer changed something that fill has read, fill runs again on a fresh
// Txn, so it must have no other effects. An error of fill cancels all.
func Atomically(ctx context.Context, c *clientv3.Client, fill func(*Txn) error) error {
	for range maxTries {
		t := &Txn{ctx: ctx, client: c, seen: map[string]int64{}, writes: map[string]*string{}}
		if err := fill(t); err != nil {
			return err
		}
		ok, err := t.commit()
		if errors.Is(err, ErrDeposed) {
			return err
		}
		if err != nil {
			return wrap("write the domain state", err)
		}
		if ok {
			return nil
		}
	}
	return domain.Errorf(domain.Unavailable, "domain state", "lost the race against other writers %d times", maxTries).
		Fix("Try again.")
}

func (t *Txn) commit() (bool, error) {
	if len(t.writes) == 0 {
		return true, nil
	}
	var cmps []clientv3.Cmp
	for k, rev := range t.seen {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(k), "=", rev))
	}
	var ops []clientv3.Op
	for _, k := range t.order {
		if v := t.writes[k]; v != nil {
			ops = append(ops, clientv3.OpPut(k, *v))
		} else {
			ops = append(ops, clientv3.OpDelete(k))
		}
	}
	term, fenced := TermOf(t.ctx)
	if fenced {
		cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(activeKey), "=", term.created))
	}
	resp, err := t.client.Txn(t.ctx).If(cmps...).Then(ops...).Else(clientv3.OpGet(activeKey)).Commit()
	if err != nil || resp.Succeeded {
		return err == nil, err
	}
	if now := resp.Responses[0].GetResponseRange().Kvs; fenced && (len(now) == 0 || now[0].CreateRevision != term.created) {
		return false, deposed(term)
	}
	return false, nil
}

func deposed(t Term) error {
	e := domain.Errorf(domain.Unavailable, t.Holder, "").
		Fix("Send the request to the active appliance; bayctl status names it.")
	e.Err = ErrDeposed
	return e
}

// get returns the value of key, and false if there is none.
func (t *Txn) get(key string) (string, bool, error) {
	if v, ok := t.writes[key]; ok {
		if v == nil {
			return "", false, nil
		}
		return *v, true, nil
	}
	resp, err := t.client.Get(t.ctx, key)
	if err != nil {
		return "", false, wrap("read the domain state", err)
	}
	if len(resp.Kvs) == 0 {
		t.seen[key] = 0
		return "", false, nil
	}
	t.seen[key] = resp.Kvs[0].ModRevision
	return string(resp.Kvs[0].Value), true, nil
}

func (t *Txn) set(key string, value *string) {
	if _, ok := t.writes[key]; !ok {
		t.order = append(t.order, key)
	}
	t.writes[key] = value
}

func (t *Txn) put(key string, v any) error {
	s, err := encode(v)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	t.set(key, &s)
	return nil
}

func (t *Txn) del(key string) { t.set(key, nil) }

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("cluster: encode: %w", err)
	}
	return string(b), nil
}

// decode parses what put has written; a failure means that the state on disk
// is not ours.
func decode(key string, value []byte, into any) error {
	if err := json.Unmarshal(value, into); err != nil {
		return fmt.Errorf("cluster: decode %s: %w", key, err)
	}
	return nil
}

// wrap turns an error of the client into one of the domain.
func wrap(what string, err error) error {
	var kind domain.Kind
	var remedy []string
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace) || strings.Contains(err.Error(), "database space exceeded"):
		kind, remedy = domain.Full, []string{"Delete resources that are not needed, then try again."}
	case errors.Is(err, rpctypes.ErrRequestTooLarge) || errors.Is(err, rpctypes.ErrTooManyOps) ||
		strings.Contains(err.Error(), "request is too large"):
		kind, remedy = domain.TooLarge, []string{fmt.Sprintf("Keep one request below %d MiB.", maxRequest>>20)}
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("cluster: %s: %w", what, err)
	default:
		kind, remedy = domain.Unavailable, []string{"Check that a majority of the appliances runs, then try again."}
	}
	return &domain.Error{Kind: kind, Object: "domain state", Message: what, Remedy: remedy, Err: err}
}
