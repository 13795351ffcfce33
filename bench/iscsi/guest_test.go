package iscsi

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"baystream/daemon/pool"
	"baystream/daemon/storage"
	"baystream/internal/vmtest"
)

const (
	mib   = 1 << 20
	size  = 64 * mib
	depth = 16 // requests in flight

	rounds  = 5
	oursID  = "11111111-2222-4333-8444-555555555555"
	secret  = "only for this bench"
	name    = "iqn.2026-11.org.baystream.server:bench"
	bareIQN = "iqn.2026-11.org.example:bare"
	tgtIQN  = "iqn.2026-11.org.example:tgt"
)

// lun is one target's disk, as the initiator has it.
type lun struct {
	name string
	file *os.File
}

func TestGuestISCSI(t *testing.T) {
	if !vmtest.InGuest() {
		t.Skip("measures inside a VM: make bench")
	}
	ctx := t.Context()
	s, err := storage.Open(ctx, storage.Config{MetaDev: "/dev/ram1", DataDev: "/dev/ram0", Records: storage.NewMemory(),
		Log: slog.New(slog.DiscardHandler), Run: func(context.Context, string, ...string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	cloneToLUN(t, s)
	v, err := s.CreateVolume(ctx, storage.Spec{ID: oursID, SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	// The peers get thin volumes of the same pool, without what we put above.
	p, err := pool.Open(ctx, pool.Config{Name: "bay-pool", MetaDev: "/dev/ram1", DataDev: "/dev/ram0"})
	if err != nil {
		t.Fatal(err)
	}
	bare, tgt := thin(t, p, "bare", 1<<20), thin(t, p, "tgt", 1<<20+1)
	for _, dev := range []string{v.Device(), bare, tgt} {
		fill(t, dev)
	}
	access := storage.Access{InitiatorIQN: name, User: "bench", Secret: secret, Portal: netip.MustParseAddrPort("127.0.0.1:3260")}
	if _, err := s.Export(ctx, oursID, access); err != nil {
		t.Fatal(err)
	}
	exportBare(t, bare)
	exportTGT(t, tgt)
	luns := []lun{
		login(t, "ours", storage.IQN(oursID), "3260", "-u", "bench", "-w", secret),
		login(t, "lio", bareIQN, "3261"),
		login(t, "tgt", tgtIQN, "3262"),
	}
	for _, work := range []struct {
		name  string
		size  int
		count int
		write bool
	}{
		{"read-4k", 4 << 10, 2000, false},
		{"write-4k", 4 << 10, 2000, true},
		{"read-128k", 128 << 10, 400, false},
		{"write-128k", 128 << 10, 400, true},
	} {
		for round := range rounds + 1 {
			for _, l := range luns {
				took := transfer(t, l.file, work.size, work.count, work.write)
				if round > 0 { // the first warms up
					fmt.Printf("bench %s-%s %.1f\n", l.name, work.name, float64(work.count)/took.Seconds())
				}
			}
		}
	}
}

// cloneToLUN times clones until the volume is exported, beside clones alone.
func cloneToLUN(t *testing.T, s *storage.Storage) {
	t.Helper()
	ctx := t.Context()
	g, err := s.ImportGolden(ctx, storage.Import{ID: "golden", SizeBytes: size}, strings.NewReader(strings.Repeat("golden\n\n", size/8)))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 11 {
		id := uuid.NewString()
		begin := time.Now()
		if _, err := s.CreateVolume(ctx, storage.Spec{ID: id, GoldenID: g.ID}); err != nil {
			t.Fatal(err)
		}
		made := time.Since(begin)
		_, err := s.Export(ctx, id, storage.Access{InitiatorIQN: name, User: "bench", Secret: secret, Portal: netip.MustParseAddrPort("127.0.0.1:3260")})
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			fmt.Printf("bench clone-only %.2f\nbench clone-to-lun %.2f\n", float64(made)/1e6, float64(time.Since(begin))/1e6)
		}
		if err := s.DeleteVolume(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteGolden(ctx, g.ID); err != nil {
		t.Fatal(err)
	}
}

func thin(t *testing.T, p *pool.Pool, name string, id uint32) string {
	t.Helper()
	if err := p.CreateThin(id); err != nil {
		t.Fatal(err)
	}
	node, err := p.Activate(t.Context(), "peer-"+name, id, size/512)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// fill gives every block of a thin volume its place, so that no transfer that
// is measured has to.
func fill(t *testing.T, dev string) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := buffer(mib)
	copy(b, dev)
	for at := int64(0); at < size; at += mib {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// exportBare exports a device by LIO as it is by default, open to everybody.
func exportBare(t *testing.T, dev string) {
	t.Helper()
	const root = "/sys/kernel/config/target"
	write := func(attr, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, attr), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	const store, tpg = "core/iblock_1/bare", "iscsi/" + bareIQN + "/tpgt_1"
	for _, d := range []string{store, tpg, tpg + "/np/127.0.0.1:3261", tpg + "/lun/lun_0"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if d == store {
			write(store+"/control", "udev_path="+dev)
			write(store+"/enable", "1")
		}
	}
	if err := os.Symlink(filepath.Join(root, store), filepath.Join(root, tpg, "lun/lun_0/bare")); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"authentication=0", "generate_node_acls=1", "demo_mode_write_protect=0", "cache_dynamic_acls=1"} {
		k, v, _ := strings.Cut(a, "=")
		write(tpg+"/attrib/"+k, v)
	}
	write(tpg+"/enable", "1")
}

// exportTGT exports a device by tgt with its aio store, which goes past the page cache as LIO does.
func exportTGT(t *testing.T, dev string) {
	t.Helper()
	for _, d := range []string{"/var/run", "/run"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tgtd := exec.Command("/usr/sbin/tgtd", "-f", "--iscsi", "portal=127.0.0.1:3262")
	tgtd.Stdout, tgtd.Stderr = t.Output(), t.Output()
	if err := tgtd.Start(); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		if exec.Command("/usr/sbin/tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target").Run() == nil {
			break
		}
		if n == 100 {
			t.Fatal("tgtd does not answer")
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, args := range []string{
		"--op new --mode target --tid 1 -T " + tgtIQN,
		"--op new --mode logicalunit --tid 1 --lun 1 --bstype aio -b " + dev,
		"--op bind --mode target --tid 1 -I ALL",
	} {
		if out, err := exec.Command("/usr/sbin/tgtadm", append([]string{"--lld", "iscsi"}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
			t.Fatalf("tgtadm %s: %v\n%s", args, err, out)
		}
	}
}

// login has the kernel's initiator log in and opens the disk that appears.
func login(t *testing.T, label, iqn, port string, more ...string) lun {
	t.Helper()
	before := disks(t)
	args := append([]string{"-i", name, "-t", iqn, "-g", "1", "-a", "127.0.0.1", "-p", port}, more...)
	if out, err := exec.Command("/sbin/iscsistart", args...).CombinedOutput(); err != nil {
		t.Fatalf("iscsistart: %v\n%s", err, out)
	}
	for range 200 {
		for _, d := range disks(t) {
			if slices.Contains(before, d) {
				continue
			}
			f, err := os.OpenFile("/dev/"+filepath.Base(d), os.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				break // not quite there
			}
			if n, err := f.Seek(0, 2); err != nil || n != size {
				t.Fatalf("disk of %s has %d bytes, %v", label, n, err)
			}
			return lun{label, f}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no disk of %s appeared", label)
	return lun{}
}

func disks(t *testing.T) []string {
	t.Helper()
	d, err := filepath.Glob("/sys/block/sd*")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// transfer moves count blocks, depth of them at a time, all over the disk in
// an order that is the same each time, and tells how long it took.
func transfer(t *testing.T, f *os.File, block, count int, write bool) time.Duration {
	t.Helper()
	var wg sync.WaitGroup
	places := size / block
	failed := make(chan error, depth)
	begin := time.Now()
	for w := range depth {
		wg.Go(func() {
			b := buffer(block)
			for n := w; n < count; n += depth {
				at := int64(n*7919%places) * int64(block) // 7919 is prime: no place twice in a row
				var err error
				if write {
					_, err = f.WriteAt(b, at)
				} else {
					_, err = f.ReadAt(b, at)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	return took
}

// buffer is memory as O_DIRECT wants it.
func buffer(n int) []byte {
	b := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[skip : skip+n]
}
