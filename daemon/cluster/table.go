package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"baystream/daemon/domain"
)

// Options of a Table.
type Options struct {
	Kind        string           // how errors call an entity ("plan script"); the prefix if empty
	UniqueNames bool             // no two entities with the same name, letter case aside
	Now         func() time.Time // time.Now if nil
}

// Table holds the entities of one collection.
type Table[T any, P interface {
	*T
	domain.Entity
}] struct {
	client *clientv3.Client
	data   string // prefix of the entities' keys
	names  string // prefix of the name index
	opts   Options
}

// NewTable makes the table below prefix ("plan-scripts").
func NewTable[T any, P interface {
	*T
	domain.Entity
}](c *clientv3.Client, prefix string, opts Options) *Table[T, P] {
	opts.Kind = cmp.Or(opts.Kind, prefix)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Table[T, P]{client: c, data: root + "data/" + prefix + "/", names: root + "names/" + prefix + "/", opts: opts}
}

func (t *Table[T, P]) key(id string) string { return t.data + strings.ToLower(id) }

func (t *Table[T, P]) nameKey(name string) string {
	return t.names + strings.ToLower(strings.TrimSpace(name))
}

func (t *Table[T, P]) notFound(id string) error {
	return domain.Errorf(domain.NotFound, t.opts.Kind+" "+id, "does not exist").
		Fix("Check the id; list the collection to see what there is.")
}

// Get returns the entity with the id, or NotFound.
func (t *Table[T, P]) Get(ctx context.Context, id string) (T, error) {
	var v T
	resp, err := t.client.Get(ctx, t.key(id))
	if err != nil {
		return v, wrap("read "+t.opts.Kind+" "+id, err)
	}
	if len(resp.Kvs) == 0 {
		return v, t.notFound(id)
	}
	return v, decode(t.key(id), resp.Kvs[0].Value, &v)
}

