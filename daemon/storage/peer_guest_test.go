package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baystream/daemon/mirror"
	"baystream/daemon/pool"
	"baystream/daemon/pool/dm"
	"baystream/internal/vmtest"
)

const (
	peerSize     = 16 * mib // four extents of the activity log
	peerAnswer   = "/run/fence-answer"
	peerAnswered = "/run/fence-answered"
)

// TestMain lets the kernel call this program as DRBD's fence handler: the file
// says what it answers.
func TestMain(m *testing.M) {
	if vmtest.InGuest() || len(os.Args) != 3 || strings.HasPrefix(os.Args[1], "-") {
		os.Exit(m.Run())
	}
	if os.Args[1] != "fence-peer" {
		os.Exit(0)
	}
	b, err := os.ReadFile(peerAnswer)
	if err == nil {
		err = os.WriteFile(peerAnswered, b, 0o600)
	}
	if err != nil || string(b) != "won" {
		os.Exit(1)
	}
	os.Exit(7)
}

// answer sets what the fence handler says from now on.
func answer(t *testing.T, what string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(peerAnswered, nil, 0o600), os.WriteFile(peerAnswer, []byte(what), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// waitAnswered waits until the handler has said it to somebody.
func waitAnswered(t *testing.T, what string) {
	t.Helper()
	waitFor(t, "the fence handler to say "+what, func() bool {
		b, err := os.ReadFile(peerAnswered)
		return err == nil && string(b) == what
	})
}

// side is one of two mirrored legs in one kernel, each a resource of its own,
// joined over loopback as on two appliances.
type side struct {
	*peers
	res  mirror.Resource
	peer mirror.Peer
	thin uint32
}

type peers struct {
	t    *testing.T
	ctx  context.Context
	pool *pool.Pool
	ctl  *mirror.Control
	next uint32 // thin ID
	wake <-chan struct{}
	a, b *side
}

// TestGuestPeers is the life of a mirrored volume.
func TestGuestPeers(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	p := &peers{t: t, ctx: t.Context(), next: 1}
	defer func() {
		if err := TakeDown(context.WithoutCancel(p.ctx), TakeDownConfig{PoolName: "bay-peers"}); err != nil {
			t.Error(err)
		}
	}()
	p.open()
	for _, part := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"birth", p.birth},
		{"onePrimary", p.onePrimary},
		{"partnerAway", p.partnerAway},
		{"ownerDies", p.ownerDies},
		{"winnerGoesOn", p.winnerGoesOn},
		{"frozenLoser", p.frozenLoser},
		{"outdated", p.outdated},
		{"disowned", p.disowned},
	} {
		if !t.Run(part.name, func(t *testing.T) { p.t = t; part.do(t) }) {
			p.t = t
			t.FailNow()
		}
	}
}

func (p *peers) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *peers) open() {
	p.must(pool.Format(smallMeta))
	var err error
	p.pool, err = pool.Open(p.ctx, pool.Config{Name: "bay-peers", MetaDev: smallMeta, DataDev: smallData})
	p.must(err)
	p.ctl, err = mirror.Open(testLog(p.t))
	p.must(err)
	p.wake, err = p.ctl.Watch(p.ctx)
	p.must(err)
	one, two := netip.MustParseAddrPort("127.0.0.1:7001"), netip.MustParseAddrPort("127.0.0.1:7002")
	p.a = &side{peers: p, peer: mirror.Peer{Local: one, Remote: two, Secret: "between us"}, res: mirror.Resource{Name: "a", Minor: 101}}
	p.b = &side{peers: p, peer: mirror.Peer{Local: two, Remote: one, Secret: "between us"}, res: mirror.Resource{Name: "b", Minor: 102}}
}

// wait looks at the state of s at each event until ok.
func (s *side) wait(what string, ok func(mirror.State) bool) mirror.State {
	s.t.Helper()
	s.t.Logf("%s: waiting until %s", s.res.Name, what)
	for {
		st := s.state()
		if ok(st) {
			return st
		}
		if st.Connection == mirror.StandAlone {
			s.t.Fatalf("%s stands alone: %+v", s.res.Name, st)
		}
		select {
		case <-s.wake:
		case <-time.After(time.Second): // the host bounds the whole VM
		}
	}
}

