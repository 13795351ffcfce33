package pair

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordTransitions(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(Record) (Record, error)
		in   Record
		want Record
		err  error
	}{
		{"win a free grant", func(r Record) (Record, error) { return r.Win(A) },
			Record{Epoch: 4, Owner: B, Clean: true}, Record{Epoch: 5, Survivor: A, Owner: A}, nil},
		{"win it again with a new epoch", func(r Record) (Record, error) { return r.Win(A) },
			Record{Epoch: 5, Survivor: A, Owner: A}, Record{Epoch: 6, Survivor: A, Owner: A}, nil},
		{"the partner was first", func(r Record) (Record, error) { return r.Win(A) },
			Record{Epoch: 5, Survivor: B, Owner: B}, Record{Epoch: 5, Survivor: B, Owner: B}, ErrLost},
		{"clear one's own", func(r Record) (Record, error) { return r.Clear(A) },
			Record{Epoch: 5, Survivor: A, Owner: A}, Record{Epoch: 5, Owner: A}, nil},
		{"never clear the partner's", func(r Record) (Record, error) { return r.Clear(A) },
			Record{Epoch: 5, Survivor: B}, Record{Epoch: 5, Survivor: B}, ErrNotHolder},
		{"never clear nobody's", func(r Record) (Record, error) { return r.Clear(A) },
			Record{Epoch: 5}, Record{Epoch: 5}, ErrNotHolder},
		{"yield", func(r Record) (Record, error) { return r.Yield(A), nil },
			Record{Epoch: 5, Owner: A}, Record{Epoch: 6, Survivor: B, Owner: A}, nil},
		{"yield twice is once", func(r Record) (Record, error) { return r.Yield(A), nil },
			Record{Epoch: 6, Survivor: B}, Record{Epoch: 6, Survivor: B}, nil},
		{"hand over keeps the grant", func(r Record) (Record, error) { return r.HandOver(B), nil },
			Record{Epoch: 6, Survivor: B, Owner: A, Clean: true}, Record{Epoch: 6, Survivor: B, Owner: B}, nil},
		{"an orderly end", func(r Record) (Record, error) { return r.Finish(), nil },
			Record{Epoch: 6, Owner: A}, Record{Epoch: 6, Owner: A, Clean: true}, nil},
	} {
		got, err := tt.do(tt.in)
		if d := cmp.Diff(tt.want, got); d != "" || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, error %v, want %v:\n%s", tt.name, got, err, tt.err, d)
		}
	}
}

func TestStand(t *testing.T) {
	a1 := Identity{Frame: "F1", Bay: "appliance bay 1", Key: "k1", Domain: "d"}
	b1 := Identity{Frame: "F2", Bay: "appliance bay 1", Key: "k2", Domain: "d"}
	claimed := []Identity{a1, b1}
	for _, tt := range []struct {
		name string
		me   Identity
		want Standing
	}{
		{"claimed", a1, Member},
		{"blank module in a free bay", Identity{Frame: "F3", Bay: "appliance bay 1", Key: "k3"}, Unclaimed},
		{"second module in a claimed bay", Identity{Frame: "F1", Bay: "appliance bay 1", Key: "k9"}, Quarantined},
		{"copied disk in another bay", Identity{Frame: "F3", Bay: "appliance bay 1", Key: "k1", Domain: "d"}, Quarantined},
		{"claimed by another domain", Identity{Frame: "F1", Bay: "appliance bay 1", Key: "k9", Domain: "e"}, Foreign},
	} {
		if got := Stand(tt.me, "d", claimed); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
