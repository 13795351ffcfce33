package cluster

import (
	"context"
	"net/url"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// KV holds small values under string keys of any form.
type KV[T any] struct {
	client *clientv3.Client
	prefix string
}

// NewKV makes the values below prefix ("users").
func NewKV[T any](c *clientv3.Client, prefix string) *KV[T] {
	return &KV[T]{client: c, prefix: root + "kv/" + prefix + "/"}
}

func (k *KV[T]) key(name string) string { return k.prefix + url.PathEscape(name) }

// Get returns the value under name, and false if there is none.
func (k *KV[T]) Get(ctx context.Context, name string) (T, bool, error) {
	return k.GetIn(&Txn{ctx: ctx, client: k.client, seen: map[string]int64{}}, name)
}

// List returns all values by key.
func (k *KV[T]) List(ctx context.Context) (map[string]T, error) {
	resp, err := k.client.Get(ctx, k.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, wrap("list "+k.prefix, err)
	}
	all := make(map[string]T, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		var v T
		if err := decode(string(kv.Key), kv.Value, &v); err != nil {
			return nil, err
		}
		name, err := url.PathUnescape(strings.TrimPrefix(string(kv.Key), k.prefix))
		if err != nil {
			return nil, err
		}
		all[name] = v
	}
	return all, nil
}

// Put stores v under name, over what was there.
func (k *KV[T]) Put(ctx context.Context, name string, v T) error {
	return Atomically(ctx, k.client, func(tx *Txn) error { return k.PutIn(tx, name, v) })
}

// Create stores v under name and says whether it did: false means that a value
// was there and stays.
func (k *KV[T]) Create(ctx context.Context, name string, v T) (bool, error) {
	var created bool
	err := Atomically(ctx, k.client, func(tx *Txn) error {
		_, taken, err := k.GetIn(tx, name)
		if created = err == nil && !taken; created {
			return k.PutIn(tx, name, v)
		}
		return err
	})
	return created && err == nil, err
}

// Update changes the value under name, the zero value if there is none, by
// change, which may run several times; an error of it leaves the old value.
func (k *KV[T]) Update(ctx context.Context, name string, change func(*T) error) (T, error) {
	var out T
	err := Atomically(ctx, k.client, func(tx *Txn) error {
		v, _, err := k.GetIn(tx, name)
		if err != nil {
			return err
		}
		if err := change(&v); err != nil {
			return err
		}
		out = v
		return k.PutIn(tx, name, v)
	})
	return out, err
}

// Delete removes the value under name, if there is one.
func (k *KV[T]) Delete(ctx context.Context, name string) error {
	return Atomically(ctx, k.client, func(tx *Txn) error { k.DeleteIn(tx, name); return nil })
}

// GetIn is Get inside a transaction.
func (k *KV[T]) GetIn(tx *Txn, name string) (T, bool, error) {
	var v T
	s, ok, err := tx.get(k.key(name))
	if err != nil || !ok {
		return v, false, err
	}
	return v, true, decode(k.key(name), []byte(s), &v)
}

// PutIn is Put inside a transaction.
func (k *KV[T]) PutIn(tx *Txn, name string, v T) error { return tx.put(k.key(name), v) }

// DeleteIn is Delete inside a transaction.
func (k *KV[T]) DeleteIn(tx *Txn, name string) { tx.del(k.key(name)) }

// Watch is Table.Watch for the values.
func (k *KV[T]) Watch(ctx context.Context) <-chan struct{} { return watch(ctx, k.client, k.prefix) }

// Value is one value.
type Value[T any] struct {
	kv   *KV[T]
	name string
}

// NewValue makes the value called name ("settings/deployment-network").
func NewValue[T any](c *clientv3.Client, name string) *Value[T] {
	return &Value[T]{kv: NewKV[T](c, "values"), name: name}
}

// Get returns the value, and false if none was stored yet.
func (v *Value[T]) Get(ctx context.Context) (T, bool, error) { return v.kv.Get(ctx, v.name) }

// Put stores the value.
func (v *Value[T]) Put(ctx context.Context, x T) error { return v.kv.Put(ctx, v.name, x) }

// Create stores the value if there is none, and says whether it did.
func (v *Value[T]) Create(ctx context.Context, x T) (bool, error) {
	return v.kv.Create(ctx, v.name, x)
}

// Update changes the value as KV.Update does.
func (v *Value[T]) Update(ctx context.Context, change func(*T) error) (T, error) {
	return v.kv.Update(ctx, v.name, change)
}

// Delete removes the value.
func (v *Value[T]) Delete(ctx context.Context) error { return v.kv.Delete(ctx, v.name) }

// Watch is Table.Watch for the value.
func (v *Value[T]) Watch(ctx context.Context) <-chan struct{} {
	return watch(ctx, v.kv.client, v.kv.key(v.name))
}

// GetIn is Get inside a transaction.
func (v *Value[T]) GetIn(tx *Txn) (T, bool, error) { return v.kv.GetIn(tx, v.name) }

// PutIn is Put inside a transaction.
func (v *Value[T]) PutIn(tx *Txn, x T) error { return v.kv.PutIn(tx, v.name, x) }

// DeleteIn is Delete inside a transaction.
func (v *Value[T]) DeleteIn(tx *Txn) { v.kv.DeleteIn(tx, v.name) }

// watch wakes the returned channel when a key below prefix changes. A watch
// that breaks is made anew, and the reader woken, since it may have missed
// something.
func watch(ctx context.Context, c clientv3.Watcher, prefix string) <-chan struct{} {
	wake := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			for range c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
				select {
				case wake <- struct{}{}:
				default:
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return wake
}