func (s *side) state() mirror.State {
	s.t.Helper()
	st, found, err := s.ctl.State(s.ctx, s.res.Minor)
	if s.must(err); !found {
		s.t.Fatalf("%s has no resource", s.res.Name)
	}
	return st
}

func inSync(s mirror.State) bool {
	return s.Connection == mirror.Connected && s.Disk == mirror.UpToDate && s.PeerDisk == mirror.UpToDate
}

// leg activates a thin device as the leg.
func (s *side) leg(thin uint32) {
	s.t.Helper()
	sectors, err := mirror.LegSectors(peerSize / 512)
	s.must(err)
	s.thin, s.res.DataSectors = thin, peerSize/512
	s.res.Leg, err = s.pool.Activate(s.ctx, s.name(), thin, sectors)
	s.must(err)
}

func (s *side) name() string { return fmt.Sprintf("bay-vol-side%d", s.thin) }

func (s *side) attach(fresh bool) {
	s.t.Helper()
	s.res.Fresh = fresh
	_, err := s.ctl.Attach(s.ctx, s.res)
	s.must(err)
}

func (s *side) connect() {
	s.t.Helper()
	s.must(s.ctl.Connect(s.ctx, s.res.Name, s.res.Minor, s.peer))
}

func (s *side) leave() {
	s.t.Helper()
	s.must(s.ctl.Disconnect(s.ctx, s.res.Name, s.peer, true))
}

func (s *side) promote() {
	s.t.Helper()
	s.must(s.ctl.Promote(s.ctx, s.res.Name, s.res.Minor))
}

// end takes the resource and the leg's node away.
func (s *side) end() {
	s.t.Helper()
	s.must(s.ctl.Down(s.ctx, s.res.Name, s.res.Minor))
	s.must(s.pool.Deactivate(s.ctx, s.name()))
}

func (p *peers) newThin() uint32 {
	p.next++
	return p.next
}

func (s *side) open() *os.File {
	s.t.Helper()
	f, err := os.OpenFile(mirror.Device(s.res.Minor), os.O_RDWR|unix.O_DIRECT, 0)
	s.must(err)
	return f
}

// write writes n random blocks of 4 KiB in the MiB at byte from.
func (s *side) write(from int64, n int) {
	s.t.Helper()
	f := s.open()
	defer f.Close()
	b := directBuffer(4096)
	r := rand.NewChaCha8([32]byte{byte(from >> 20), byte(n)})
	for i := range n {
		r.Read(b)
		_, err := f.WriteAt(b, from+int64(i)*2*4096) // every other one
		s.must(err)
	}
	s.must(f.Sync())
}

// equal compares the data of both legs.
func (p *peers) equal() {
	p.t.Helper()
	if legDigest(p.t, p.a.res.Leg, peerSize) != legDigest(p.t, p.b.res.Leg, peerSize) {
		p.t.Fatal("the legs differ")
	}
}

