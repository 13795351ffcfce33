package storage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"baystream/daemon/pool"
	"baystream/internal/vmtest"
)

// TestBenchInVM measures clones beside lvcreate -s in one guest on virtual time
// (QEMU's icount). It is for `make bench`: it skips unless BAYSTREAM_BENCH is
// set, and prints lines "bench NAME MILLISECONDS".
func TestBenchInVM(t *testing.T) {
	if os.Getenv("BAYSTREAM_BENCH") == "" {
		t.Skip("measures: set BAYSTREAM_BENCH=1")
	}
	vmtest.Run(t, vmtest.Config{
		Package: "baystream/daemon/storage",
		Run:     "^TestGuestBench$",
		Env:     []string{"BAYSTREAM_BENCH=1"},
		// RAM disks: while a real one is waited for, virtual time runs wild.
		Modules: append([]string{"dm-snapshot", "brd rd_nr=3 rd_size=4194304"}, vmModules...),
		Tools:   map[string]string{"/sbin/lvm": "lvm2", "/etc/lvm/lvm.conf": "lvm2"},
		Debs: []string{"libdevmapper1.02.1", "libdevmapper-event1.02.1", "libaio1", "libblkid1", "libselinux1", "libpcre2-8-0",
			"libsystemd0", "libudev1", "libedit2", "libbsd0", "libmd0", "libtinfo6", "liblzma5", "libzstd1", "liblz4-1",
			"libcap2", "libgcrypt20", "libgpg-error0"},
		Memory:  1024,
		Virtual: true,
	})
}

func TestGuestBench(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	if os.Getenv("BAYSTREAM_BENCH") == "" {
		t.Skip("measures: see TestBenchInVM")
	}
	ctx := t.Context()
	s, err := Open(ctx, Config{MetaDev: "/dev/ram1", DataDev: "/dev/ram0", Records: NewMemory(), Log: testLog(t),
		Run: func(context.Context, string, ...string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	benchHash()
	goldens := []struct {
		id   string
		size uint64
	}{{"64MiB", 64 * mib}, {"4GiB", 4096 * mib}}
	for _, g := range goldens {
		benchGolden(t, s, g.id, g.size)
	}
	// Interleaved, so that what drifts hits both alike.
	took := map[string][]time.Duration{}
	var ids []string
	for range 20 {
		for _, g := range goldens {
			ids = append(ids, uuid.NewString())
			begin := time.Now()
			if _, err := s.CreateVolume(ctx, Spec{ID: ids[len(ids)-1], GoldenID: g.id}); err != nil {
				t.Fatal(err)
			}
			took[g.id] = append(took[g.id], time.Since(begin))
		}
	}
	for _, g := range goldens {
		fmt.Printf("bench clone-%s %.2f\n", g.id, median(took[g.id]))
	}
	for _, id := range ids {
		if err := s.DeleteVolume(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	benchMany(t, s, 100)
	fmt.Printf("bench lvcreate-snapshot %.2f\n", median(benchLVM(t)))
}

// benchHash measures what hashing costs an import.
func benchHash() {
	b := make([]byte, 16*mib)
	begin := time.Now()
	sum(b)
	fmt.Printf("bench sha256-16MiB %.2f\n", float64(time.Since(begin))/1e6)
	begin = time.Now()
	allZero(b)
	fmt.Printf("bench zero-scan-16MiB %.2f\n", float64(time.Since(begin))/1e6)
}

// benchGolden makes an image of which 48 MiB are filled, without reading a source.
func benchGolden(t *testing.T, s *Storage, id string, size uint64) {
	t.Helper()
	ctx := t.Context()
	g, err := s.book.addGolden(ctx, id, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.pool.CreateThin(g.ThinID); err != nil {
		t.Fatal(err)
	}
	node, err := s.pool.Activate(ctx, g.thin(), g.ThinID, size/512)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, node, 48*mib)
	if err := s.pool.Deactivate(ctx, g.thin()); err != nil {
		t.Fatal(err)
	}
	g.Ready = true
	if err := s.book.putGolden(ctx, g); err != nil {
		t.Fatal(err)
	}
}

// fill maps the first n bytes of a thin device.
func fill(t *testing.T, node string, n int64) {
	t.Helper()
	f, err := os.OpenFile(node, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := directBuffer(4096)
	copy(b, "filled")
	for at := int64(0); at < n; at += pool.BlockSize {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// benchMany asks for n clones at once and reports the latencies' spread.
func benchMany(t *testing.T, s *Storage, n int) {
	t.Helper()
	type done struct {
		took time.Duration
		err  error
	}
	ch := make(chan done)
	begin := time.Now()
	for range n {
		id := uuid.NewString()
		go func() {
			_, err := s.CreateVolume(t.Context(), Spec{ID: id, GoldenID: "64MiB"})
			ch <- done{time.Since(begin), err}
		}()
	}
	var all []time.Duration
	for range n {
		d := <-ch
		if d.err != nil {
			t.Fatal(d.err)
		}
		all = append(all, d.took)
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	fmt.Printf("bench clones-at-once-%d %.2f\n", n, ms(all[n-1]))
	fmt.Printf("bench clones-at-once-p50 %.2f\n", ms(all[n/2]))
	fmt.Printf("bench clones-at-once-p99 %.2f\n", ms(all[n*99/100]))
}

func benchLVM(t *testing.T) []time.Duration {
	t.Helper()
	lvm := func(args ...string) {
		t.Helper()
		cmd := exec.Command("/sbin/lvm", args...)
		cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("lvm %v: %v\n%s", args, err, out)
		}
	}
	quick := []string{"--config", "activation{udev_sync=0 udev_rules=0 monitoring=0} global{thin_check_executable=\"\"}", "-qq"}
	run := func(args ...string) { lvm(append(args[:1:1], append(quick, args[1:]...)...)...) }
	run("pvcreate", "-y", "/dev/ram2")
	run("vgcreate", "vg", "/dev/ram2")
	run("lvcreate", "-y", "-T", "-L", "1G", "--chunksize", "64k", "vg/pool")
	run("lvcreate", "-y", "-T", "-V", "64M", "-n", "golden", "vg/pool")
	fill(t, "/dev/mapper/vg-golden", 48*mib)
	run("lvchange", "-an", "vg/golden")
	var took []time.Duration
	for i := range 10 {
		begin := time.Now()
		run("lvcreate", "-y", "-s", "-kn", "-n", fmt.Sprint("c", i), "vg/golden")
		took = append(took, time.Since(begin))
	}
	return took
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2]) / 1e6
}