// List returns all entities, sorted by name without regard to case, then by id.
func (t *Table[T, P]) List(ctx context.Context) ([]T, error) {
	resp, err := t.client.Get(ctx, t.data, clientv3.WithPrefix())
	if err != nil {
		return nil, wrap("list "+t.opts.Kind+"s", err)
	}
	list := make([]T, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		if err := decode(string(kv.Key), kv.Value, &list[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b T) int {
		x, y := P(&a), P(&b)
		return cmp.Or(
			strings.Compare(strings.ToLower(x.Base().Name), strings.ToLower(y.Base().Name)),
			strings.Compare(x.EntityID(), y.EntityID()))
	})
	return list, nil
}

// ByName returns the entity with the name, letter case aside, or NotFound. It
// needs UniqueNames.
func (t *Table[T, P]) ByName(ctx context.Context, name string) (T, error) {
	var none T
	if !t.opts.UniqueNames {
		return none, fmt.Errorf("cluster: %s: names are not unique", t.opts.Kind)
	}
	resp, err := t.client.Get(ctx, t.nameKey(name))
	if err != nil {
		return none, wrap("find "+t.opts.Kind+" "+strconv.Quote(name), err)
	}
	if len(resp.Kvs) == 0 {
		return none, t.notFound(strconv.Quote(name))
	}
	return t.Get(ctx, string(resp.Kvs[0].Value))
}

// Create stores a new entity and returns it with created, modified and eTag
// set; an entity without an id gets a new one. Conflict: the id or, with
// UniqueNames, the name is taken.
func (t *Table[T, P]) Create(ctx context.Context, v T) (T, error) {
	var out T
	err := Atomically(ctx, t.client, func(tx *Txn) (err error) {
		out, err = t.CreateIn(tx, v)
		return err
	})
	return out, err
}

// Update changes the entity with the id by change, which may run several
// times; the envelope's uri, category, created, modified and eTag are the
// table's. It returns the entity as stored. NotFound and, after a rename,
// Conflict; an error of change leaves the entity as it was.
func (t *Table[T, P]) Update(ctx context.Context, id string, change func(*T) error) (T, error) {
	var out T
	err := Atomically(ctx, t.client, func(tx *Txn) (err error) {
		out, err = t.UpdateIn(tx, id, change)
		return err
	})
	return out, err
}

// Replace stores v over the entity with the same id if that one's eTag is
// eTag; an empty eTag or "*" skips the check. Stale: somebody changed it since.
func (t *Table[T, P]) Replace(ctx context.Context, v T, eTag string) (T, error) {
	return t.Update(ctx, P(&v).EntityID(), func(old *T) error {
		if err := t.CheckETag(*old, eTag); err != nil {
			return err
		}
		*old = v
		return nil
	})
}

// CheckETag returns Stale unless eTag is empty, "*" or that of v.
func (t *Table[T, P]) CheckETag(v T, eTag string) error {
	base := P(&v).Base()
	if eTag == "" || eTag == "*" || eTag == base.ETag {
		return nil
	}
	return domain.Errorf(domain.Stale, t.opts.Kind+" "+strconv.Quote(base.Name),
		"has changed since it was read: its eTag is %s, the request's %s", base.ETag, eTag).
		Fix("Read the resource again, repeat the change on it, and send that.")
}

// Delete removes the entity with the id, or returns NotFound.
func (t *Table[T, P]) Delete(ctx context.Context, id string) error {
	return Atomically(ctx, t.client, func(tx *Txn) error { return t.DeleteIn(tx, id) })
}

// GetIn is Get inside a transaction.
func (t *Table[T, P]) GetIn(tx *Txn, id string) (T, error) {
	var v T
	s, ok, err := tx.get(t.key(id))
	switch {
	case err != nil:
		return v, err
	case !ok:
		return v, t.notFound(id)
	}
	return v, decode(t.key(id), []byte(s), &v)
}

// CreateIn is Create inside a transaction.
func (t *Table[T, P]) CreateIn(tx *Txn, v T) (T, error) {
	p := P(&v)
	p.SetID(cmp.Or(p.EntityID(), domain.NewID()))
	base := p.Base()
	now := t.opts.Now()
	base.Created = cmp.Or(base.Created, domain.Stamp(now))
	base.Modified = domain.Stamp(now)
	base.ETag = eTag(now, "")
	if _, ok, err := tx.get(t.key(p.EntityID())); err != nil || ok {
		if err == nil {
			err = domain.Errorf(domain.Conflict, t.opts.Kind+" "+p.EntityID(), "exists already").
				Fix("Use another id, or change the existing one.")
		}
		return v, err
	}
	if err := t.takeName(tx, base.Name, p.EntityID()); err != nil {
		return v, err
	}
	return v, tx.put(t.key(p.EntityID()), v)
}

// UpdateIn is Update inside a transaction.
func (t *Table[T, P]) UpdateIn(tx *Txn, id string, change func(*T) error) (T, error) {
	v, err := t.GetIn(tx, id)
	if err != nil {
		return v, err
	}
	p := P(&v)
	before, key := *p.Base(), p.EntityID()
	if err := change(&v); err != nil {
		return v, err
	}
	p.SetID(key)
	base := p.Base()
	now := t.opts.Now()
	base.Created, base.Modified, base.ETag = before.Created, domain.Stamp(now), eTag(now, before.ETag)
	if t.opts.UniqueNames && t.nameKey(before.Name) != t.nameKey(base.Name) {
		if err := t.takeName(tx, base.Name, key); err != nil {
			return v, err
		}
		tx.del(t.nameKey(before.Name))
	}
	return v, tx.put(t.key(key), v)
}

// DeleteIn is Delete inside a transaction.
func (t *Table[T, P]) DeleteIn(tx *Txn, id string) error {
	v, err := t.GetIn(tx, id)
	if err != nil {
		return err
	}
	tx.del(t.key(id))
	if t.opts.UniqueNames {
		tx.del(t.nameKey(P(&v).Base().Name))
	}
	return nil
}

func (t *Table[T, P]) takeName(tx *Txn, name, id string) error {
	if !t.opts.UniqueNames {
		return nil
	}
	key := t.nameKey(name)
	owner, ok, err := tx.get(key)
	switch {
	case err != nil:
		return err
	case ok && owner != id:
		return domain.Errorf(domain.Conflict, t.opts.Kind+" "+strconv.Quote(name), "exists already").
			Fix("Choose another name, or change the existing one.")
	}
	tx.set(key, &id)
	return nil
}

// Watch wakes its reader once when it stands and after every change of the
// table, several changes at once perhaps only once. The channel is buffered by
// one, never closed, and falls silent when ctx ends.
func (t *Table[T, P]) Watch(ctx context.Context) <-chan struct{} {
	return watch(ctx, t.client, t.data)
}

// eTag is "<milliseconds>/<n>" (spec section 2.1), n one more than before.
func eTag(now time.Time, before string) string {
	_, count, _ := strings.Cut(before, "/")
	n, _ := strconv.Atoi(count) // empty or foreign: 0
	return fmt.Sprintf("%d/%d", now.UnixMilli(), n+1)
}
