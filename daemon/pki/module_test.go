package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var first = Identity{Domain: "d0a1", Frame: "VF0001", Bay: "appliance bay 1", Serial: "MXQ/1"}

// claimed is a module with a certificate of a.
func claimed(t *testing.T, a *Authority, id Identity) *Module {
	t.Helper()
	m := module(t, t.TempDir())
	claim(t, a, m, id)
	return m
}

func module(t *testing.T, dir string) *Module {
	t.Helper()
	m, err := OpenModule(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func claim(t *testing.T, a *Authority, m *Module, id Identity) {
	t.Helper()
	req, err := m.Request()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(req, id, netip.MustParseAddr("192.0.2.7"))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := a.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Install(cert, bundle); err != nil {
		t.Fatal(err)
	}
}

// shake is a handshake and what each side makes of it; then one byte goes over.
func shake(server, client *tls.Config) (atServer, atClient error) {
	s, c := net.Pipe()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(s, server)
		_, err := conn.Write([]byte{1})
		done <- errors.Join(err, s.Close())
	}()
	conn := tls.Client(c, client)
	_, atClient = conn.Read(make([]byte, 1))
	c.Close()
	return <-done, atClient
}

func wantShake(t *testing.T, server, client *tls.Config) {
	t.Helper()
	if s, c := shake(server, client); s != nil || c != nil {
		t.Errorf("handshake: server %v, client %v", s, c)
	}
}

func wantRefusal(t *testing.T, server, client *tls.Config, want string) {
	t.Helper()
	s, c := shake(server, client)
	if err := errors.Join(s, c); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("handshake = %v, want one that says %q", err, want)
	}
}

func TestModulesOfADomainKnowEachOther(t *testing.T) {
	a := open(t, t.TempDir())
	other := Identity{Domain: first.Domain, Frame: "VF 0002", Bay: "appliance bay 2", Serial: "MXQ2"}
	one, two := claimed(t, a, first), claimed(t, a, other)
	var met Identity
	wantShake(t, one.ServerTLS(), two.ClientTLS(func(id Identity) error { met = id; return nil }))
	if diff := cmp.Diff(first, met); diff != "" {
		t.Errorf("identity of the server (-want +got):\n%s", diff)
	}
	wantRefusal(t, one.ServerTLS(), two.ClientTLS(func(id Identity) error { return errors.New("not who I asked for") }), "not who I asked for")
}

func TestStrangersAreRefused(t *testing.T) {
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	one := claimed(t, a, first)
	elsewhere := first
	elsewhere.Domain = "ffff"
	wantRefusal(t, one.ServerTLS(), claimed(t, b, first).ClientTLS(nil), "unknown authority")
	wantRefusal(t, one.ServerTLS(), claimed(t, a, elsewhere).ClientTLS(nil), "domain")
	wantRefusal(t, one.ServerTLS(), module(t, t.TempDir()).ClientTLS(nil), "no domain yet")
	wantRefusal(t, one.ServerTLS(), &tls.Config{InsecureSkipVerify: true}, "certificate")
	if err := a.Serve(); err != nil {
		t.Fatal(err)
	}
	rest := a.TLS() // REST's certificate is of the same CA, but no module's
	wantRefusal(t, rest, one.ClientTLS(nil), "not that of a module")
}

func TestUnclaimedModuleIsPinned(t *testing.T) {
	m := module(t, t.TempDir())
	server, err := m.UnclaimedTLS()
	if err != nil {
		t.Fatal(err)
	}
	wantShake(t, server, PinnedTLS(m.Fingerprint()))
	wantRefusal(t, server, PinnedTLS(module(t, t.TempDir()).Fingerprint()), "another module")
}

func TestKeyStaysAndCertificateIsKept(t *testing.T) {
	dir, a := t.TempDir(), open(t, t.TempDir())
	m := module(t, dir)
	claim(t, a, m, first)
	again := module(t, dir)
	if id, ok := again.Identity(); !ok || id != first || again.Fingerprint() != m.Fingerprint() {
		t.Errorf("opened again: %v %v %s, want %v %s", id, ok, again.Fingerprint(), first, m.Fingerprint())
	}
	if fi, err := os.Stat(filepath.Join(dir, "module.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("module.key: %v %v, want mode 0600", fi.Mode(), err)
	}
	if err := again.Forget(false); err != nil {
		t.Fatal(err)
	}
	if _, ok := module(t, dir).Identity(); ok || module(t, dir).Fingerprint() != m.Fingerprint() {
		t.Error("a forgotten domain: want no identity and the same key")
	}
	if err := again.Forget(true); err != nil || again.Fingerprint() == m.Fingerprint() {
		t.Errorf("factory reset: %v, want another key", err)
	}
}

func TestInstallRefusesWhatDoesNotFit(t *testing.T) {
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	m := claimed(t, a, first)
	stranger := claimed(t, b, first)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stranger.cert.Leaf.Raw})
	if err := m.Install(cert, b.PEM()); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("certificate of another key: %v", err)
	}
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Leaf.Raw})
	if err := m.Install(own, b.PEM()); err == nil {
		t.Error("CAs that did not sign the certificate were taken")
	}
	if !bytes.Equal(m.Trusted(), a.PEM()) {
		t.Error("the old trust did not stay")
	}
	if _, err := a.Sign([]byte("none"), first); err == nil {
		t.Error("no request was signed")
	}
	req, err := m.Request()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(req, Identity{Serial: "x"}); err == nil {
		t.Error("an identity without a domain was signed")
	}
}

