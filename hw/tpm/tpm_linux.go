package tpm

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// endorsementIndices are where makers put certificates (TCG EK Credential
// Profile for TPM 2.0, section 2.2.1.4 and table "High Range").
var endorsementIndices = []tpm2.TPMHandle{
	0x01c00002, 0x01c0000a, // RSA 2048, ECC P-256
	0x01c00012, 0x01c00014, 0x01c00016, 0x01c00018, 0x01c0001c, 0x01c0001e, // RSA 2048, P-256, P-384, P-521, RSA 3072, RSA 4096
}

const (
	nvChunk  = 512 // bytes; every TPM 2.0 can
	maxNVRAM = 16 << 10
)

// Endorsement reads the certificates of endorsement keys from the TPM's memory
// over the kernel's resource manager, /dev/tpmrm0. Without a TPM 2.0 there are
// none. A certificate that is damaged is an error beside the others.
func Endorsement(device string) ([]Certificate, error) {
	t, err := linuxtpm.Open(device)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	var out []Certificate
	var errs []error
	for _, index := range endorsementIndices {
		der, err := readIndex(t, index)
		if errors.Is(err, tpm2.TPMRCHandle) {
			continue // not defined
		}
		var c Certificate
		if err == nil {
			c, err = parseCertificate(der)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tpm: certificate at %#08x: %w", uint32(index), err))
			continue
		}
		out = append(out, c)
	}
	return out, errors.Join(append(errs, t.Close())...)
}

// readIndex reads an NV index by its own, empty authorization.
func readIndex(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err != nil {
		return nil, err
	}
	contents, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	size := int(contents.DataSize)
	if size > maxNVRAM {
		return nil, fmt.Errorf("%d bytes are too many", size)
	}
	var out []byte
	for len(out) < size {
		part, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       uint16(min(nvChunk, size-len(out))),
			Offset:     uint16(len(out)),
		}.Execute(t)
		if err != nil {
			return nil, err
		}
		if len(part.Data.Buffer) == 0 {
			return nil, errors.New("ends before its size")
		}
		out = append(out, part.Data.Buffer...)
	}
	return out, nil
}

// parseCertificate describes a certificate, which may be padded.
func parseCertificate(der []byte) (Certificate, error) {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return Certificate{}, err
	}
	cert, err := x509.ParseCertificate(outer.FullBytes)
	if err != nil {
		return Certificate{}, err
	}
	sum := sha256.Sum256(cert.Raw)
	return Certificate{
		Key: keyName(cert.PublicKey), Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Serial: cert.SerialNumber.Text(16),
		NotBefore: cert.NotBefore.UTC().Format(time.RFC3339), NotAfter: cert.NotAfter.UTC().Format(time.RFC3339), SHA256: hex.EncodeToString(sum[:]),
	}, nil
}

func keyName(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECC " + k.Curve.Params().Name
	}
	return "unknown"
}
