package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// Module is the key of this module and, once a domain has claimed it, its
// certificate. Install replaces the certificate and what is trusted while
// connections are open; each new handshake uses what is there then. It is safe
// for concurrent use.
type Module struct {
	dir string
	key crypto.Signer
	now func() time.Time

	mu    sync.RWMutex
	cert  *tls.Certificate // nil: unclaimed
	roots []*x509.Certificate
}

// OpenModule reads the module's key in dir, or makes one, and the certificate
// if there is one.
func OpenModule(dir string) (*Module, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	m := &Module{dir: dir, now: time.Now}
	var err error
	if m.key, err = readKey(m.file("module.key")); errors.Is(err, os.ErrNotExist) {
		m.key, err = makeKey(m.file("module.key"))
	}
	if err != nil {
		return nil, fmt.Errorf("pki: key of the module: %w", err)
	}
	cert, err := os.ReadFile(m.file("module.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	bundle, err := os.ReadFile(m.file("trust.pem"))
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return m, m.use(cert, bundle)
}

func (m *Module) file(name string) string { return filepath.Join(m.dir, name) }

// Fingerprint is the SHA-256 of the module's public key, in hex.
func (m *Module) Fingerprint() string {
	der, err := x509.MarshalPKIXPublicKey(m.key.Public())
	if err != nil {
		panic(err) // our own key
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Request is a certificate request (PKCS #10, PEM) for this module's key.
func (m *Module) Request() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "module " + m.Fingerprint()[:16]},
	}, m.key)
	if err != nil {
		return nil, fmt.Errorf("pki: certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// Install checks and stores a certificate for the module's key and the CAs that
// it trusts from now on. The old ones stay when the new do not fit together.
func (m *Module) Install(cert, bundle []byte) error {
	if _, _, err := m.check(cert, bundle); err != nil {
		return err
	}
	if err := renameio.WriteFile(m.file("trust.pem"), bundle, 0o644); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if err := renameio.WriteFile(m.file("module.pem"), cert, 0o644); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	return m.use(cert, bundle)
}

func (m *Module) use(cert, bundle []byte) error {
	pair, roots, err := m.check(cert, bundle)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cert, m.roots = pair, roots
	return nil
}

func (m *Module) check(cert, bundle []byte) (*tls.Certificate, []*x509.Certificate, error) {
	leaf, err := parseCert(cert)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: certificate of the module: %w", err)
	}
	if Fingerprint(leaf) != m.Fingerprint() {
		return nil, nil, errors.New("pki: certificate of the module: it is for another key")
	}
	if _, err := IdentityOf(leaf); err != nil {
		return nil, nil, err
	}
	roots, err := parseCerts(bundle)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: CAs: %w", err)
	}
	if err := m.verify(leaf, roots); err != nil {
		return nil, nil, fmt.Errorf("pki: certificate of the module: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: m.key, Leaf: leaf}, roots, nil
}

func (m *Module) verify(leaf *x509.Certificate, roots []*x509.Certificate) error {
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: m.clock(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// clock keeps an unset clock from calling certificates not yet valid.
func (m *Module) clock() time.Time {
	if now := m.now(); now.After(epoch) {
		return now
	}
	return epoch.Add(time.Hour)
}

// Identity is who the domain says this module is; false while it is unclaimed.
func (m *Module) Identity() (Identity, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cert == nil {
		return Identity{}, false
	}
	id, err := IdentityOf(m.cert.Leaf)
	return id, err == nil
}

// Ageing says whether the certificate should be renewed: its time runs out, or
// its CA is no longer the newest of the trusted ones.
func (m *Module) Ageing() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.cert != nil && (m.now().Add(renewBefore).After(m.cert.Leaf.NotAfter) ||
		m.cert.Leaf.CheckSignatureFrom(m.roots[0]) != nil)
}

// Trusted is the CA bundle in use (PEM), nil while the module is unclaimed.
func (m *Module) Trusted() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out bytes.Buffer
	for _, r := range m.roots {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: r.Raw}) // a buffer takes all
	}
	return out.Bytes()
}

// Files are where the certificate, its key and the trusted CAs lie, for
// programs that read them themselves.
func (m *Module) Files() (cert, key, cas string) {
	return m.file("module.pem"), m.file("module.key"), m.file("trust.pem")
}

// Forget removes the certificate and all trust: the module is unclaimed. With
// newKey its key is made anew too, as a factory reset wants.
func (m *Module) Forget(newKey bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cert, m.roots = nil, nil
	var all []error
	for _, f := range []string{"module.pem", "trust.pem"} {
		if err := os.Remove(m.file(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = append(all, fmt.Errorf("pki: %w", err))
		}
	}
	if newKey {
		key, err := makeKey(m.file("module.key"))
		if err != nil {
			return errors.Join(append(all, fmt.Errorf("pki: key of the module: %w", err))...)
		}
		m.key = key
	}
	return errors.Join(all...)
}

func readKey(file string) (crypto.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no key", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: not a signing key", file)
	}
	return s, nil
}

func makeKey(file string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, renameio.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func parseCert(b []byte) (*x509.Certificate, error) {
	all, err := parseCerts(b)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// parseCerts reads at least one certificate.
func parseCerts(b []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate")
	}
	return all, nil
}

// Sign signs data with the module's key and returns its public half
// (SubjectPublicKeyInfo) and the signature.
func (m *Module) Sign(data []byte) (key, signature []byte, err error) {
	if key, err = x509.MarshalPKIXPublicKey(m.key.Public()); err != nil {
		return nil, nil, fmt.Errorf("pki: %w", err)
	}
	sum := sha256.Sum256(data)
	if signature, err = m.key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return nil, nil, fmt.Errorf("pki: %w", err)
	}
	return key, signature, nil
}

// VerifySignature checks what Sign made and returns the fingerprint of the key.
func VerifySignature(data, key, signature []byte) (fingerprint string, err error) {
	pub, err := x509.ParsePKIXPublicKey(key)
	if err != nil || !ecdsaP256(pub) {
		return "", errors.New("pki: signature: want an ECDSA P-256 key")
	}
	sum := sha256.Sum256(data)
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), sum[:], signature) {
		return "", errors.New("pki: the signature does not hold")
	}
	id := sha256.Sum256(key)
	return hex.EncodeToString(id[:]), nil
}
