package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/pki"
)

// side is one appliance.
type side struct {
	store  *artifact.Store
	module *pki.Module
	server *httptest.Server
	hook   atomic.Pointer[func(http.ResponseWriter, *http.Request) bool] // true: it has answered
	sent   atomic.Int64                                                  // bytes of bodies
}

func newSide(t *testing.T, a *pki.Authority, name string) *side {
	t.Helper()
	s := &side{}
	var err error
	if s.store, err = artifact.OpenStore(t.TempDir(), 0); err != nil {
		t.Fatal(err)
	}
	if s.module, err = pki.OpenModule(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	req, err := s.module.Request()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(req, pki.Identity{Domain: "d", Serial: name})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.module.Install(cert, a.PEM()); err != nil {
		t.Fatal(err)
	}
	source := Source(s.store)
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := s.hook.Load(); h != nil && (*h)(w, r) {
			return
		}
		source.ServeHTTP(&counting{w, &s.sent}, r)
	}))
	s.server.TLS = s.module.ServerTLS()
	s.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	return s
}

func (s *side) address() string { return strings.TrimPrefix(s.server.URL, "https://") }

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// pool expands images by taking the sum for the digest.
type pool struct {
	have   map[string]string
	digest func(sum string) string
}

func (p *pool) Expanded(_ context.Context, id string) (string, error) { return p.have[id], nil }
func (p *pool) Expand(_ context.Context, id, sum string) (string, error) {
	p.have[id] = p.digest(sum)
	return p.have[id], nil
}
func (p *pool) Discard(_ context.Context, id string) error { delete(p.have, id); return nil }

func content(n int) (data []byte, sum string) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	data = make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	s := sha256.Sum256(data)
	return data, hex.EncodeToString(s[:])
}

