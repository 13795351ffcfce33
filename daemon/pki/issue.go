package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Sign answers a module's certificate request. What the certificate says comes
// from the caller, who knows which module it is (the claim in the domain
// state); of the request only the key is used, and that its owner signed it.
func (a *Authority) Sign(request []byte, id Identity, addrs ...netip.Addr) ([]byte, error) {
	block, _ := pem.Decode(request)
	if block == nil {
		return nil, errors.New("pki: no certificate request")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("pki: certificate request: %w", err)
	}
	if !ecdsaP256(req.PublicKey) {
		return nil, errors.New("pki: certificate request: want an ECDSA P-256 key")
	}
	uri, err := id.uri()
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", id, err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: id.Serial},
		NotBefore: epoch, NotAfter: a.notAfter(serverYears),
		DNSNames: []string{ServerName}, URIs: []*url.URL{uri},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, ip := range addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, ip.AsSlice())
	}
	ca, key := a.signer()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, req.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("pki: certificate of %s: %w", id, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// The files of a CA and, while it is replaced, of the next and the last one.
var caFiles = []string{"ca.pem", "ca.key", "ca-next.pem", "ca-next.key", "ca-last.pem"}

// Bundle is what the modules of the domain trust: the CA that signs, and during
// a replacement the next or the last one too (PEM; the first signs).
func (a *Authority) Bundle() ([]byte, error) {
	var out bytes.Buffer
	for _, f := range []string{"ca.pem", "ca-next.pem", "ca-last.pem"} {
		b, err := os.ReadFile(filepath.Join(a.dir, f))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("pki: %w", err)
		}
		out.Write(b)
	}
	return out.Bytes(), nil
}

// The CA is replaced in three steps, each of which may be repeated, with time
// between them for every module to take up the Bundle: Prepare makes the next
// CA, which all then trust; Switch lets it sign, and the modules renew their
// certificates (Module.Ageing); Retire ends the trust in the last one.

// Prepare makes the next CA.
func (a *Authority) Prepare() error {
	if _, err := os.Stat(filepath.Join(a.dir, "ca-next.pem")); err == nil {
		return nil
	}
	if _, _, err := a.makeCA("ca-next"); err != nil {
		return fmt.Errorf("pki: next CA: %w", err)
	}
	return nil
}

// Switch makes the next CA the one that signs. Certificates of REST change
// with the next Serve.
func (a *Authority) Switch() error {
	next, key, err := load(filepath.Join(a.dir, "ca-next.pem"), filepath.Join(a.dir, "ca-next.key"))
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("pki: no next CA: prepare it first")
	}
	if err != nil {
		return fmt.Errorf("pki: next CA: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.ca.Raw})
	if !a.ca.Equal(next) { // else a crash interrupted the removals below
		if err := renameio.WriteFile(filepath.Join(a.dir, "ca-last.pem"), last, 0o644); err != nil {
			return fmt.Errorf("pki: %w", err)
		}
	}
	if err := store(next, key, filepath.Join(a.dir, "ca.pem"), filepath.Join(a.dir, "ca.key")); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	a.ca, a.key = next, key
	return a.drop("ca-next.pem", "ca-next.key")
}

// resumeSwitch ends a Switch that a crash interrupted between the key and the
// certificate.
func (a *Authority) resumeSwitch() error {
	b, err := os.ReadFile(filepath.Join(a.dir, "ca.pem"))
	if err != nil {
		return err
	}
	if a.ca, err = parseCert(b); err != nil {
		return err
	}
	return a.Switch()
}

// Retire ends the trust in the last CA.
func (a *Authority) Retire() error { return a.drop("ca-last.pem") }

func (a *Authority) drop(files ...string) error {
	var all []error
	for _, f := range files {
		if err := os.Remove(filepath.Join(a.dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = append(all, fmt.Errorf("pki: %w", err))
		}
	}
	return errors.Join(all...)
}

// Export is the whole authority, its keys too, for the other appliance of the
// primary pair. It goes there over mutual TLS and nowhere else.
func (a *Authority) Export() (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, f := range caFiles {
		b, err := os.ReadFile(filepath.Join(a.dir, f))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		out[f] = b
	}
	return out, nil
}

// Import makes dir hold the authority that another appliance exported, in place
// of the one that was there. Keys come before certificates, and the files that
// the other does not have go.
func Import(dir string, exported map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if _, err := parseCert(exported["ca.pem"]); err != nil {
		return fmt.Errorf("pki: authority of the domain: %w", err)
	}
	// A crash on the way leaves no CA rather than one without its key.
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pki: %w", err)
	}
	for _, f := range []string{"ca-next.key", "ca-next.pem", "ca-last.pem", "ca.key", "ca.pem"} {
		mode := os.FileMode(0o644)
		if filepath.Ext(f) == ".key" {
			mode = 0o600
		}
		b, ok := exported[f]
		if !ok {
			if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("pki: %w", err)
			}
			continue
		}
		if err := renameio.WriteFile(filepath.Join(dir, f), b, mode); err != nil {
			return fmt.Errorf("pki: %w", err)
		}
	}
	if _, _, err := load(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")); err != nil {
		return fmt.Errorf("pki: authority of the domain: %w", err)
	}
	return nil
}
