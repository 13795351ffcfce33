package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/domain"
)

func start(t *testing.T, dir string) *Node {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	n, err := Start(t.Context(), Config{Dir: dir, Name: "a1", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// node is a member for the length of a test.
func node(t *testing.T) *Node {
	t.Helper()
	n := start(t, t.TempDir())
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// clock gives times a second apart.
func clock() func() time.Time {
	var mu sync.Mutex
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
}

type scripts = Table[domain.PlanScript, *domain.PlanScript]

func scriptTable(n *Node) *scripts {
	return NewTable[domain.PlanScript](n.Client(), "plan-scripts",
		Options{Kind: "plan script", UniqueNames: true, Now: clock()})
}

func named(name string) domain.PlanScript {
	return domain.PlanScript{Resource: domain.Resource{Name: name}}
}

func wantKind(t *testing.T, what string, err error, want domain.Kind) {
	t.Helper()
	if err == nil || domain.KindOf(err) != want {
		t.Errorf("%s = %v (kind %d), want kind %d", what, err, domain.KindOf(err), want)
	}
}

func TestStateSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	n := start(t, dir)
	made, err := scriptTable(n).Create(t.Context(), named("first"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	defer n.Close()
	got, err := scriptTable(n).Get(t.Context(), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made, got); diff != "" {
		t.Errorf("after restart (-want +got):\n%s", diff)
	}
}

func TestMemberListensNowhere(t *testing.T) {
	n := node(t)
	if p, c := len(n.etcd.Peers), len(n.etcd.Clients); p != 0 || c != 0 {
		t.Errorf("member has %d peer and %d client listeners, want none", p, c)
	}
}

func TestStatus(t *testing.T) {
	n := node(t)
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Leader != "a1" || s.Member != "a1" || len(s.Members) != 1 || !s.Members[0].Voter || !s.Members[0].Leader {
		t.Errorf("Status = %+v, want a1 leading alone", s)
	}
	if s.DBBytes == 0 || s.Revision == 0 || len(s.Alarms) != 0 || s.Version == "" {
		t.Errorf("Status = %+v, want sizes, a revision and no alarms", s)
	}
}

func TestTableLifeOfAnEntity(t *testing.T) {
	ctx, tbl := t.Context(), scriptTable(node(t))
	made, err := tbl.Create(ctx, named("Mount ESP"))
	if err != nil {
		t.Fatal(err)
	}
	want := named("Mount ESP")
	want.SetID(made.ID)
	want.Created, want.Modified, want.ETag = "2026-11-01T12:00:01.000Z", "2026-11-01T12:00:01.000Z", "1793534401000/1"
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("Create (-want +got):\n%s", diff)
	}

	updated, err := tbl.Update(ctx, made.ID, func(p *domain.PlanScript) error {
		p.Name, p.URI, p.Created = "Mount EFI", "/elsewhere", "never"
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want.Name, want.Modified, want.ETag = "Mount EFI", "2026-11-01T12:00:02.000Z", "1793534402000/2"
	if diff := cmp.Diff(want, updated); diff != "" {
		t.Errorf("Update (-want +got):\n%s", diff)
	}
	if got, err := tbl.ByName(ctx, "mount efi"); err != nil || got.ID != made.ID {
		t.Errorf("ByName(mount efi) = %v, %v", got.ID, err)
	}
	_, err = tbl.ByName(ctx, "Mount ESP")
	wantKind(t, "ByName(old name)", err, domain.NotFound)

	stop := errors.New("stop")
	if _, err := tbl.Update(ctx, made.ID, func(*domain.PlanScript) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Update with failing change = %v, want it", err)
	}
	if err := tbl.Delete(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	err = tbl.Delete(ctx, made.ID)
	wantKind(t, "second Delete", err, domain.NotFound)
	if !strings.Contains(err.Error(), "plan script "+made.ID) {
		t.Errorf("second Delete = %q, want kind and id named", err)
	}
	if _, err := tbl.Create(ctx, named("Mount EFI")); err != nil {
		t.Errorf("name is not free after Delete: %v", err)
	}
}

func TestTableNamesAreUnique(t *testing.T) {
	ctx, tbl := t.Context(), scriptTable(node(t))
	a, err := tbl.Create(ctx, named("A"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tbl.Create(ctx, named("a "))
	wantKind(t, "Create with a taken name", err, domain.Conflict)
	b, err := tbl.Create(ctx, named("B"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tbl.Update(ctx, b.ID, func(p *domain.PlanScript) error { p.Name = "A"; return nil })
	wantKind(t, "rename to a taken name", err, domain.Conflict)
	dup := named("C")
	dup.ID = a.ID
	_, err = tbl.Create(ctx, dup)
	wantKind(t, "Create with a taken id", err, domain.Conflict)
	if _, err = tbl.Update(ctx, a.ID, func(p *domain.PlanScript) error { p.Name = "a"; return nil }); err != nil {
		t.Errorf("rename in letter case = %v", err)
	}
}

func TestListIsSorted(t *testing.T) {
	ctx, tbl := t.Context(), scriptTable(node(t))
	for _, name := range []string{"beta", "Alpha", "gamma", "Beta2"} {
		if _, err := tbl.Create(ctx, named(name)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := tbl.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		got = append(got, p.Name)
	}
	if diff := cmp.Diff([]string{"Alpha", "beta", "Beta2", "gamma"}, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func TestReplaceHonoursETag(t *testing.T) {
	ctx, tbl := t.Context(), scriptTable(node(t))
	v, err := tbl.Create(ctx, named("A"))
	if err != nil {
		t.Fatal(err)
	}
	first := v.ETag
	for _, tag := range []string{first, "", "*"} {
		v.Description += "x"
		if _, err := tbl.Replace(ctx, v, tag); err != nil {
			t.Errorf("Replace with eTag %q = %v", tag, err)
		}
	}
	_, err = tbl.Replace(ctx, v, first)
	wantKind(t, "Replace with an old eTag", err, domain.Stale)
}

func TestUpdatesOfManyWritersAllCount(t *testing.T) {
	ctx, kv := t.Context(), NewKV[int](node(t).Client(), "counters")
	const writers, each = 8, 5
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := kv.Update(ctx, "n", func(n *int) error { *n++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n, ok, err := kv.Get(ctx, "n"); err != nil || !ok || n != writers*each {
		t.Errorf("counter = %d, %v, %v, want %d", n, ok, err, writers*each)
	}
}

func TestTransactionIsAllOrNothing(t *testing.T) {
	ctx, n := t.Context(), node(t)
	tbl, kv := scriptTable(n), NewKV[string](n.Client(), "secrets")
	if _, err := tbl.Create(ctx, named("taken")); err != nil {
		t.Fatal(err)
	}
	fill := func(names ...string) error {
		return Atomically(ctx, n.Client(), func(tx *Txn) error {
			for _, name := range names {
				v, err := tbl.CreateIn(tx, named(name))
				if err != nil {
					return err
				}
				if err := kv.PutIn(tx, v.ID, "secret of "+name); err != nil {
					return err
				}
				if got, err := tbl.GetIn(tx, v.ID); err != nil || got.Name != name {
					t.Errorf("GetIn does not see %s: %v, %v", name, got.Name, err)
				}
			}
			return nil
		})
	}
	wantKind(t, "Atomically with a taken name", fill("one", "two", "taken"), domain.Conflict)
	wantKind(t, "Atomically with a name twice", fill("one", "ONE"), domain.Conflict)
	if list, _ := tbl.List(ctx); len(list) != 1 {
		t.Errorf("%d scripts after failed transactions, want 1", len(list))
	}
	var many []string
	for i := range 300 {
		many = append(many, "s"+strconv.Itoa(i))
	}
	if err := fill(many...); err != nil {
		t.Errorf("Atomically with 300 entities = %v", err)
	}
	if all, err := kv.List(ctx); err != nil || len(all) != 300 {
		t.Errorf("%d secrets, %v, want 300", len(all), err)
	}
}

func TestLargeScriptFits(t *testing.T) {
	ctx, tbl := t.Context(), scriptTable(node(t))
	v := named("large")
	v.Content = strings.Repeat("x", 4<<20)
	made, err := tbl.Create(ctx, v)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tbl.Get(ctx, made.ID); err != nil || len(got.Content) != 4<<20 {
		t.Errorf("Get = %d bytes, %v", len(got.Content), err)
	}
	v = named("too large")
	v.Content = strings.Repeat("x", maxRequest)
	_, err = tbl.Create(ctx, v)
	wantKind(t, "Create beyond the limit", err, domain.TooLarge)
}

func TestWatchWakes(t *testing.T) {
	n := node(t)
	tbl := scriptTable(n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wake := tbl.Watch(ctx)
	<-wake // it stands
	if _, err := tbl.Create(ctx, named("A")); err != nil {
		t.Fatal(err)
	}
	<-wake
	if err := NewKV[int](n.Client(), "other").Put(ctx, "k", 1); err != nil {
		t.Fatal(err)
	}
	select {
	case <-wake:
		t.Error("a change of another table woke the watch")
	default:
	}
}

func TestValue(t *testing.T) {
	ctx := t.Context()
	v := NewValue[map[string]int](node(t).Client(), "settings/x y")
	if _, ok, err := v.Get(ctx); ok || err != nil {
		t.Fatalf("Get before Put = %v, %v", ok, err)
	}
	for i, want := range []bool{true, false} {
		if ok, err := v.Create(ctx, map[string]int{"n": i}); ok != want || err != nil {
			t.Errorf("Create %d = %v, %v, want %v", i, ok, err, want)
		}
	}
	if _, err := v.Update(ctx, func(m *map[string]int) error { (*m)["n"]++; return nil }); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := v.Get(ctx); err != nil || !ok || got["n"] != 1 {
		t.Errorf("Get = %v, %v, %v", got, ok, err)
	}
	if err := v.Delete(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestKeysOfAnyForm(t *testing.T) {
	ctx, kv := t.Context(), NewKV[string](node(t).Client(), "users")
	for _, name := range []string{"admin", "a/b", "ü %2F", "", "x"} {
		if err := kv.Put(ctx, name, "v"+name); err != nil {
			t.Fatal(err)
		}
	}
	all, err := kv.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"admin": "vadmin", "a/b": "va/b", "ü %2F": "vü %2F", "": "v", "x": "vx"}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func BenchmarkCreate(b *testing.B) {
	n, err := Start(b.Context(), Config{Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	tbl := scriptTable(n)
	for i := 0; b.Loop(); i++ {
		if _, err := tbl.Create(b.Context(), named(fmt.Sprint(i))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		n, err := Start(b.Context(), Config{Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		n.Close()
		b.StartTimer()
	}
}