// legDigest reads a leg past the page cache, which knows nothing of what DRBD
// writes below it.
func legDigest(t *testing.T, leg string, size int64) string {
	t.Helper()
	f, err := os.OpenFile(leg, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []byte
	b := directBuffer(mib)
	for at := int64(0); at < size; at += mib {
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return sum(all)
}

// birth makes the volume anew, each time under its own UUID, the sides in
// another order.
func (p *peers) birth(t *testing.T) {
	p.must(p.pool.CreateThin(1))
	node, err := p.pool.Activate(p.ctx, "bay-gold-peer", 1, peerSize/512)
	p.must(err)
	golden := bytes.Repeat([]byte("golden image 16\n"), mib/16)
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	p.must(err)
	_, err = f.WriteAt(golden, 5*mib)
	p.must(errors.Join(err, f.Sync(), f.Close()))
	p.must(p.pool.Deactivate(p.ctx, "bay-gold-peer"))
	for round, order := range [][]*side{{p.a, p.b}, {p.b, p.a}} {
		id := mirror.NewUUID()
		for _, s := range order {
			thin := p.newThin()
			p.must(p.pool.CreateSnap(thin, 1))
			s.leg(thin)
			written, err := mirror.Initialize(s.res.Leg, s.res.DataSectors, id)
			if p.must(err); !written {
				t.Fatal("a new leg has metadata")
			}
			s.attach(true)
			if st := s.state(); st.Disk != mirror.UpToDate || st.OutOfSync != 0 {
				t.Errorf("round %d: %s is born %s, %d bytes out of sync", round, s.res.Name, st.Disk, st.OutOfSync)
			}
		}
		if round == 1 {
			order[1].promote() // may be in use before its partner is there
		}
		for _, s := range order {
			s.connect()
		}
		for _, s := range order {
			st := s.wait("in sync", inSync)
			if st.OutOfSync != 0 || st.Suspended {
				t.Errorf("round %d: %s: %+v", round, s.res.Name, st)
			}
		}
		p.equal()
		if round == 0 {
			for _, s := range order {
				s.end()
				p.must(p.pool.Delete(s.thin))
			}
		}
	}
	p.must(p.ctl.Demote(p.ctx, p.a.res.Name, p.a.res.Minor)) // the last order's second
}

func (p *peers) onePrimary(t *testing.T) {
	p.a.promote()
	if err := p.ctl.Promote(p.ctx, p.b.res.Name, p.b.res.Minor); !errors.Is(err, mirror.ErrPartnerPrimary) {
		t.Errorf("second primary = %v, want ErrPartnerPrimary", err)
	}
	p.a.write(mib, 64)
	p.equal()
	st := p.b.state()
	if st.Role != mirror.Secondary || st.PeerRole != mirror.Primary {
		t.Errorf("b is %s, its partner %s", st.Role, st.PeerRole)
	}
}

// partnerAway lets b die and return: what was written meanwhile is copied, and
// nothing else.
func (p *peers) partnerAway(t *testing.T) {
	p.b.leave()
	p.b.end()
	p.a.wait("alone", func(s mirror.State) bool { return !s.Connection.Up() })
	p.a.write(9*mib, 100)
	if st := p.a.state(); st.OutOfSync != 100*4096 {
		t.Errorf("%d bytes out of sync, want %d", st.OutOfSync, 100*4096)
	}
	p.b.leg(p.b.thin)
	p.b.attach(false)
	p.b.connect()
	p.a.wait("in sync", inSync)
	p.b.wait("in sync", inSync)
	p.equal()
}

// ownerDies crashes the primary side while it writes: what its disk held at that
// moment returns, and is resynced within the bounds of the activity log.
func (p *peers) ownerDies(t *testing.T) {
	stop, wrote := make(chan struct{}), make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		f, err := os.OpenFile(mirror.Device(p.a.res.Minor), os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			wrote <- err
			return
		}
		defer f.Close()
		b := directBuffer(4096)
		for i := 0; ; i++ {
			select {
			case <-stop:
				wrote <- nil
				return
			default:
			}
			b[0], b[1] = byte(i), byte(i>>8)
			if _, err := f.WriteAt(b, int64(12*mib+4096*(i%256))); err != nil {
				wrote <- err
				return
			}
			if i == 200 {
				close(begun)
			}
		}
	}()
	<-begun
	crashed := p.newThin()
	c, err := dm.Open()
	p.must(err)
	p.must(c.Suspend(p.a.name())) // the moment of the crash
	p.must(p.pool.CreateSnap(crashed, p.a.thin))
	_, err = c.Resume(p.a.name())
	p.must(errors.Join(err, c.Close()))
	close(stop)
	p.must(<-wrote)
	p.b.leave()
	p.a.leave()
	p.a.end()

	p.b.promote()
	p.b.write(2*mib, 50)
	p.a.leg(crashed)
	hot := attachCrashed(t, p.a)
	if hot == 0 || hot > 12*mib { // the extents at 0, 8 and 12 MiB were written to, that at 4 MiB never was
		t.Errorf("%d bytes to resync because of the crash, want those of three extents at the most", hot)
	}
	p.a.connect()
	p.b.connect()
	st := p.a.wait("resync begun or done", func(s mirror.State) bool { return s.Connection.Resyncing() || inSync(s) })
	if st.Connection == mirror.SyncSource {
		t.Error("the dead owner became the source of the resync")
	}
	p.a.wait("in sync", inSync)
	p.b.wait("in sync", inSync)
	p.equal()
	t.Logf("crashed owner: %d KiB hot", hot/1024)
}

func attachCrashed(t *testing.T, s *side) uint64 {
	t.Helper()
	s.attach(false)
	return s.state().OutOfSync
}

// fence makes both sides freeze when the other is lost, and sets the handler's
// answer.
func (p *peers) fence(what string) {
	p.t.Helper()
	answer(p.t, what)
	p.must(mirror.SetHelper("/test"))
	for _, s := range []*side{p.a, p.b} {
		s.res.Fencing = true
		p.must(p.ctl.Reconfigure(p.ctx, s.res))
	}
}

// winnerGoesOn: b is primary, loses a, and has won.
func (p *peers) winnerGoesOn(t *testing.T) {
	p.fence("won")
	p.a.leave()
	st := p.b.wait("thawed", func(s mirror.State) bool { return !s.Connection.Up() && !s.Suspended && s.PeerDisk == mirror.Outdated })
	if st.Role != mirror.Primary {
		t.Errorf("b is %s", st.Role)
	}
	p.b.write(4*mib, 30)
	p.a.connect()
	p.a.wait("in sync", inSync)
	p.b.wait("in sync", inSync)
	p.equal()
}

// frozenLoser: b is primary, loses a, and has lost; a takes over; b gets clean
// without a reboot.
func (p *peers) frozenLoser(t *testing.T) {
	p.fence("lost")
	p.a.leave()
	waitAnswered(t, "lost")
	p.b.wait("frozen", func(s mirror.State) bool { return s.Suspended && s.Fencing })
	f := p.b.open()
	var once sync.Once
	hung := make(chan error, 1)
	writing := make(chan struct{})
	go func() {
		b := directBuffer(4096)
		once.Do(func() { close(writing) })
		_, err := f.WriteAt(b, 0)
		hung <- err
	}()
	<-writing
	answer(t, "won")
	p.a.promote()
	p.a.write(6*mib, 40)
	select {
	case err := <-hung:
		t.Fatalf("a frozen volume answered a write: %v", err)
	default:
	}
	// The order matters: nothing may reach the leg any more.
	p.must(p.ctl.DetachForce(p.ctx, p.b.res.Name, p.b.res.Minor))
	p.must(p.ctl.ResumeIO(p.ctx, p.b.res.Name, p.b.res.Minor))
	if err := <-hung; !errors.Is(err, unix.EIO) {
		t.Errorf("the write that hung = %v, want EIO", err)
	}
	p.must(f.Close())
	p.b.leave()
	p.b.end()
	p.b.leg(p.b.thin)
	p.b.attach(false)
	p.b.connect()
	p.a.connect()
	st := p.b.wait("resync begun or done", func(s mirror.State) bool { return s.Connection.Resyncing() || inSync(s) })
	if st.Connection == mirror.SyncSource {
		t.Error("the loser became the source of the resync")
	}
	p.a.wait("in sync", inSync)
	p.b.wait("in sync", inSync)
	p.equal()
}

// outdated: a leg that is known to be old does not become primary alone.
func (p *peers) outdated(t *testing.T) {
	p.b.leave()
	p.must(p.ctl.Outdate(p.ctx, p.b.res.Name, p.b.res.Minor))
	if st := p.b.state(); st.Disk != mirror.Outdated {
		t.Errorf("b is %s, want Outdated", st.Disk)
	}
	if err := p.ctl.Promote(p.ctx, p.b.res.Name, p.b.res.Minor); err == nil {
		t.Error("an outdated leg became primary")
	}
	p.b.connect()
	p.a.wait("in sync", inSync)
	p.b.wait("in sync", inSync)
}

// disowned: a leg that may lack something becomes nothing but a target.
func (p *peers) disowned(t *testing.T) {
	p.b.leave()
	p.b.end()
	p.a.write(3*mib, 20)
	p.b.leg(p.b.thin)
	p.must(mirror.Disown(p.b.res.Leg, p.b.res.DataSectors))
	p.b.attach(false)
	if st := p.b.state(); st.Disk != mirror.Inconsistent {
		t.Errorf("b is %s, want Inconsistent", st.Disk)
	}
	if err := p.ctl.Promote(p.ctx, p.b.res.Name, p.b.res.Minor); err == nil {
		t.Error("a disowned leg became primary")
	}
	p.b.connect()
	p.a.wait("in sync", inSync)
	p.b.wait("in sync", inSync)
	p.equal()
	p.b.leave()
	p.a.leave()
	p.must(p.ctl.NewCurrentUUID(p.ctx, p.a.res.Name, p.a.res.Minor, false))
}
