package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"
)

// errUnclaimed is what a handshake fails with before a domain has claimed the
// module.
var errUnclaimed = errors.New("this module belongs to no domain yet")

// ServerTLS is for calls of other modules of the domain and nobody else: TLS
// 1.3, both sides with a certificate of the domain. The caller's identity is in
// the connection's state (PeerIdentity).
func (m *Module) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert, // verified below, against what is trusted then
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.present() },
		VerifyConnection:       m.verifyPeer(nil),
		SessionTicketsDisabled: true, // a resumed session would outlive the trust it stands on
	}
}

// ClientTLS is for calls to other modules of the domain. who looks at the
// other's identity; nil takes any.
func (m *Module) ClientTLS(who func(Identity) error) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		ServerName:           ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.present() },
		InsecureSkipVerify:   true, // verified below, against what is trusted then
		VerifyConnection:     m.verifyPeer(who),
	}
}

func (m *Module) present() (*tls.Certificate, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cert == nil {
		return nil, errUnclaimed
	}
	return m.cert, nil
}

func (m *Module) verifyPeer(who func(Identity) error) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		own, ok := m.Identity()
		if !ok {
			return errUnclaimed
		}
		id, err := PeerIdentity(cs)
		if err != nil {
			return err
		}
		m.mu.RLock()
		roots := m.roots
		m.mu.RUnlock()
		if err := m.verify(cs.PeerCertificates[0], roots); err != nil {
			return fmt.Errorf("pki: %s: %w", id, err)
		}
		if id.Domain != own.Domain {
			return fmt.Errorf("pki: %s is of domain %s, this one of %s", id, id.Domain, own.Domain)
		}
		if who != nil {
			return who(id)
		}
		return nil
	}
}

// PeerIdentity is who is at the other end.
func PeerIdentity(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, errors.New("pki: the other side shows no certificate")
	}
	return IdentityOf(cs.PeerCertificates[0])
}

// UnclaimedTLS is for calls to an unclaimed module: the key shows itself in a
// certificate that nobody vouches for, and whoever calls compares the
// fingerprint with the one on the module's console.
func (m *Module) UnclaimedTLS() (*tls.Config, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "unclaimed module"}, DNSNames: []string{ServerName},
		NotBefore: epoch, NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, m.key.Public(), m.key)
	if err != nil {
		return nil, fmt.Errorf("pki: certificate of the unclaimed module: %w", err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: m.key}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}, nil
}

// PinnedTLS is the caller's side of UnclaimedTLS: it believes the one key with
// the fingerprint.
func PinnedTLS(fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         ServerName,
		InsecureSkipVerify: true, // the key is compared below
		VerifyConnection: func(cs tls.ConnectionState) error {
			got := Fingerprint(cs.PeerCertificates[0])
			if subtle.ConstantTimeCompare([]byte(got), []byte(fingerprint)) != 1 {
				return fmt.Errorf("pki: the module has the key %s, not %s: it is another module, or somebody sits in between", got, fingerprint)
			}
			return nil
		},
	}
}

// ecdsaP256 checks that a request's key is of the kind that we make ourselves.
func ecdsaP256(key any) bool {
	k, ok := key.(*ecdsa.PublicKey)
	return ok && k.Curve == elliptic.P256()
}
