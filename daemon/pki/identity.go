package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Identity is who a module of a domain is. Its certificate carries it as the
// URI baystream://DOMAIN/FRAME/BAY/SERIAL.
type Identity struct {
	Domain string `json:"domain"` // id of the domain
	Frame  string `json:"frame"`  // serial of the frame
	Bay    string `json:"bay"`    // "appliance bay 1"
	Serial string `json:"serial"` // of the module
}

const scheme = "baystream"

// String names the module in logs and errors.
func (id Identity) String() string {
	return fmt.Sprintf("module %s (frame %s, %s)", id.Serial, id.Frame, id.Bay)
}

func (id Identity) uri() (*url.URL, error) {
	if id.Domain == "" || id.Serial == "" {
		return nil, errors.New("identity needs at least domain and serial")
	}
	path := "/" + url.PathEscape(id.Frame) + "/" + url.PathEscape(id.Bay) + "/" + url.PathEscape(id.Serial)
	return url.Parse(scheme + "://" + url.PathEscape(id.Domain) + path)
}

// IdentityOf reads the identity in a certificate.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		parts := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
		if len(parts) != 3 {
			return Identity{}, fmt.Errorf("pki: identity %s: want frame, bay and serial", u)
		}
		for i, p := range parts {
			var err error
			if parts[i], err = url.PathUnescape(p); err != nil {
				return Identity{}, fmt.Errorf("pki: identity %s: %w", u, err)
			}
		}
		return Identity{Domain: u.Host, Frame: parts[0], Bay: parts[1], Serial: parts[2]}, nil
	}
	return Identity{}, errors.New("pki: the certificate is not that of a module")
}

// Fingerprint is the SHA-256 of a certificate's public key (its
// SubjectPublicKeyInfo), in hex: it stays when the certificate is renewed.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