// The CA is replaced while connections come and go: at no step are there two
// modules that do not know each other, whichever of them is behind.
func TestReplacingTheCABreaksNoConnection(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	two := first
	two.Serial = "MXQ2"
	quick, slow := claimed(t, a, first), claimed(t, a, two)
	server, client := slow.ServerTLS(), quick.ClientTLS(nil) // made once, as a daemon does
	old := a.Fingerprint()
	both := func(step string) {
		t.Helper()
		t.Log(step)
		wantShake(t, server, client)
		wantShake(t, quick.ServerTLS(), slow.ClientTLS(nil))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(a.Prepare())
	must(a.Prepare())
	claim(t, a, quick, first)
	both("the next CA is trusted by one")
	claim(t, a, slow, two)
	must(a.Switch())
	if !bytes.Equal(open(t, dir).PEM(), a.PEM()) || a.Fingerprint() == old {
		t.Error("after the switch another CA should sign, also when opened again")
	}
	bundle, err := a.Bundle()
	must(err)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: quick.cert.Leaf.Raw})
	must(quick.Install(own, bundle))
	if !quick.Ageing() {
		t.Error("a certificate of the last CA should be renewed")
	}
	claim(t, a, quick, first)
	both("one has a certificate of the next CA")
	claim(t, a, slow, two)
	must(a.Retire())
	claim(t, a, quick, first)
	both("one no longer trusts the last CA")
	if quick.Ageing() || len(quick.roots) != 1 {
		t.Errorf("at the end: ageing %v, %d CAs trusted, want fresh and one", quick.Ageing(), len(quick.roots))
	}
}

func TestSwitchGoesOnAfterACrash(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	if err := a.Prepare(); err != nil {
		t.Fatal(err)
	}
	next, err := os.ReadFile(filepath.Join(dir, "ca-next.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), next, 0o600); err != nil { // where the crash comes
		t.Fatal(err)
	}
	b := open(t, dir)
	if b.Fingerprint() == a.Fingerprint() {
		t.Error("the switch was not completed")
	}
	bundle, err := b.Bundle()
	if roots, perr := parseCerts(bundle); err != nil || perr != nil || len(roots) != 2 {
		t.Errorf("trusted: %d CAs, %v %v, want the new and the last", len(roots), err, perr)
	}
}

func TestAuthorityMovesToTheOtherAppliance(t *testing.T) {
	a := open(t, t.TempDir())
	if err := a.Prepare(); err != nil {
		t.Fatal(err)
	}
	files, err := a.Export()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ca-next.key", "ca-next.pem", "ca.key", "ca.pem"}, slices.Sorted(maps.Keys(files))); diff != "" {
		t.Errorf("exported files (-want +got):\n%s", diff)
	}
	dir := t.TempDir()
	open(t, dir) // its own, of the time before it was claimed
	for range 2 {
		if err := Import(dir, files); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, dir)
	if a.Fingerprint() != b.Fingerprint() {
		t.Error("the standby has another CA")
	}
	if fi, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: %v %v, want mode 0600", fi.Mode(), err)
	}
	wantShake(t, claimed(t, a, first).ServerTLS(), claimed(t, b, first).ClientTLS(nil))
	if err := Import(t.TempDir(), map[string][]byte{"ca.pem": []byte("x")}); err == nil {
		t.Error("rubbish was imported")
	}
}

func TestCertificateAgesAndUnsetClocksDoNotMatter(t *testing.T) {
	m := claimed(t, open(t, t.TempDir()), first)
	if m.Ageing() {
		t.Error("a new certificate should not be renewed")
	}
	m.now = func() time.Time { return time.Now().AddDate(serverYears, -3, 0) }
	if !m.Ageing() {
		t.Error("three months before its end it should be renewed")
	}
	m.now = func() time.Time { return time.Unix(0, 0) }
	wantShake(t, m.ServerTLS(), m.ClientTLS(nil))
}

func TestIdentityInACertificate(t *testing.T) {
	for _, u := range []string{"https://example.org/a/b/c", "baystream://d/a/b"} {
		uri, err := first.uri()
		if err != nil {
			t.Fatal(err)
		}
		if uri, err = uri.Parse(u); err != nil {
			t.Fatal(err)
		}
		cert := &x509.Certificate{}
		cert.URIs = append(cert.URIs, uri)
		if id, err := IdentityOf(cert); err == nil {
			t.Errorf("IdentityOf(%s) = %v, want an error", u, id)
		}
	}
}
