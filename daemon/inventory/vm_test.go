package inventory

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"baystream/hw"
	"baystream/hw/uevent"
	"baystream/internal/vmtest"
)

// TestBenchInVM measures how long the hardware is read for, and how long after the
// kernel's event a disk is in the inventory. It is for bench, which reads the
// console.
func TestBenchInVM(t *testing.T) {
	if os.Getenv("BAYSTREAM_BENCH") == "" {
		t.Skip("measures: run make bench")
	}
	vmtest.Run(t, vmtest.Config{
		Package: "baystream/daemon/inventory", Run: "^TestGuestTimes$", Modules: []string{"virtio_pci", "virtio_blk"}, Disks: []int{16}, Memory: 256, Virtual: true,
	})
}

func TestGuestTimes(t *testing.T) {
	vmtest.SkipUnlessGuest(t)
	const times = 5
	for range times {
		began := time.Now()
		if _, err := hw.Probe("/"); err != nil {
			t.Log(err)
		}
		fmt.Printf("bench hw-probe-ms %.2f\n", ms(time.Since(began)))
	}

	inv, _ := hw.Probe("/")
	events, plugged := make(chan time.Time, 64), make(chan hw.Inventory, 8)
	k := New(Config{
		Root: "/", Log: slog.New(slog.DiscardHandler), Plugged: func(i hw.Inventory) { plugged <- i },
		Follow: func(ctx context.Context, started func(), each func(uevent.Event)) error {
			return uevent.Follow(ctx, started, func(e uevent.Event) {
				if e.Subsystem == "block" && e.Action == "add" {
					events <- time.Now()
				}
				each(e)
			})
		},
	}, inv)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go k.followDevices(ctx)
	time.Sleep(time.Second) // follows by now

	device, err := filepath.EvalSymlinks("/sys/block/vda/device")
	if err != nil {
		t.Fatal(err)
	}
	tell := func(file string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	waitFor := func(there bool) {
		t.Helper()
		for {
			select {
			case i := <-plugged:
				if slices.ContainsFunc(i.Disks, func(d hw.Disk) bool { return d.Name == "vda" }) == there {
					return
				}
			case <-time.After(time.Minute):
				t.Fatalf("the inventory never has vda: %v", there)
			}
		}
	}
	for range times {
		tell(filepath.Join(filepath.Dir(device), "remove"))
		waitFor(false)
		for len(events) > 0 {
			<-events
		}
		tell("/sys/bus/pci/rescan")
		at := <-events
		waitFor(true)
		fmt.Printf("bench hotplug-ms %.1f\n", ms(time.Since(at)))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
