package pair

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/qemu"
)

func TestSettled(t *testing.T) {
	well := func() Status {
		return Status{Active: "VF0001, appliance bay 1", Healthy: 3, Groups: []Group{{Name: "1", Owner: "a", Home: "a", State: "in sync"}, {Name: "2", Owner: "b", Home: "b", State: "in sync"}}}
	}
	for name, c := range map[string]struct {
		change func(*Status)
		want   bool
	}{
		"all well":            {func(*Status) {}, true},
		"no volumes yet":      {func(s *Status) { s.Groups[1].State = "empty" }, true},
		"a vote is away":      {func(s *Status) { s.Healthy = 2 }, false},
		"nobody active":       {func(s *Status) { s.Active = "" }, false},
		"not at home":         {func(s *Status) { s.Groups[0].Owner = "b" }, false},
		"not served":          {func(s *Status) { s.Groups[0].Owner, s.Groups[0].Home = "", "" }, false},
		"resync":              {func(s *Status) { s.Groups[1].State = "resyncing 43 %" }, false},
		"only one of the two": {func(s *Status) { s.Groups = s.Groups[:1] }, false},
		"not in sync":         {func(s *Status) { s.Groups[0].State = "not in sync" }, false},
	} {
		s := well()
		c.change(&s)
		if got := s.Settled(); got != c.want {
			t.Errorf("%s: settled %v, want %v (%v)", name, got, c.want, s)
		}
	}
}

// dying answers like an appliance whose address moves: nothing at first, then
// all.
type dying struct {
	mu      sync.Mutex
	refuse  int // so many requests hang
	scripts map[string]string
}

func (d *dying) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	hang := d.refuse > 0
	d.refuse--
	d.mu.Unlock()
	if hang {
		io.Copy(io.Discard, r.Body) // else the server does not look whether the client is there
		<-r.Context().Done()
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.Method {
	case http.MethodPost:
		var in struct{ Name string }
		json.NewDecoder(r.Body).Decode(&in)
		uri := "/rest/plan-scripts/" + strings.ReplaceAll(in.Name, " ", "-")
		d.scripts[uri] = in.Name
		json.NewEncoder(w).Encode(map[string]string{"uri": uri})
	case http.MethodGet:
		var members []map[string]string
		for uri, name := range d.scripts {
			members = append(members, map[string]string{"uri": uri, "name": name})
		}
		json.NewEncoder(w).Encode(map[string]any{"members": members})
	case http.MethodDelete:
		delete(d.scripts, r.URL.Path)
	}
}

// certificate is one for an appliance.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"baystream"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestFirstWriteIsFoundAndForgotten(t *testing.T) {
	d := &dying{scripts: map[string]string{"/rest/plan-scripts/other": "other"}, refuse: 1}
	srv := httptest.NewUnstartedServer(d)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	srv.StartTLS()
	defer srv.Close()
	c, err := qemu.NewClient(srv.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.TLS.Certificates[0].Certificate[0]}))
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{REST: c}
	took, err := s.FirstWrite(t.Context(), "probe", time.Now())
	if err != nil || took < attemptTime {
		t.Errorf("FirstWrite = %v, %v, want the second attempt", took, err)
	}
	if len(d.scripts) != 1 {
		t.Errorf("left behind: %v", d.scripts)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*attemptPause)
	defer cancel()
	d.refuse = 1 << 30
	if _, err := s.FirstWrite(ctx, "probe", time.Now()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("FirstWrite of nobody = %v, want that the time is over", err)
	}
}
