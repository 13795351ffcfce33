package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// grant is what the pair keeps in a Register, as far as it matters here.
type grant struct {
	Holder string
	Epoch  uint64
}

func grants(n *Node) *Register[grant] { return NewRegister[grant](n.Client(), "grants") }

func TestOneOfManyWinsEachEpoch(t *testing.T) {
	n := node(t)
	r := grants(n)
	const claimers, rounds = 8, 20
	var wins [rounds]atomic.Int32
	var wg sync.WaitGroup
	for c := range claimers {
		wg.Go(func() {
			for {
				g, rev, err := r.Read(t.Context(), "group 1")
				if err != nil {
					t.Error(err)
					return
				}
				if g.Epoch == rounds {
					return
				}
				_, err = r.Swap(t.Context(), "group 1", rev, grant{fmt.Sprint(c), g.Epoch + 1})
				switch {
				case err == nil:
					wins[g.Epoch].Add(1)
				case !errors.Is(err, ErrLost):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for epoch := range wins {
		if w := wins[epoch].Load(); w != 1 {
			t.Errorf("epoch %d was won by %d, want one", epoch+1, w)
		}
	}
	all, err := r.List(t.Context())
	if err != nil || len(all) != 1 || all["group 1"].Value.Epoch != rounds {
		t.Errorf("List = %v, %v", all, err)
	}
}

// deafKV carries transactions out and loses some of the answers.
type deafKV struct {
	clientv3.KV
	lose func() bool
}

func (d deafKV) Txn(ctx context.Context) clientv3.Txn { return deafTxn{d.KV.Txn(ctx), d.lose} }

type deafTxn struct {
	clientv3.Txn
	lose func() bool
}

func (d deafTxn) If(c ...clientv3.Cmp) clientv3.Txn  { return deafTxn{d.Txn.If(c...), d.lose} }
func (d deafTxn) Then(o ...clientv3.Op) clientv3.Txn { return deafTxn{d.Txn.Then(o...), d.lose} }
func (d deafTxn) Else(o ...clientv3.Op) clientv3.Txn { return deafTxn{d.Txn.Else(o...), d.lose} }
func (d deafTxn) Commit() (*clientv3.TxnResponse, error) {
	r, err := d.Txn.Commit()
	if d.lose() {
		return nil, errors.New("the answer was lost")
	}
	return r, err
}

func TestSwapWhoseAnswerIsLostHappensOnce(t *testing.T) {
	n := node(t)
	r := grants(n)
	lost := 0
	r.kv = deafKV{n.Client(), func() bool { lost++; return lost <= 2 }}
	rev, err := r.Swap(t.Context(), "g", 0, grant{"a", 1})
	if err != nil {
		t.Fatal(err)
	}
	g, now, err := r.Read(t.Context(), "g")
	if err != nil || g != (grant{"a", 1}) || now != rev {
		t.Errorf("Read = %v at %d, %v; want what was written at %d", g, now, err, rev)
	}
	if _, err := r.Swap(t.Context(), "g", 0, grant{"a", 1}); !errors.Is(err, ErrLost) {
		t.Errorf("the same again = %v, want ErrLost: it is another claim", err)
	}

	// All answers are lost: nobody may believe anything.
	r.kv = deafKV{n.Client(), func() bool { return true }}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.Swap(ctx, "g", rev, grant{"b", 2}); !errors.Is(err, ErrUnknown) {
		t.Errorf("Swap = %v, want ErrUnknown", err)
	}
}

// Two partners that lost each other claim one grant, round by round, each time
// with one of them cut off from the domain state, or both, or the answers lost.
func TestGrantHasOneHolderUnderPartitions(t *testing.T) {
	r, a, b, w := trio(t)
	sides := []*member{a, b}
	cuts := [][]string{{}, {"a"}, {"b"}, {"w"}, {"a", "w"}}
	for round, cut := range cuts {
		before, rev, err := grants(w.node).Read(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range cut {
			r.isolate(name)
		}
		patience := time.Minute // until one has won; the other may then give up
		if len(cut) == 2 {
			patience = 3 * time.Second // nobody can
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var wg sync.WaitGroup
		results := make([]error, len(sides))
		for i, m := range sides {
			wg.Go(func() {
				_, results[i] = grants(m.node).Swap(ctx, "g", rev, grant{m.name, before.Epoch + 1})
				if results[i] == nil {
					time.AfterFunc(time.Second, cancel)
				}
			})
		}
		wg.Wait()
		cancel()
		winners, open := 0, 0
		for i, err := range results {
			t.Logf("cut %v: %s: %v", cut, sides[i].name, err)
			switch {
			case err == nil:
				winners++
			case errors.Is(err, ErrUnknown):
				open++
			case !errors.Is(err, ErrLost):
				t.Errorf("round %d: %s: %v", round, sides[i].name, err)
			}
		}
		if winners > 1 || len(cut) < 2 && winners != 1 || len(cut) == 2 && winners != 0 {
			t.Errorf("cut off %v: %d won, %d do not know", cut, winners, open)
		}
		r.heal()
		eventually(t, "read after healing", func() error {
			g, _, err := grants(w.node).Read(t.Context(), "g")
			if err != nil {
				return err
			}
			for i, m := range sides {
				if won := g.Holder == m.name && g.Epoch == before.Epoch+1; results[i] == nil && !won {
					t.Errorf("cut off %v: %s won and lost it again to %v", cut, m.name, g)
				}
			}
			if g.Epoch > before.Epoch+1 || g.Epoch < before.Epoch {
				t.Errorf("epoch went from %d to %d", before.Epoch, g.Epoch)
			}
			return nil
		})
		eventually(t, "all serve again", func() error {
			for _, m := range []*member{a, b, w} {
				if _, _, err := grants(m.node).Read(t.Context(), "g"); err != nil {
					return err
				}
			}
			return nil
		})
	}
}
