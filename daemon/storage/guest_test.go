package storage

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"baystream/daemon/mirror"
	"baystream/daemon/pool"
	"baystream/internal/vmtest"
)

// The disks that TestInVM gives the guest.
const (
	dataDisk  = "/dev/vda" // 4 GiB, blank
	smallData = "/dev/vdb" // 64 MiB
	smallMeta = "/dev/vdc" // 16 MiB
)

const (
	goldenSize = 16 * mib
	volumeSize = 32 * mib
)

// goldenImage is a raw disk in memory: GPT with two partitions, random data
// here and there, zeros elsewhere.
func goldenImage(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "golden")
	if err := os.WriteFile(file, make([]byte, goldenSize), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true, Partitions: []*gpt.Partition{
		{Index: 1, Start: 2048, End: 6143, Type: gpt.EFISystemPartition, Name: "esp"},
		{Index: 2, Start: 6144, End: 30719, Type: gpt.LinuxFilesystem, Name: "root"},
	}}
	if err := table.Write(f, goldenSize); err != nil {
		t.Fatal(err)
	}
	r := rand.NewChaCha8([32]byte{1})
	for _, at := range []int64{mib + 65536, 5*mib + 4096, 9 * mib, 12*mib + 100*512, goldenSize - mib} {
		b := make([]byte, 200<<10)
		r.Read(b)
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sum(b []byte) string {
	d, err := Digest(bytes.NewReader(b))
	if err != nil {
		panic(err) // reading from memory cannot fail
	}
	return d
}

// story carries what the parts of TestGuestStory share.
type story struct {
	disk   Disk
	rec    *Memory
	s      *Storage
	golden []byte
	vol    Volume
	access Access
}

func (st *story) open(t *testing.T) {
	t.Helper()
	s, err := Open(t.Context(), Config{MetaDev: st.disk.Meta, DataDev: st.disk.Data, Records: st.rec, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	st.s = s
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// TestGuestStory is the life of an appliance's storage, from a blank disk on.
func TestGuestStory(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	st := &story{rec: NewMemory(), golden: goldenImage(t), access: Access{
		InitiatorIQN: "iqn.2026-11.org.baystream.server:one", User: "one", Secret: "0123456789abcdef",
		Portal: netip.MustParseAddrPort("127.0.0.1:3260"),
	}}
	for _, part := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"disk", st.prepareDisk},
		{"golden", st.importGolden},
		{"badGolden", st.refuseBadGoldens},
		{"clone", st.clone},
		{"partitions", st.personalise},
		{"export", st.export},
		{"access", st.refuseStrangers},
		{"restartUnderLoad", st.restartUnderLoad},
		{"inUse", st.refuseWhileInUse},
		{"reboot", st.reboot},
		{"resume", st.resumeCreation},
		{"hundred", st.hundredClones},
		{"delete", st.deleteAll},
	} {
		if !t.Run(part.name, part.do) {
			if st.s != nil { // leave the kernel clean for the next test
				_ = st.s.Shutdown(context.WithoutCancel(t.Context()))
			}
			t.FailNow()
		}
	}
}

func (st *story) prepareDisk(t *testing.T) {
	ctx := t.Context()
	if err := os.WriteFile(smallData, []byte("somebody else's"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := PrepareDisk(ctx, DiskOptions{Candidates: []string{smallData}}); !errors.Is(err, ErrNoDisk) {
		t.Fatalf("PrepareDisk(foreign disk) = %v, want ErrNoDisk", err)
	}
	o := DiskOptions{StateDir: "/data", Log: testLog(t)}
	d, err := PrepareDisk(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if d.Path != dataDisk || !d.Created {
		t.Fatalf("PrepareDisk = %+v, want %s created", d, dataDisk)
	}
	if err := os.WriteFile("/data/kept", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = PrepareDisk(ctx, o); err != nil || d.Created {
		t.Fatalf("second PrepareDisk = %+v, %v, want the same disk, not created", d, err)
	}
	if err := unix.Unmount("/data", 0); err != nil {
		t.Fatal(err)
	}
	if d, err = PrepareDisk(ctx, o); err != nil || d.Created {
		t.Fatalf("PrepareDisk after unmount = %+v, %v", d, err)
	}
	if b, err := os.ReadFile("/data/kept"); string(b) != "kept" {
		t.Fatalf("file on the local partition: %q, %v", b, err)
	}
	st.disk = d
	st.open(t)
}

func (st *story) importGolden(t *testing.T) {
	var last uint64
	g, err := st.s.ImportGolden(t.Context(), Import{
		ID: "golden-1", SizeBytes: goldenSize, Digest: sum(st.golden),
		Progress: func(done, _ uint64) { last = done },
	}, bytes.NewReader(st.golden))
	if err != nil {
		t.Fatal(err)
	}
	if !g.Ready || g.Digest != sum(st.golden) || g.AllocatedBytes > 2*mib || last != goldenSize {
		t.Errorf("ImportGolden = %+v, progress %d", g, last)
	}
	again, err := st.s.ImportGolden(t.Context(), Import{ID: "golden-1", SizeBytes: goldenSize}, nil)
	if err != nil || again != g {
		t.Errorf("second ImportGolden = %+v, %v, want the same without reading", again, err)
	}
	ps, err := st.s.pool.Status()
	if err != nil || ps.DataUsed > 3*mib {
		t.Errorf("pool after import: %+v, %v, want about 1.5 MiB used", ps, err)
	}
	if names, _ := st.s.pool.Active("bay-gold-"); len(names) != 0 {
		t.Errorf("golden image is active: %v", names)
	}
}

func (st *story) refuseBadGoldens(t *testing.T) {
	before, err := st.s.pool.Status()
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(st.golden)
	bad[mib+65536+7] ^= 1
	for _, c := range []struct {
		name string
		im   Import
		src  io.Reader
		want string
	}{
		{"changed", Import{SizeBytes: goldenSize, Digest: sum(st.golden)}, bytes.NewReader(bad), "is damaged"},
		{"short", Import{SizeBytes: goldenSize}, bytes.NewReader(st.golden[:goldenSize/2]), "cut short"},
		{"long", Import{SizeBytes: goldenSize / 2}, bytes.NewReader(st.golden), "larger than it says"},
		{"huge", Import{SizeBytes: 64 << 30}, nil, "enlarge the data disk"},
		{"odd", Import{SizeBytes: 1000}, nil, "multiple of 512"},
	} {
		c.im.ID = c.name
		_, err := st.s.ImportGolden(t.Context(), c.im, c.src)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("import %s: %v, want %q", c.name, err, c.want)
		}
		if c.name == "huge" && !errors.Is(err, ErrPoolFull) {
			t.Errorf("import %s: %v, want ErrPoolFull", c.name, err)
		}
	}
	if n := len(st.s.book.all().Goldens); n != 1 {
		t.Errorf("%d golden images recorded, want 1", n)
	}
	after, err := st.s.pool.Status()
	if err != nil || after.DataUsed != before.DataUsed {
		t.Errorf("pool uses %d bytes after failed imports, %d before (%v)", after.DataUsed, before.DataUsed, err)
	}
}

func (st *story) clone(t *testing.T) {
	ctx := t.Context()
	spec := Spec{ID: uuid.NewString(), Name: "web-1", GoldenID: "golden-1", SizeBytes: volumeSize}
	v, err := st.s.CreateVolume(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	st.vol = v
	if again, err := st.s.CreateVolume(ctx, spec); err != nil || again != v {
		t.Errorf("second CreateVolume = %+v, %v, want %+v", again, err, v)
	}
	spec.SizeBytes *= 2
	if _, err := st.s.CreateVolume(ctx, spec); !errors.Is(err, ErrConflict) {
		t.Errorf("CreateVolume with another size: %v, want ErrConflict", err)
	}
	_, err = st.s.CreateVolume(ctx, Spec{ID: uuid.NewString(), GoldenID: "golden-1", SizeBytes: 4 * mib})
	if err == nil || !strings.Contains(err.Error(), "smaller") {
		t.Errorf("CreateVolume smaller than the image: %v", err)
	}
	if _, err = st.s.CreateVolume(ctx, Spec{ID: uuid.NewString(), GoldenID: "none", SizeBytes: mib}); !errors.Is(err, ErrNotFound) {
		t.Errorf("CreateVolume of an unknown image: %v, want ErrNotFound", err)
	}
	if n, err := pool.Sectors(v.Device()); err != nil || n != volumeSize/512 {
		t.Errorf("%s has %d sectors, %v", v.Device(), n, err)
	}
	b, err := os.ReadFile(v.Device())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[:goldenSize], st.golden) || !allZero(b[goldenSize:]) {
		t.Error("clone does not equal its golden image")
	}
	if err := st.s.DeleteGolden(ctx, "golden-1"); !errors.Is(err, ErrInUse) {
		t.Errorf("DeleteGolden of a cloned image: %v, want ErrInUse", err)
	}
	empty, err := st.s.CreateVolume(ctx, Spec{ID: uuid.NewString(), Name: "empty", SizeBytes: 4 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(empty.Device()); err != nil || len(b) != 4*mib || !allZero(b) {
		t.Errorf("empty volume: %d bytes, zero %v, %v", len(b), allZero(b), err)
	}
	if err := st.s.DeleteVolume(ctx, empty.ID); err != nil {
		t.Fatal(err)
	}
}

func (st *story) personalise(t *testing.T) {
	ctx := t.Context()
	parts, err := st.s.Partitions(ctx, st.vol.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 2 || parts[0].Name != "esp" || parts[1].Name != "root" {
		t.Fatalf("Partitions = %+v", parts)
	}
	node := parts[1].Node
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-F", "-t", "ext4", node).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %s: %v: %s", node, err, out)
	}
	mnt := t.TempDir()
	if err := unix.Mount(node, mnt, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mnt+"/hostname", []byte("web-1\n"), 0o644); err != nil {
		t.Error(err)
	}
	if _, err := st.s.Export(ctx, st.vol.ID, st.access); !errors.Is(err, ErrInUse) {
		t.Errorf("Export while a partition is mounted: %v, want ErrInUse", err)
	}
	if err := st.s.DeleteVolume(ctx, st.vol.ID); !errors.Is(err, ErrInUse) {
		t.Errorf("DeleteVolume while a partition is mounted: %v, want ErrInUse", err)
	}
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	if err := st.s.ReleasePartitions(ctx, st.vol.ID); err != nil {
		t.Fatal(err)
	}
}

func (st *story) login(t *testing.T) *initiator {
	t.Helper()
	a := st.access
	i, err := login(t.Context(), a.Portal.String(), a.InitiatorIQN, IQN(st.vol.ID), a.User, string(a.Secret))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func (st *story) export(t *testing.T) {
	ctx := t.Context()
	for range 2 {
		iqn, err := st.s.Export(ctx, st.vol.ID, st.access)
		if err != nil || iqn != IQN(st.vol.ID) {
			t.Fatalf("Export = %s, %v", iqn, err)
		}
	}
	if _, err := st.s.Partitions(ctx, st.vol.ID); !errors.Is(err, ErrInUse) {
		t.Errorf("Partitions of an exported volume: %v, want ErrInUse", err)
	}
	i := st.login(t)
	defer i.close()
	if n, err := i.sectors(); err != nil || n != volumeSize/512 {
		t.Errorf("LUN has %d sectors, %v", n, err)
	}
	dev, err := os.ReadFile(st.vol.Device())
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, mib + 65536, 9 * mib, goldenSize - mib} {
		b, err := i.read(uint32(at/512), 64<<10)
		if err != nil || !bytes.Equal(b, dev[at:at+64<<10]) {
			t.Errorf("LUN differs from the volume at byte %d (%v)", at, err)
		}
	}
	std, err := i.inquiry(0)
	if err != nil || !bytes.Contains(std, []byte("BAYSTRM OS volume")) {
		t.Errorf("INQUIRY: %q, %v", std, err)
	}
	serial, err := i.inquiry(0x80)
	if err != nil || !bytes.Contains(serial, []byte(st.vol.ID)) {
		t.Errorf("unit serial: %q, %v", serial, err)
	}
	naa, err := i.inquiry(0x83)
	digits := strings.ReplaceAll(st.vol.ID, "-", "")
	if err != nil || !strings.Contains(hex.EncodeToString(naa), digits[:20]) {
		t.Errorf("device id: %x, %v, want digits of %s", naa, err, digits)
	}
	if sess, err := st.s.Sessions(ctx, st.vol.ID); err != nil || len(sess) != 1 || sess[0].State != "LOGGED_IN" || len(sess[0].Addresses) != 1 {
		t.Errorf("Sessions = %+v, %v, want one", sess, err)
	}
}

func (st *story) refuseStrangers(t *testing.T) {
	a := st.access
	for _, c := range []struct{ name, ini, user, secret string }{
		{"wrong secret", a.InitiatorIQN, a.User, "0123456789abcdeX"},
		{"wrong user", a.InitiatorIQN, "two", string(a.Secret)},
		{"other initiator", "iqn.2026-11.org.baystream.server:two", a.User, string(a.Secret)},
	} {
		i, err := login(t.Context(), a.Portal.String(), c.ini, IQN(st.vol.ID), c.user, c.secret)
		if err == nil {
			i.close()
			t.Errorf("login with %s succeeded", c.name)
		}
	}
}

// restartUnderLoad lets an initiator write and read all the time while the
// storage is closed and opened again, as a daemon that was killed does.
func (st *story) restartUnderLoad(t *testing.T) {
	i := st.login(t)
	defer i.close()
	stop := make(chan struct{})
	rounds := make(chan error, 1)
	var n int
	started := make(chan struct{})
	go func() {
		var once sync.Once
		defer once.Do(func() { close(started) })
		r := rand.NewChaCha8([32]byte{2})
		b := make([]byte, 4096)
		for ; ; n++ {
			select {
			case <-stop:
				rounds <- nil
				return
			default:
			}
			r.Read(b)
			lba := uint32(20*mib/512 + 8*(n%1000))
			if err := i.write(lba, b); err != nil {
				rounds <- fmt.Errorf("write %d: %w", n, err)
				return
			}
			got, err := i.read(lba, 4096)
			if err != nil || !bytes.Equal(got, b) {
				rounds <- fmt.Errorf("read %d: equal %v, %w", n, bytes.Equal(got, b), err)
				return
			}
			once.Do(func() { close(started) })
		}
	}()
	<-started
	for range 3 {
		if err := st.s.Close(); err != nil {
			t.Fatal(err)
		}
		st.open(t)
		if err := st.s.Reconcile(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-rounds; err != nil {
		t.Errorf("I/O during restarts: %v", err)
	}
	t.Logf("%d writes verified over 3 restarts", n)
}

func (st *story) refuseWhileInUse(t *testing.T) {
	ctx := t.Context()
	i := st.login(t)
	if err := st.s.DeleteVolume(ctx, st.vol.ID); !errors.Is(err, ErrInUse) {
		t.Errorf("DeleteVolume with a session: %v, want ErrInUse", err)
	}
	if err := st.s.Unexport(ctx, st.vol.ID, false); !errors.Is(err, ErrInUse) {
		t.Errorf("Unexport with a session: %v, want ErrInUse", err)
	}
	if _, err := i.read(0, 4096); err != nil {
		t.Errorf("read after the refusals: %v", err)
	}
	status, err := st.s.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Volumes) != 1 || status.Volumes[0].Condition != "in use" || status.Volumes[0].Used == 0 || status.Warning != "" {
		t.Errorf("Status = %+v", status)
	}
	if strings.Contains(fmt.Sprintf("%+v %v %#v", status, status, status), string(st.access.Secret)) {
		t.Error("the CHAP secret shows in a printed status")
	}
	i.close()
}

// reboot takes everything down and brings it up again from the records.
func (st *story) reboot(t *testing.T) {
	ctx := t.Context()
	i := st.login(t)
	before, err := i.read(20*mib/512, 64<<10)
	if err != nil || allZero(before) {
		t.Fatalf("read before the reboot: zero %v, %v", allZero(before), err)
	}
	i.close()
	if err := st.s.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/block/dm-0"); err == nil {
		t.Error("a mapped device is left after Shutdown")
	}
	st.open(t)
	i = st.login(t)
	defer i.close()
	b, err := i.read(20*mib/512, 64<<10)
	if err != nil || !bytes.Equal(b, before) {
		t.Errorf("data after a reboot differ (%v)", err)
	}
}

// resumeCreation breaks a creation off after the clone exists, and repeats it.
func (st *story) resumeCreation(t *testing.T) {
	ctx := t.Context()
	spec := Spec{ID: uuid.NewString(), Name: "resumed", GoldenID: "golden-1", SizeBytes: goldenSize}
	v, err := st.s.book.addVolume(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.s.thin(v); err != nil {
		t.Fatal(err)
	}
	if err := st.s.Close(); err != nil {
		t.Fatal(err)
	}
	st.open(t)
	got, err := st.s.CreateVolume(ctx, spec)
	if err != nil || got.ThinID != v.ThinID || got.UUID != v.UUID || !got.Made {
		t.Errorf("resumed CreateVolume = %+v, %v, want %+v made", got, err, v)
	}
	// A thin device that no record knows must not be taken for ours.
	st.s.book.mu.Lock()
	next := st.s.book.next
	st.s.book.mu.Unlock()
	if err := st.s.pool.CreateThin(next); err != nil {
		t.Fatal(err)
	}
	other, err := st.s.CreateVolume(ctx, Spec{ID: uuid.NewString(), GoldenID: "golden-1"})
	if err != nil || other.ThinID == next {
		t.Errorf("CreateVolume = %+v, %v, want a thin ID other than %d", other, err, next)
	}
	for _, id := range []string{got.ID, other.ID} {
		if err := st.s.DeleteVolume(ctx, id); err != nil {
			t.Error(err)
		}
	}
	if err := st.s.pool.Delete(next); err != nil {
		t.Error(err)
	}
}

func (st *story) hundredClones(t *testing.T) {
	ctx := t.Context()
	const n = 100
	var wg sync.WaitGroup
	ids := make([]string, n)
	took := make([]time.Duration, n)
	begin := time.Now()
	for k := range n {
		ids[k] = uuid.NewString()
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := st.s.CreateVolume(ctx, Spec{ID: ids[k], Name: fmt.Sprint("c", k), GoldenID: "golden-1"}); err != nil {
				t.Error(err)
			}
			took[k] = time.Since(begin)
		}()
	}
	wg.Wait()
	all := time.Since(begin)
	begin = time.Now()
	for k := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := st.s.DeleteVolume(ctx, ids[k]); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	t.Logf("%d clones made at once in %v, deleted in %v", n, all, time.Since(begin))
	if vols := len(st.s.book.all().Volumes); vols != 1 {
		t.Errorf("%d volumes left, want 1", vols)
	}
}

func (st *story) deleteAll(t *testing.T) {
	ctx := t.Context()
	waitFor(t, "the session to end", func() bool {
		s, err := st.s.Sessions(ctx, "")
		return err == nil && len(s) == 0
	})
	for range 2 {
		if err := st.s.DeleteVolume(ctx, st.vol.ID); err != nil {
			t.Fatal(err)
		}
		if err := st.s.DeleteGolden(ctx, "golden-1"); err != nil {
			t.Fatal(err)
		}
	}
	ps, err := st.s.pool.Status()
	if err != nil || ps.DataUsed != 0 {
		t.Errorf("pool after deleting all: %+v, %v, want nothing used", ps, err)
	}
	if iqns, err := st.s.target.Targets(); err != nil || len(iqns) != 0 {
		t.Errorf("targets left: %v, %v", iqns, err)
	}
	if err := st.s.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

// waitFor polls for something the kernel does by itself, like ending a session
// whose connection was closed.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	t.Logf("waiting for %s", what)
	for !ok() { // the host bounds the whole VM
		time.Sleep(50 * time.Millisecond)
	}
}

// TestGuestPoolGuard fills a small pool.
func TestGuestPoolGuard(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	ctx := t.Context()
	if err := pool.Format(smallMeta); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, Config{PoolName: "bay-small", MetaDev: smallMeta, DataDev: smallData, Records: NewMemory(), Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Shutdown(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	v, err := s.CreateVolume(ctx, Spec{ID: uuid.NewString(), Name: "filler", SizeBytes: 128 * mib})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(v.Device(), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := directBuffer(mib)
	rand.NewChaCha8([32]byte{3}).Read(b)
	write := func(from, to int) {
		t.Helper()
		for k := from; k < to; k++ {
			if _, err := f.WriteAt(b, int64(k)*mib); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 48)
	if st, err := s.Status(ctx); err != nil || !strings.Contains(st.Warning, "filling up") {
		t.Errorf("at 75 %%: warning %q, %v", st.Warning, err)
	}
	small, err := s.CreateVolume(ctx, Spec{ID: uuid.NewString(), SizeBytes: mib})
	if err != nil {
		t.Errorf("CreateVolume at 75 %%: %v", err)
	}
	write(48, 56)
	f.Close()
	for range 2 {
		_, err = s.CreateVolume(ctx, Spec{ID: uuid.NewString(), SizeBytes: mib})
		if !errors.Is(err, ErrPoolFull) {
			t.Errorf("CreateVolume at 87 %%: %v, want ErrPoolFull", err)
		}
	}
	t.Logf("refusal: %v", err)
	for _, id := range []string{v.ID, small.ID} {
		if err := s.DeleteVolume(ctx, id); err != nil {
			t.Error(err)
		}
	}
	if v, err = s.CreateVolume(ctx, Spec{ID: uuid.NewString(), SizeBytes: mib}); err != nil {
		t.Errorf("CreateVolume after deleting: %v", err)
	}
}

// TestGuestMetadata compares our DRBD metadata with what drbdmeta reads, and
// our replay of the activity log with drbdmeta's, bit for bit.
func TestGuestMetadata(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	ctx := t.Context()
	if err := os.MkdirAll("/var/lock", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := pool.Format(smallMeta); err != nil {
		t.Fatal(err)
	}
	p, err := pool.Open(ctx, pool.Config{Name: "bay-md", MetaDev: smallMeta, DataDev: smallData})
	if err != nil {
		t.Fatal(err)
	}
	const data = 384 * mib / 512
	legSectors, err := mirror.LegSectors(data)
	if err != nil {
		t.Fatal(err)
	}
	var legs [3]string
	for k := range legs {
		if err := p.CreateThin(uint32(k + 1)); err != nil {
			t.Fatal(err)
		}
		if legs[k], err = p.Activate(ctx, fmt.Sprint("md", k), uint32(k+1), legSectors); err != nil {
			t.Fatal(err)
		}
	}
	id := mirror.NewUUID()
	if written, err := mirror.Initialize(legs[0], data, id); err != nil || !written {
		t.Fatalf("Initialize = %v, %v", written, err)
	}
	dump := drbdmeta(t, legs[0], "dump-md")
	for _, want := range []string{
		fmt.Sprintf("0x%016X; 0x0000000000000000; 0x0000000000000000; 0x0000000000000000;", id),
		"la-size-sect 786432;", "# md_size_sect 104\n", "# bm_offset 402653184\n", "al-extents 257;", "la-peer-max-bio-size 1048576;",
	} {
		if !strings.Contains(dump, want) {
			t.Errorf("dump-md lacks %q:\n%s", want, dump)
		}
	}

	if gi := drbdmeta(t, legs[0], "get-gi"); !strings.Contains(gi, ":1:1:0:0:0:0") {
		t.Errorf("get-gi does not show a consistent, up-to-date leg:\n%s", gi)
	}

	m, err := mirror.Open(testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	r := mirror.Resource{Name: "md", Minor: 99, Leg: legs[0], DataSectors: data, Fresh: true}
	if err := m.Up(ctx, r); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(mirror.Device(99), os.O_WRONLY|unix.O_DIRECT|unix.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	buf := directBuffer(4096)
	copy(buf, "hot")
	for k := range 70 {
		if _, err := f.WriteAt(buf, int64(k*5%96)*4*mib); err != nil {
			t.Fatal(err)
		}
	}
	// The metadata as a crash now would leave it, on two legs.
	tail := readTail(t, legs[0], data)
	f.Close()
	for _, l := range legs[1:] {
		writeTail(t, l, data, tail)
	}
	leg, err := os.OpenFile(legs[1], os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	hot, err := mirror.ApplyLog(leg, data)
	if err != nil || hot < 60 {
		t.Errorf("ApplyLog = %d, %v, want about 70 hot extents", hot, err)
	}
	if err := leg.Close(); err != nil {
		t.Error(err)
	}
	drbdmeta(t, legs[2], "apply-al")
	if a, b := readTail(t, legs[1], data), readTail(t, legs[2], data); !bytes.Equal(a, b) {
		t.Error("ApplyLog and drbdmeta apply-al leave different metadata")
	}
	if err := m.Down(ctx, "md", 99); err != nil {
		t.Error(err)
	}
	for k := range legs {
		if err := p.Deactivate(ctx, fmt.Sprint("md", k)); err != nil {
			t.Error(err)
		}
	}
	if err := p.Down(ctx); err != nil {
		t.Error(err)
	}
}

func drbdmeta(t *testing.T, leg, verb string) string {
	t.Helper()
	out, err := exec.Command("/sbin/drbdmeta", "--force", "99", "v08", leg, "internal", verb).CombinedOutput()
	if err != nil {
		t.Fatalf("drbdmeta %s: %v\n%s", verb, err, out)
	}
	return string(out)
}

// readTail reads a leg's metadata past the page cache.
func readTail(t *testing.T, leg string, data int64) []byte {
	t.Helper()
	f, err := os.OpenFile(leg, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := directBuffer(104 * 512)
	if _, err := f.ReadAt(b, data*512); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeTail(t *testing.T, leg string, data int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(leg, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, data*512)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
