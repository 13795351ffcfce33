package storage

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

func newBook(t *testing.T, rec Records) *ledger {
	t.Helper()
	l, err := loadLedger(context.Background(), rec)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNumbersAreNeverSharedOrForgotten(t *testing.T) {
	ctx := context.Background()
	rec := NewMemory()
	l := newBook(t, rec)
	g, err := l.addGolden(ctx, "g", 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.addVolume(ctx, Spec{ID: uuid.NewString(), GoldenID: "g", SizeBytes: 4096}); !errors.Is(err, ErrNotFound) {
		t.Errorf("clone of an image that is not ready: %v", err)
	}
	g.Ready = true
	if err := l.putGolden(ctx, g); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := l.addVolume(ctx, Spec{ID: uuid.NewString(), GoldenID: "g", SizeBytes: 4096}); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	l = newBook(t, rec) // as after a restart
	extra, err := l.addVolume(ctx, Spec{ID: uuid.NewString(), SizeBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	thins, minors, uuids := map[uint32]bool{g.ThinID: true}, map[uint32]bool{}, map[uint64]bool{}
	for _, v := range l.all().Volumes {
		if thins[v.ThinID] || minors[v.Minor] || uuids[v.UUID] || v.Minor == 0 {
			t.Errorf("volume %+v shares a number", v)
		}
		thins[v.ThinID], minors[v.Minor], uuids[v.UUID] = true, true, true
	}
	if len(thins) != 52 || extra.Minor != 51 {
		t.Errorf("%d thin IDs, last minor %d", len(thins), extra.Minor)
	}
}

func TestGoldenWithClonesStays(t *testing.T) {
	ctx := context.Background()
	rec := NewMemory()
	l := newBook(t, rec)
	g, _ := l.addGolden(ctx, "g", 8192)
	g.Ready = true
	if err := l.putGolden(ctx, g); err != nil {
		t.Fatal(err)
	}
	if _, err := l.addVolume(ctx, Spec{ID: uuid.NewString(), GoldenID: "g", SizeBytes: 4096}); err == nil || !strings.Contains(err.Error(), "smaller") {
		t.Errorf("volume smaller than its image: %v", err)
	}
	v, err := l.addVolume(ctx, Spec{ID: uuid.NewString(), Name: "web", GoldenID: "g", SizeBytes: 8192})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.retire(ctx, "g"); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "web") {
		t.Errorf("retire = %v, want ErrInUse naming the volume", err)
	}
	if err := l.dropVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := l.retire(ctx, "g"); err != nil {
		t.Error(err)
	}
	if _, err := l.addVolume(ctx, Spec{ID: uuid.NewString(), GoldenID: "g", SizeBytes: 8192}); !errors.Is(err, ErrNotFound) {
		t.Errorf("clone of a retired image: %v", err)
	}
	if l = newBook(t, rec); l.goldens["g"].Ready { // as after a crash
		t.Error("a retired image is ready again after a restart")
	}
}

// failing are Records that cannot be written.
type failing struct{ *Memory }

func (failing) PutVolume(context.Context, Volume) error { return errors.New("disk full") }

func TestUnrecordedVolumeIsForgotten(t *testing.T) {
	l := newBook(t, failing{NewMemory()})
	if _, err := l.addVolume(context.Background(), Spec{ID: "x", SizeBytes: 4096}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("addVolume = %v", err)
	}
	if len(l.all().Volumes) != 0 {
		t.Error("a volume without a record is kept")
	}
}

func TestLockIsPerIDAndEndsWithTheContext(t *testing.T) {
	l := newBook(t, NewMemory())
	ctx, cancel := context.WithCancel(context.Background())
	unlock, err := l.lock(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.lock(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	cancel()
	if _, err := l.lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("lock of a held ID = %v", err)
	}
	unlock()
	if len(l.locks) != 0 {
		t.Errorf("locks left: %v", l.locks)
	}
}
