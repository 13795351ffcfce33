package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir, "VF0001, appliance 1")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestClientThatPinsTheCAVerifiesTheServerAtAnyAddress(t *testing.T) {
	a := open(t, t.TempDir())
	addr := netip.MustParseAddr("192.0.2.10")
	if err := a.Serve(addr); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	for _, name := range []string{ServerName, "192.0.2.10"} {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			_ = tls.Server(server, a.TLS()).Handshake() // the client's side is what is judged
		}()
		if err := tls.Client(client, &tls.Config{RootCAs: roots, ServerName: name}).Handshake(); err != nil {
			t.Errorf("handshake as %s: %v", name, err)
		}
		client.Close()
	}
}

func TestAuthorityStaysAndTheCertificateFollowsTheAddresses(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	one, two := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
	if err := a.Serve(one); err != nil {
		t.Fatal(err)
	}
	first := a.server.Leaf.SerialNumber
	b := open(t, dir)
	if a.Fingerprint() != b.Fingerprint() {
		t.Error("the CA changed when it was opened again")
	}
	if err := b.Serve(one); err != nil {
		t.Fatal(err)
	}
	if b.server.Leaf.SerialNumber.Cmp(first) != 0 {
		t.Error("the certificate was made anew without need")
	}
	if err := b.Serve(one, two); err != nil {
		t.Fatal(err)
	}
	if b.server.Leaf.SerialNumber.Cmp(first) == 0 {
		t.Error("the certificate lacks the new address")
	}
	b.now = func() time.Time { return time.Now().AddDate(serverYears, 0, 0) }
	second := b.server.Leaf.SerialNumber
	if err := b.Serve(one, two); err != nil {
		t.Fatal(err)
	}
	if b.server.Leaf.SerialNumber.Cmp(second) == 0 {
		t.Error("the certificate was not renewed near its end")
	}
}

func TestCertificateHoldsWhileTheClockIsUnset(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	a.now = func() time.Time { return time.Unix(0, 0) }
	if err := a.Serve(); err != nil {
		t.Fatal(err)
	}
	if leaf := a.server.Leaf; !leaf.NotAfter.After(epoch.AddDate(serverYears, 0, -1)) || leaf.NotBefore.After(epoch) {
		t.Errorf("certificate holds %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
}

func TestKeysAreForTheOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Serve(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"ca.key", "server.key"} {
		st, err := os.Stat(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", f, st.Mode().Perm())
		}
	}
}

func TestDamagedAuthorityIsAnErrorNotANewOne(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("rubbish"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "x"); err == nil {
		t.Error("Open made a new CA over a damaged one")
	}
}
