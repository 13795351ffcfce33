// Package pki is the domain's own certificate authority, and the key of a
// module.
//
// An Authority makes the CA on first use and the server certificate that
// clients of REST see, and signs the requests of the domain's modules. Its key
// lies on the appliances of the primary pair alone; the second one gets it over
// mutual TLS (Export, Import). A Module has the key that was made on it and
// never leaves it; its Fingerprint is what people compare, and its certificate
// says who it is (Identity). Calls between modules use ServerTLS and ClientTLS,
// which always take the present certificate and the present trust, so that
// neither needs a restart to change; calls to a module that belongs to no
// domain yet are pinned to its fingerprint.
//
// Keys are ECDSA P-256 (RFC 5480), in files of mode 0600. Every certificate
// carries ServerName, so that a client that pins the CA can verify it whatever
// address it dialled. The server certificate is made anew when its addresses
// change or its time runs out; the CA stays until it is replaced on purpose
// (Prepare, Switch, Retire).
//
// Clocks of modules may stand at anything until somebody sets them, so
// certificates begin to hold long before they are made.
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
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// ServerName is in every server certificate.
const ServerName = "baystream"

const (
	caYears     = 30
	serverYears = 5
	renewBefore = 180 * 24 * time.Hour
)

// epoch is where the validity of all certificates begins: no clock that is
// merely unset lies before it.
var epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Authority is the CA of a domain and the certificate of this appliance. It is
// safe for concurrent use.
type Authority struct {
	dir  string
	name string
	now  func() time.Time

	mu     sync.RWMutex
	ca     *x509.Certificate
	key    crypto.Signer
	server *tls.Certificate
}

// Open reads the authority in dir, or makes one there. name is that of the
// appliance, for people who look at the certificate.
func Open(dir, name string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	a := &Authority{dir: dir, name: name, now: time.Now}
	cert, key, err := load(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		cert, key, err = a.makeCA("ca")
	case err != nil && a.resumeSwitch() == nil:
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pki: CA: %w", err)
	}
	a.ca, a.key = cert, key
	return a, nil
}

// signer is the CA in use and its key.
func (a *Authority) signer() (*x509.Certificate, crypto.Signer) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.ca, a.key
}

// PEM is the CA's certificate.
func (a *Authority) PEM() []byte {
	ca, _ := a.signer()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
}

// Fingerprint is the SHA-256 of the CA's certificate (DER), in hex.
func (a *Authority) Fingerprint() string {
	ca, _ := a.signer()
	sum := sha256.Sum256(ca.Raw)
	return hex.EncodeToString(sum[:])
}

// Serve makes sure that the server certificate holds for the addresses, besides
// ServerName and loopback.
func (a *Authority) Serve(addrs ...netip.Addr) error {
	addrs = append(addrs, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"))
	sort.Slice(addrs, func(i, j int) bool { return addrs[i].Less(addrs[j]) })
	addrs = slices.Compact(addrs)
	certFile, keyFile := filepath.Join(a.dir, "server.pem"), filepath.Join(a.dir, "server.key")
	cert, key, err := load(certFile, keyFile)
	if err != nil || !a.good(cert, addrs) {
		if cert, key, err = a.issue(addrs, certFile, keyFile); err != nil {
			return fmt.Errorf("pki: server certificate: %w", err)
		}
	}
	ca, _ := a.signer()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = &tls.Certificate{Certificate: [][]byte{cert.Raw, ca.Raw}, PrivateKey: key, Leaf: cert}
	return nil
}

// TLS is a server configuration that always shows the present certificate.
func (a *Authority) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // clients of the final releases know no later one (spec section 2.1)
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			a.mu.RLock()
			defer a.mu.RUnlock()
			if a.server == nil {
				return nil, errors.New("no server certificate yet")
			}
			return a.server, nil
		},
	}
}

// good says whether cert is ours, lasts, and names the addresses.
func (a *Authority) good(cert *x509.Certificate, addrs []netip.Addr) bool {
	ca, _ := a.signer()
	if cert.CheckSignatureFrom(ca) != nil || a.now().Add(renewBefore).After(cert.NotAfter) {
		return false
	}
	for _, want := range addrs {
		if !slices.ContainsFunc(cert.IPAddresses, func(ip net.IP) bool { return ip.Equal(want.AsSlice()) }) {
			return false
		}
	}
	return true
}

func (a *Authority) makeCA(name string) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Baystream domain CA", Organization: []string{a.name}},
		NotBefore: epoch, NotAfter: a.notAfter(caYears),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return sign(tmpl, tmpl, key, key, filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key"))
}

func (a *Authority) issue(addrs []netip.Addr, certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: a.name},
		NotBefore: epoch, NotAfter: a.notAfter(serverYears),
		DNSNames: []string{ServerName, "localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, ip.AsSlice())
	}
	ca, by := a.signer()
	return sign(tmpl, ca, key, by, certFile, keyFile)
}

// notAfter counts from now, or from the epoch if the clock stands before it.
func (a *Authority) notAfter(years int) time.Time {
	from := a.now()
	if from.Before(epoch) {
		from = epoch
	}
	return from.AddDate(years, 0, 0)
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// sign makes a certificate and stores it with its key, the key first: a
// certificate without its key would be of no use after a crash.
func sign(tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey, by crypto.Signer, certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, key, store(cert, key, certFile, keyFile)
}

func store(cert *x509.Certificate, key crypto.Signer, certFile, keyFile string) error {
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb}), 0o600); err != nil {
		return err
	}
	return renameio.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o644)
}

// load reads a certificate and its key and checks that they belong together.
func load(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	cb, err := os.ReadFile(certFile)
	if err != nil {
		return nil, nil, err
	}
	kb, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(cb, kb)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("%s: not a signing key", keyFile)
	}
	if pair.Leaf == nil || !bytes.Equal(pair.Leaf.Raw, pair.Certificate[0]) {
		return nil, nil, fmt.Errorf("%s: no certificate", certFile)
	}
	return pair.Leaf, key, nil
}
