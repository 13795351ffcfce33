package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"baystream/daemon/artifact"
)

// Path is where a Source serves objects, each below it by its SHA-256.
const Path = "/replica/v1/objects/"

// atOnce is how many objects a Source sends at a time.
const atOnce = 2

// Source serves the objects of store to other appliances, whole or from any
// byte on. It belongs behind mutual TLS.
func Source(store Store) http.Handler {
	slots := make(chan struct{}, atOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", "5")
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		f, err := store.Open(r.URL.Path[len(Path):])
		if err != nil {
			http.Error(w, "not here", http.StatusNotFound)
			return
		}
		defer f.Close()
		http.ServeContent(w, r, "", time.Time{}, f)
	})
}

// fetch copies an object from the first source that has it. What came over
// stays for the next try, and how much that is is returned.
func (r *Replica) fetch(ctx context.Context, i Item) (int64, error) {
	sources, err := r.Sources(ctx)
	if err != nil {
		return 0, err
	}
	errs := []error{errors.New("no other appliance has sent it")}
	part := filepath.Join(r.Partial, i.SHA256)
	for _, s := range sources {
		err := r.fetchFrom(ctx, s, i, part)
		if err == nil {
			err = r.commit(ctx, i, part)
		}
		if err == nil || ctx.Err() != nil {
			return i.Bytes, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", s, err))
	}
	if fi, err := os.Stat(part); err == nil {
		return fi.Size(), errors.Join(errs...)
	}
	return 0, errors.Join(errs...)
}

// commit puts a whole copy into the store, which checks its sum. A copy whose
// sum is wrong is thrown away.
func (r *Replica) commit(ctx context.Context, i Item, part string) error {
	f, err := os.Open(part)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	defer f.Close()
	_, err = r.Store.Put(ctx, f, artifact.PutLimits{SHA256: i.SHA256, Size: i.Bytes, MaxBytes: i.Bytes})
	if err == nil || errors.Is(err, artifact.ErrChecksum) {
		err = errors.Join(err, os.Remove(part))
	}
	return err
}

// fetchFrom brings part to the full size. A source that sends nothing for a
// while is given up.
func (r *Replica) fetchFrom(ctx context.Context, source string, i Item, part string) error {
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	if have > i.Bytes {
		return errors.Join(errors.New("the copy under way is longer than the object"), os.Remove(part))
	}
	if have == i.Bytes && have > 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+source+Path+i.SHA256, nil)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	want := http.StatusOK
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		want = http.StatusPartialContent
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		return fmt.Errorf("answers %s", resp.Status)
	}
	idle := time.AfterFunc(r.stall, cancel)
	defer idle.Stop()
	n, err := io.CopyBuffer(f, &awake{io.LimitReader(resp.Body, i.Bytes-have+1), func() { idle.Reset(r.stall) }}, make([]byte, 256<<10))
	switch {
	case err != nil:
		return err
	case have+n != i.Bytes:
		return errors.Join(fmt.Errorf("sent %d bytes, want %d", have+n, i.Bytes), os.Remove(part))
	}
	return nil
}

// awake says each time that something was read.
type awake struct {
	io.Reader
	said func()
}

func (a *awake) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	if n > 0 {
		a.said()
	}
	return n, err
}
