package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-eventlog/testdata"
)

func TestMachineWithoutTPM(t *testing.T) {
	r, err := Read(t.TempDir())
	if diff := cmp.Diff(Report{}, r); err != nil || diff != "" {
		t.Errorf("Read = %v (-want +got):\n%s", err, diff)
	}
	if c, err := Endorsement(filepath.Join(t.TempDir(), "tpmrm0")); err != nil || c != nil {
		t.Errorf("Endorsement = %v, %v", c, err)
	}
}

// replay gives the registers that a log leads to.
func replay(t *testing.T, raw []byte) []string {
	t.Helper()
	l, err := tcg.ParseEventLog(raw, tcg.ParseOpts{AllowPadding: true})
	if err != nil {
		t.Fatal(err)
	}
	pcrs := make([][32]byte, registers)
	for _, e := range l.Events(register.HashSHA256) {
		if e.Type != tcg.NoAction && e.Index < registers {
			pcrs[e.Index] = sha256.Sum256(append(pcrs[e.Index][:], e.Digest...))
		}
	}
	var out []string
	for _, p := range pcrs {
		out = append(out, hex.EncodeToString(p[:]))
	}
	return out
}

// TestLogsOfRealMachines reads logs that go-eventlog brings along.
func TestLogsOfRealMachines(t *testing.T) {
	for name, raw := range map[string][]byte{
		"workstation with Arch Linux": testdata.ArchLinuxWorkstationEventLog,
		"cloud VM with Ubuntu 21.04":  testdata.Ubuntu2104NoDbxEventLog,
		"cloud VM with RHEL 8":        testdata.Rhel8EventLog,
	} {
		pcrs := replay(t, raw)
		l, err := parseLog(raw, map[string][]string{"sha256": pcrs})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if l.Verdict != Matches || l.Bank != "sha256" || len(l.Events) < 20 {
			t.Errorf("%s: verdict %q of %d events in bank %s", name, l.Verdict, len(l.Events), l.Bank)
		}
		named := false
		for _, e := range l.Events {
			named = named || e.Type == "EFI Variable Driver Config" && strings.Contains(e.Text, "SecureBoot")
		}
		if !named {
			t.Errorf("%s: no event names the variable SecureBoot", name)
		}
		pcrs[7] = strings.Repeat("00", 32)
		if l, err := parseLog(raw, map[string][]string{"sha256": pcrs}); err != nil || !strings.Contains(l.Verdict, "registers [7]") {
			t.Errorf("%s, with another register 7: %q, %v", name, l.Verdict, err)
		}
		if l, err := parseLog(raw, nil); err != nil || !strings.HasPrefix(l.Verdict, "cannot be checked") {
			t.Errorf("%s, without registers: %q, %v", name, l.Verdict, err)
		}
	}
}

func TestDamagedLog(t *testing.T) {
	root := t.TempDir()
	write := func(name string, b []byte) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/class/tpm/tpm0/tpm_version_major", []byte("2\n"))
	r, err := Read(root)
	if diff := cmp.Diff(Report{Present: true, Version: 2, PCRs: map[string][]string{}}, r); err != nil || diff != "" {
		t.Errorf("no log: %v (-want +got):\n%s", err, diff)
	}
	log := testdata.Debian10EventLog
	write("sys/kernel/security/tpm0/binary_bios_measurements", log[:len(log)/2+3])
	if r, err = Read(root); err == nil || !r.Present || r.Version != 2 {
		t.Errorf("a log that is cut off: %+v, %v", r, err)
	}
	write("sys/class/tpm/tpm0/pcr-sha256/0", []byte("00\n"))
	if r, err = Read(root); err == nil || len(r.PCRs) != 0 {
		t.Errorf("a bank that lacks registers: %+v, %v", r, err)
	}
}

// certificate makes one as a TPM's maker would.
func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(0xabc), Issuer: pkix.Name{CommonName: "Maker"},
		Subject: pkix.Name{CommonName: "Maker"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(2e9, 0)},
		&x509.Certificate{Subject: pkix.Name{CommonName: "Maker"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCertificateWithPadding(t *testing.T) {
	der := certificate(t)
	sum := sha256.Sum256(der)
	got, err := parseCertificate(append(append([]byte(nil), der...), make([]byte, 100)...))
	want := Certificate{Key: "ECC P-256", Subject: "CN=Maker", Issuer: "CN=Maker", Serial: "abc",
		NotBefore: "2001-09-09T01:46:40Z", NotAfter: "2033-05-18T03:33:20Z", SHA256: hex.EncodeToString(sum[:])}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if c, err := parseCertificate(make([]byte, 50)); err == nil {
		t.Errorf("zeros are the certificate %+v", c)
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add(testdata.Debian10EventLog[:600])
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseLog(b, map[string][]string{"sha1": make([]string, registers)}); err == nil && l.Verdict == "" {
			t.Error("no verdict")
		}
	})
}
