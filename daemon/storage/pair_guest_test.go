package storage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"

	"baystream/daemon/mirror"
	"baystream/daemon/pool"
	"baystream/internal/vmtest"
)

// TestGuestPair lets two Storages in one kernel be the two appliances of a
// pair: a volume is created, moved, taken from a loser that hangs, and given
// back. Minors differ here, for they are one kernel's, and the ports with them.
func TestGuestPair(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	disk, err := PrepareDisk(ctx, DiskOptions{Candidates: []string{dataDisk}})
	must(err)
	must(pool.Format(smallMeta))
	one, two := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	a, err := Open(ctx, Config{PoolName: "bay-one", MetaDev: disk.Meta, DataDev: disk.Data, Records: NewMemory(), Log: testLog(t),
		Pair: &Pairing{Local: one, Remote: two, Secret: "between us"}})
	must(err)
	b, err := Open(ctx, Config{PoolName: "bay-two", MetaDev: smallMeta, DataDev: smallData, Records: NewMemory(), Log: testLog(t),
		Pair: &Pairing{Local: two, Remote: one, Secret: "between us", Port: mirrorPorts - 100}})
	must(err)
	b.book.next = 1000 // the legs' names are one kernel's, too
	defer func() {
		_ = TakeDown(context.WithoutCancel(ctx), TakeDownConfig{PoolName: "bay-two", Log: testLog(t)})
		_ = TakeDown(context.WithoutCancel(ctx), TakeDownConfig{PoolName: "bay-one", Log: testLog(t)})
	}()
	golden := goldenImage(t)
	for _, s := range []*Storage{a, b} {
		_, err := s.ImportGolden(ctx, Import{ID: "golden", SizeBytes: goldenSize}, bytes.NewReader(golden))
		must(err)
	}
	answer(t, "won")
	must(mirror.SetHelper("/test"))

	// Made and used as a draft, which the partner knows nothing of.
	va, err := a.CreateVolume(ctx, Spec{ID: uuid.NewString(), Name: "web", GoldenID: "golden", Group: 1, Draft: true})
	must(err)
	writeDevice(t, va, 3*mib)
	record := va
	record.Minor += 100
	vb, err := b.AdoptVolume(ctx, record)
	must(err)
	if vb.UUID != va.UUID || vb.Group != 1 {
		t.Errorf("adopted %+v from %+v", vb, va)
	}
	other := record
	other.ID, other.Minor, other.Digest = uuid.NewString(), 170, "another"
	if _, err := b.AdoptVolume(ctx, other); !errors.Is(err, ErrConflict) {
		t.Errorf("adopting a clone of another image = %v, want ErrConflict", err)
	}
	id := va.ID
	must(a.Meet(ctx, id))
	must(b.Connect(ctx, id))
	bothInSync := func() {
		t.Helper()
		for _, s := range []*Storage{a, b} {
			v, err := s.Volume(id)
			must(err)
			waitFor(t, "both legs in sync", func() bool {
				st, _, err := s.mirror.State(ctx, v.Minor)
				if must(err); st.Connection == mirror.StandAlone {
					t.Fatalf("%s stands alone: %+v", st.Name, st)
				}
				return inSync(st)
			})
		}
		if legSum(t, a, id) != legSum(t, b, id) {
			t.Fatal("the legs differ")
		}
	}
	bothInSync()
	leg := func(s *Storage) Leg {
		t.Helper()
		legs, err := s.Legs(ctx)
		must(err)
		if !legs[id].Up {
			t.Fatalf("no leg of %s in %v", id, legs)
		}
		return legs[id]
	}
	if l := leg(a); !l.Draft || l.Mirror.Role != mirror.Primary || l.Mirror.Fences {
		t.Errorf("the maker's leg: %+v, want a draft that goes on without its partner", l)
	}
	must(a.Settle(ctx, id))
	if l := leg(a); l.Draft || l.Mirror.Role != mirror.Secondary || !l.Mirror.Fences || l.Exported {
		t.Errorf("the maker's leg, settled: %+v, want a secondary that freezes without its partner", l)
	}
	if x, y := contents(t, a, id), contents(t, b, id); !bytes.Equal(x, y) || len(x) == 0 {
		t.Errorf("read from both legs: %d and %d bytes, want the same", len(x), len(y))
	}
	must(a.Promote(ctx, id))
	must(a.Settle(ctx, id)) // once more, of one that may be served
	if l := leg(a); l.Mirror.Role != mirror.Primary {
		t.Errorf("Settle took %s its role", id)
	}

	// A planned move: the same target, with what was written, on the other side.
	access := Access{InitiatorIQN: "iqn.2026-11.org.baystream.server:pair", User: "one", Secret: "0123456789abcdef", Portal: netip.AddrPortFrom(one, 3260)}
	enter := func() *initiator {
		t.Helper()
		i, err := login(ctx, access.Portal.String(), access.InitiatorIQN, IQN(id), access.User, string(access.Secret))
		must(err)
		return i
	}
	_, err = a.Export(ctx, id, access)
	must(err)
	i := enter()
	block := bytes.Repeat([]byte("moves with it..."), 256)
	must(i.write(6*mib/512, block))
	i.close()
	must(a.Reconcile(ctx))
	if l := leg(a); !l.Exported {
		t.Error("Reconcile took the target of a pair's volume away")
	}
	must(a.Hide(ctx, id, true))
	must(a.Demote(ctx, id))
	must(b.Promote(ctx, id))
	access.Portal = netip.AddrPortFrom(two, 3260)
	must(b.Expose(ctx, id, access))
	if v, err := b.Volume(id); err != nil || v.Access != nil {
		t.Errorf("exposed: %+v, %v, want no record of it", v, err)
	}
	i = enter()
	if got, err := i.read(6*mib/512, len(block)); err != nil || !bytes.Equal(got, block) {
		t.Errorf("after the move: equal %v, %v", bytes.Equal(got, block), err)
	}

	// b loses its partner, asks, and has lost: its server hangs.
	answer(t, "lost")
	must(a.ForceDisconnect(ctx, id))
	waitAnswered(t, "lost")
	waitFor(t, "b to freeze", func() bool {
		st, _, err := b.mirror.State(ctx, vb.Minor)
		return err == nil && st.Fencing
	})
	hung := make(chan error, 1)
	go func() { hung <- i.write(7*mib/512, block) }()
	answer(t, "won")
	must(a.FlushLeg(ctx, id))
	must(a.Promote(ctx, id))
	writeDevice(t, va, 10*mib)
	select {
	case err := <-hung:
		t.Fatalf("a frozen volume answered: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	must(b.GiveUp(ctx, id))
	if err := <-hung; err == nil {
		t.Error("a write to the loser succeeded")
	}
	i.close()
	must(b.BringUp(ctx, id, false))
	must(b.Connect(ctx, id))
	must(a.Connect(ctx, id))
	bothInSync()

	// A stale leg of an older incarnation never meets the new one.
	record.UUID = mirror.NewUUID()
	must(b.BringDown(ctx, id))
	again, err := b.AdoptVolume(ctx, record)
	must(err)
	if again.ThinID == vb.ThinID || again.UUID != record.UUID {
		t.Errorf("adopted anew: %+v, before %+v", again, vb)
	}
}

// writeDevice writes 64 KiB through a volume that is primary.
func writeDevice(t *testing.T, v Volume, at int64) {
	t.Helper()
	f, err := os.OpenFile(v.Device(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{byte(at >> 20)}).Read(data)
	_, err = f.WriteAt(data, at)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// contents reads a volume as Capture does.
func contents(t *testing.T, s *Storage, id string) []byte {
	t.Helper()
	f, size, err := s.OpenVolume(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// legSum is the digest of the data part of a volume's leg.
func legSum(t *testing.T, s *Storage, id string) string {
	t.Helper()
	v, err := s.Volume(id)
	if err != nil {
		t.Fatal(err)
	}
	leg, _, err := s.activateLeg(t.Context(), v, false)
	if err != nil {
		t.Fatal(err)
	}
	return legDigest(t, leg, int64(v.SizeBytes))
}