func TestArtifactsAreCopiedToThePartner(t *testing.T) {
	node, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	state := cluster.NewStore(node.Client())
	authority, err := pki.Open(t.TempDir(), "a")
	if err != nil {
		t.Fatal(err)
	}
	a, b := newSide(t, authority, "A"), newSide(t, authority, "B")
	data, sum := content(3 << 20)
	if _, err := a.store.Put(t.Context(), bytes.NewReader(data), artifact.PutLimits{}); err != nil {
		t.Fatal(err)
	}
	golden, err := state.GoldenImages.Create(t.Context(), domain.GoldenImage{
		Resource: domain.Resource{Name: "debian"}, CheckSum: sum, ObjectBytes: int64(len(data)), ContentDigest: "digest of " + sum,
	})
	if err != nil {
		t.Fatal(err)
	}
	records := NewRecords(state, "appliance B")
	p := &pool{have: map[string]string{}, digest: func(sum string) string { return "digest of " + sum }}
	cfg := Config{
		Store: b.store, Pool: p, Wanted: records.Wanted, TLS: b.module.ClientTLS(nil), Partial: t.TempDir(), Ledger: records,
		Sources: func(context.Context) ([]string, error) { return []string{a.address()}, nil }, Log: slog.New(slog.DiscardHandler),
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.stall = 200 * time.Millisecond
	presence := func() Presence {
		t.Helper()
		all, err := records.All(t.Context(), sum)
		if err != nil {
			t.Fatal(err)
		}
		return all["appliance B"]
	}

	t.Run("a source that breaks off", func(t *testing.T) {
		cut := func(w http.ResponseWriter, req *http.Request) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:1<<20])
			panic(http.ErrAbortHandler)
		}
		a.hook.Store(&cut)
		if err := r.Sync(t.Context()); err == nil {
			t.Error("half a copy was no error")
		}
		if got := presence(); got.State != Copying || got.Bytes == 0 || got.Bytes > 1<<20 {
			t.Errorf("presence %+v, want copying, with what has come", got)
		}
	})
	t.Run("one that falls silent", func(t *testing.T) {
		silent := func(w http.ResponseWriter, req *http.Request) bool { <-req.Context().Done(); return true }
		a.hook.Store(&silent)
		wire := r.client.Transport.(*http.Transport)
		wire.ResponseHeaderTimeout = r.stall
		defer func() { r.stall, wire.ResponseHeaderTimeout = time.Minute, time.Minute }() // a busy machine is no fault
		if err := r.Sync(t.Context()); err == nil {
			t.Error("silence was no error")
		}
	})
	t.Run("goes on where it was", func(t *testing.T) {
		a.hook.Store(nil)
		had := presence().Bytes
		if err := r.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if sent := a.sent.Load(); sent != int64(len(data))-had {
			t.Errorf("%d bytes were sent after %d of %d were there", sent, had, len(data))
		}
		if got := presence(); got.State != Present || !got.InPool || got.Verified == "" {
			t.Errorf("presence %+v, want present and in the pool", got)
		}
		f, err := b.store.Open(sum)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the copy differs, %v", err)
		}
		g, err := state.GoldenImages.Get(t.Context(), golden.ID)
		if err != nil || len(g.Presence) != 1 || g.Presence[0].Appliance != "appliance B" || !g.Presence[0].InPool {
			t.Errorf("presence of the golden image %+v, %v", g.Presence, err)
		}
		if left, err := os.ReadDir(cfg.Partial); err != nil || len(left) != 0 {
			t.Errorf("left over: %v, %v", left, err)
		}
		if err := r.Sync(t.Context()); err != nil { // nothing to do, nothing written
			t.Error(err)
		}
		if again, err := state.GoldenImages.Get(t.Context(), golden.ID); err != nil || again.ETag != g.ETag {
			t.Errorf("the second round wrote: eTag %s, before %s, %v", again.ETag, g.ETag, err)
		}
	})
	t.Run("an image that expands to something else", func(t *testing.T) {
		if err := p.Discard(t.Context(), golden.InPool()); err != nil {
			t.Fatal(err)
		}
		p.digest = func(string) string { return "something else" }
		err := r.Sync(t.Context())
		if got := presence(); err == nil || got.State != Damaged || got.InPool || len(p.have) != 0 {
			t.Errorf("Sync = %v, presence %+v, pool %v; want it discarded", err, got, p.have)
		}
	})
	t.Run("a source with other contents", func(t *testing.T) {
		if err := b.store.Delete(sum); err != nil {
			t.Fatal(err)
		}
		lie := func(w http.ResponseWriter, req *http.Request) bool {
			_, _ = w.Write(bytes.Repeat([]byte{1}, len(data)))
			return true
		}
		a.hook.Store(&lie)
		err := r.Sync(t.Context())
		if _, serr := b.store.Stat(sum); err == nil || serr == nil {
			t.Errorf("Sync = %v, store %v; want it refused", err, serr)
		}
		long := func(w http.ResponseWriter, req *http.Request) bool {
			for range 10 {
				_, _ = w.Write(data)
			}
			return true
		}
		a.hook.Store(&long)
		if err := r.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("more than announced: %v", err)
		}
		if left, err := os.ReadDir(cfg.Partial); err != nil || len(left) != 0 {
			t.Errorf("left over: %v, %v", left, err)
		}
		a.hook.Store(nil)
	})
	t.Run("strangers get nothing", func(t *testing.T) {
		for _, c := range []*tls.Config{{InsecureSkipVerify: true}, pki.PinnedTLS(a.module.Fingerprint())} {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: c}}
			if resp, err := client.Get(a.server.URL + Path + sum); err == nil {
				resp.Body.Close()
				t.Errorf("answered %s", resp.Status)
			}
		}
	})
	t.Run("what is no longer wanted goes", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(cfg.Partial, "old"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.sweep(nil)
		if left, err := os.ReadDir(cfg.Partial); err != nil || len(left) != 0 {
			t.Errorf("left over: %v, %v", left, err)
		}
	})
}

func TestSourceSendsABoundedNumberAtOnce(t *testing.T) {
	a, err := pki.Open(t.TempDir(), "a")
	if err != nil {
		t.Fatal(err)
	}
	s := newSide(t, a, "A")
	_, sum := content(1)
	h := Source(s.store)
	begun, end := make(chan struct{}), make(chan struct{})
	slow := &blocking{httptest.NewRecorder(), begun, end}
	for range atOnce {
		go h.ServeHTTP(slow, httptest.NewRequest("GET", Path+sum, nil)) // not there: the answer blocks
		<-begun
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", Path+sum, nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("one more was answered %d, want 503", w.Code)
	}
	close(end)
}

type blocking struct {
	http.ResponseWriter
	begun, end chan struct{}
}

func (b *blocking) Header() http.Header { return http.Header{} }
func (b *blocking) WriteHeader(int)     { b.begun <- struct{}{}; <-b.end }
func (b *blocking) Write(p []byte) (int, error) {
	return len(p), nil
}
