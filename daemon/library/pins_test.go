package library

import (
	"bytes"
	"io"
	"testing"
)

func TestSweepAndUploadDoNotWaitForEachOther(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	r, w := io.Pipe()
	slow := make(chan error, 1)
	go func() {
		_, err := b.UploadGoldenImage(ctx, "admin", "slow", "", "slow.raw", r)
		slow <- err
	}()
	half := disk[:len(disk)/2]
	_, err := w.Write(half) // the upload is under way
	fatal(t, err)
	fatal(t, b.sweepStore(ctx, ""))
	b.well(b.UploadGoldenImage(ctx, "admin", "quick", "", "quick.raw", bytes.NewReader(half)))
	_, err = w.Write(disk[len(half):])
	fatal(t, err)
	fatal(t, w.Close())
	fatal(t, <-slow)
}

func TestObjectStaysUntilSomethingNamesIt(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	obj, done, err := b.put(ctx, bytes.NewReader(disk))
	fatal(t, err)
	fatal(t, b.sweepStore(ctx, ""))
	if b.objects() != 1 {
		t.Fatal("an object that was just uploaded is gone")
	}
	end := b.pins.begin() // a sweep has looked at what rows and tasks name
	_, again, err := b.put(ctx, bytes.NewReader(disk))
	fatal(t, err)
	done()
	again() // named only now
	fatal(t, b.pins.unlessPinned(obj.SHA256, func() error { t.Error("swept an object that was named meanwhile"); return nil }))
	end()
	fatal(t, b.sweepStore(ctx, ""))
	if b.objects() != 0 || len(b.pins.held) != 0 {
		t.Errorf("%d objects and %d pins are left", b.objects(), len(b.pins.held))
	}
}
