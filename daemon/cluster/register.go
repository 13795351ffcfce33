package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What a Swap can end in beside success.
var (
	// ErrLost: somebody else was faster; read again.
	ErrLost = errors.New("another was faster")
	// ErrUnknown: no majority answered. The value may yet come to be there, so
	// whoever asked must act as if it had not, and nobody as if it never will.
	ErrUnknown = errors.New("no majority answered; whether it was written is not known")
)

// Register holds values that change hands by compare-and-swap, such as the
// grants of the storage groups, under names. All answers have a majority behind
// them; nothing is kept in memory.
type Register[T any] struct {
	kv     clientv3.KV
	watch  clientv3.Watcher
	prefix string
}

// NewRegister makes the values below prefix ("grants").
func NewRegister[T any](c *clientv3.Client, prefix string) *Register[T] {
	return &Register[T]{kv: c, watch: c, prefix: root + "register/" + prefix + "/"}
}

// entry is what is stored: the attempt tells a lost answer from a lost race.
type entry struct {
	Attempt string          `json:"attempt"`
	Value   json.RawMessage `json:"value"`
}

func (r *Register[T]) key(name string) string { return r.prefix + url.PathEscape(name) }

// Read returns the value under name and its revision, which is 0 for one that
// was never written.
func (r *Register[T]) Read(ctx context.Context, name string) (T, int64, error) {
	var v T
	resp, err := r.kv.Get(ctx, r.key(name))
	if err != nil {
		return v, 0, wrap("read "+r.key(name), err)
	}
	if len(resp.Kvs) == 0 {
		return v, 0, nil
	}
	_, err = r.decode(resp.Kvs[0], &v)
	return v, resp.Kvs[0].ModRevision, err
}

// Stored is a value and its revision.
type Stored[T any] struct {
	Value    T
	Revision int64
}

// List returns all values by name.
func (r *Register[T]) List(ctx context.Context) (map[string]Stored[T], error) {
	resp, err := r.kv.Get(ctx, r.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, wrap("list "+r.prefix, err)
	}
	all := make(map[string]Stored[T], len(resp.Kvs))
	for _, kv := range resp.Kvs {
		var v T
		if _, err := r.decode(kv, &v); err != nil {
			return nil, err
		}
		name, err := url.PathUnescape(strings.TrimPrefix(string(kv.Key), r.prefix))
		if err != nil {
			return nil, err
		}
		all[name] = Stored[T]{v, kv.ModRevision}
	}
	return all, nil
}

func (r *Register[T]) decode(kv *mvccpb.KeyValue, into *T) (attempt string, err error) {
	var e entry
	if err := decode(string(kv.Key), kv.Value, &e); err != nil {
		return "", err
	}
	return e.Attempt, decode(string(kv.Key), e.Value, into)
}

// askAgain is how long a Swap waits for its answer before it is sent again.
const askAgain = time.Second

// Swap writes v under name if the revision there is still revision, and
// returns the new one. It asks until a majority has answered or ctx ends, and
// takes effect at most once however often it had to ask: nil means that v was
// written by this call, ErrLost that it never will be, ErrUnknown leaves it
// open. Of several Swaps of one revision one succeeds, also of the same caller.
// A Term does not bind it: grants are for the standby too.
func (r *Register[T]) Swap(ctx context.Context, name string, revision int64, v T) (int64, error) {
	key, attempt := r.key(name), rand.Text()
	inner, err := encode(v)
	if err != nil {
		return 0, err
	}
	value, err := encode(entry{Attempt: attempt, Value: json.RawMessage(inner)})
	if err != nil {
		return 0, err
	}
	unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", revision)
	for {
		once, cancel := context.WithTimeout(ctx, askAgain)
		resp, err := r.kv.Txn(once).If(unchanged).Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
		cancel()
		switch {
		case err == nil && resp.Succeeded:
			return resp.Header.Revision, nil
		case err == nil:
			return r.outcome(attempt, resp.Responses[0].GetResponseRange().Kvs)
		case ctx.Err() == nil:
			select {
			case <-ctx.Done():
			case <-time.After(askAgain / 10):
			}
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("cluster: %s: %w: %w", key, ErrUnknown, err)
		}
	}
}

// outcome is that of a Swap that did not find what it wanted to: an earlier try
// of the same whose answer was lost, or another's value.
func (r *Register[T]) outcome(attempt string, found []*mvccpb.KeyValue) (int64, error) {
	if len(found) == 0 {
		return 0, ErrLost
	}
	var v T
	switch theirs, err := r.decode(found[0], &v); {
	case err != nil:
		return 0, err
	case theirs != attempt:
		return 0, ErrLost
	}
	return found[0].ModRevision, nil
}

// Watch wakes its reader once when it stands and after each change.
func (r *Register[T]) Watch(ctx context.Context) <-chan struct{} {
	return watch(ctx, r.watch, r.prefix)
}
