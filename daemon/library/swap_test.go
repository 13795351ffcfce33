package library

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
)

// fault strikes at the nth change of the pool, once.
type fault struct {
	name  string
	crash bool // else an error
	after bool // when the change is made, else before
}

// strike makes the pool fail so; struck is closed when it is a crash.
func (f fault) strike(p *fakePool, nth int) (struck <-chan struct{}) {
	at := make(chan struct{})
	n := 0
	p.hook = func(ctx context.Context, done bool) error {
		if done != f.after {
			return nil
		}
		if n++; n != nth {
			return nil
		}
		if !f.crash {
			return errors.New("disk on fire")
		}
		close(at)
		<-ctx.Done()
		return ctx.Err()
	}
	return at
}

// whole fails the test unless the pool holds exactly what the rows say, each
// image the old or the new contents, both alike.
func (b *bench) whole(oldSum string, was, is map[string][]byte) {
	b.t.Helper()
	rows, err := b.cat.GoldenImages.List(b.t.Context())
	fatal(b.t, err)
	swapped := 0
	for _, g := range rows {
		want := was[g.Name]
		if g.CheckSum != oldSum {
			want = is[g.Name]
			swapped++
		}
		if got := b.pool.images[g.InPool()]; !bytes.Equal(got, want) || g.Status != domain.StatusOK {
			b.t.Errorf("image %s has %d bytes in the pool under %s, want %d", g.Name, len(got), g.InPool(), len(want))
		}
		if _, err := b.store.Stat(g.CheckSum); err != nil {
			b.t.Errorf("image %s: %v", g.Name, err)
		}
	}
	if len(rows) != 2 || len(b.pool.images) != 2 || swapped%2 != 0 {
		b.t.Errorf("%d images, %d in the pool, %d swapped; want 2, 2 and all or none", len(rows), len(b.pool.images), swapped)
	}
}

func TestReplacedImagesAreWholeWhateverFails(t *testing.T) {
	for _, f := range []fault{
		{"error before", false, false}, {"error after", false, true},
		{"crash before", true, false}, {"crash after", true, true},
	} {
		for nth := 1; nth <= 4; nth++ { // two imports, two deletions
			t.Run(fmt.Sprintf("%s change %d", f.name, nth), func(t *testing.T) { replaceTwo(t, f, nth, nil) })
		}
	}
	// What resumes after a crash may fail, too.
	for nth := 1; nth <= 4; nth++ {
		for then := 1; then <= 3; then++ {
			t.Run(fmt.Sprintf("crash after change %d, error before change %d", nth, then), func(t *testing.T) {
				replaceTwo(t, fault{crash: true, after: true}, nth, func(p *fakePool) { fault{}.strike(p, then) })
			})
		}
	}
}

// replaceTwo lets a bundle replace two images while a fault strikes.
func replaceTwo(t *testing.T, f fault, nth int, then func(*fakePool)) {
	b := newBench(t)
	ctx := t.Context()
	was := map[string][]byte{"one": disk, "two": disk}
	is := map[string][]byte{"one": bytes.Repeat([]byte("one more image.\n"), 4096), "two": bytes.Repeat([]byte("the other image\n"), 2048)}
	bundle := &artifact.Bundle{Name: "b"}
	for _, name := range []string{"one", "two"} {
		b.well(b.UploadGoldenImage(ctx, "admin", name, "", name+".raw", bytes.NewReader(disk)))
		bundle.GoldenImages = append(bundle.GoldenImages, artifact.GoldenImage{ID: domain.NewID(), Name: name, PayloadSize: int64(len(is[name])),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(is[name])), nil }})
	}
	old, err := b.cat.GoldenImages.ByName(ctx, "one")
	fatal(t, err)
	b.well(b.UploadBundle(ctx, "admin", "b.zip", packed(t, bundle)))
	row, err := b.cat.ArtifactBundles.ByName(ctx, "b")
	fatal(t, err)
	struck := f.strike(b.pool, nth)
	task, err := b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, true)
	fatal(t, err)
	if f.crash {
		<-struck
		b.stop()
		b.pool.hook = nil
		if then != nil {
			then(b.pool)
		}
		b.again()
	}
	b.wait(task, nil)
	b.whole(old.CheckSum, was, is)
}
