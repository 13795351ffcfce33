// Package tpm reads what a trusted platform module tells of a module's boot:
// its platform configuration registers (PCRs), the firmware's log of what was
// measured into them, and the certificates of the TPM's endorsement keys, by
// which it is known to its maker.
//
// Registers and log are files of the kernel's (Documentation/ABI: sysfs-class-tpm,
// Documentation/security/tpm/tpm_event_log.rst), read below a root; certificates
// are read from the TPM itself (tpm_linux.go). The log is in the format of the
// TCG PC Client Platform Firmware Profile and is parsed by go-eventlog. A log
// proves nothing by itself: Log.Verdict says whether replaying it gives the
// registers.
//
// A machine without a TPM is an ordinary case: Report.Present is false. Nothing
// is written to a TPM.
package tpm

import (
	"cmp"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
)

// Report is all that was found out about a TPM.
type Report struct {
	Present bool `json:"present"`
	Version int  `json:"version,omitempty"` // 2 for TPM 2.0; 1 for TPM 1.2
	// PCRs are the registers in hexadecimal, by bank ("sha256") and in their
	// order.
	PCRs map[string][]string `json:"pcrs,omitempty"`
	Log  *Log                `json:"log,omitempty"` // nil: the firmware left none
	// Endorsement are the certificates of endorsement keys that the TPM's maker
	// put into it; many virtual ones have none.
	Endorsement []Certificate `json:"endorsement,omitempty"`
}

// Log is the firmware's log of measurements.
type Log struct {
	Bank string `json:"bank"` // whose digests are shown
	// Verdict is "matches" when replaying the log gives the registers, else
	// which do not match.
	Verdict string  `json:"verdict"`
	Events  []Event `json:"events"`
}

// Matches is the Verdict of a log that explains the registers.
const Matches = "matches"

// Event is one measurement.
type Event struct {
	PCR    int    `json:"pcr"`
	Type   string `json:"type"`
	Digest string `json:"digest"`
	// Text is what is printable of the event's data.
	Text string `json:"text,omitempty"`
}

// Certificate is an endorsement key's certificate.
type Certificate struct {
	Key       string `json:"key"` // "RSA 2048", "ECC P-256"
	Subject   string `json:"subject,omitempty"`
	Issuer    string `json:"issuer"`
	Serial    string `json:"serial"`
	NotBefore string `json:"notBefore"`
	NotAfter  string `json:"notAfter"`
	SHA256    string `json:"sha256"` // of the DER
}

// bank is a register bank that the log can be replayed against, the best first.
type bank struct {
	name string
	alg  register.HashAlg
}

var banks = []bank{{"sha384", register.HashSHA384}, {"sha256", register.HashSHA256}, {"sha1", register.HashSHA1}}

const (
	registers = 24
	maxLog    = 4 << 20 // bytes; real ones have some ten thousand
	maxEvents = 4096
)

// Read reads registers and log of the first TPM below root. A report with less
// than there is comes with an error.
func Read(root string) (Report, error) {
	dir := filepath.Join(root, "sys/class/tpm/tpm0")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return Report{}, nil
	} else if err != nil {
		return Report{}, err
	}
	r := Report{Present: true}
	var errs []error
	if b, err := os.ReadFile(filepath.Join(dir, "tpm_version_major")); err == nil {
		if r.Version, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			errs = append(errs, fmt.Errorf("tpm: version: %w", err))
		}
	}
	var err error
	if r.PCRs, err = readPCRs(dir); err != nil {
		errs = append(errs, err)
	}
	raw, err := readLog(root)
	if err == nil && len(raw) > 0 {
		r.Log, err = parseLog(raw, r.PCRs)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("tpm: event log: %w", err))
	}
	return r, errors.Join(errs...)
}

// readPCRs reads the banks that the kernel shows (since 5.12).
func readPCRs(dir string) (map[string][]string, error) {
	found, _ := filepath.Glob(filepath.Join(dir, "pcr-*")) // the pattern is good
	out := map[string][]string{}
	var errs []error
	for _, d := range found {
		var values []string
		for i := range registers {
			b, err := os.ReadFile(filepath.Join(d, strconv.Itoa(i)))
			if err != nil {
				errs = append(errs, fmt.Errorf("tpm: register %d: %w", i, err))
				break
			}
			values = append(values, strings.ToLower(strings.TrimSpace(string(b))))
		}
		if len(values) == registers {
			out[strings.TrimPrefix(filepath.Base(d), "pcr-")] = values
		}
	}
	return out, errors.Join(errs...)
}

// readLog reads the firmware's log; none is no error.
func readLog(root string) ([]byte, error) {
	f, err := os.Open(filepath.Join(root, "sys/kernel/security/tpm0/binary_bios_measurements"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLog+1))
	if len(b) > maxLog {
		return nil, fmt.Errorf("more than %d bytes", maxLog)
	}
	return b, err
}

// parseLog parses a log and replays it against the best bank that both have.
func parseLog(raw []byte, pcrs map[string][]string) (*Log, error) {
	parsed, err := tcg.ParseEventLog(raw, tcg.ParseOpts{AllowPadding: true})
	if err != nil {
		return nil, err
	}
	b := chooseBank(parsed.Algs, pcrs)
	l := &Log{Bank: b.name, Events: []Event{}, Verdict: verdict(parsed, b, pcrs[b.name])}
	for _, e := range parsed.Events(b.alg) {
		if len(l.Events) == maxEvents {
			return l, fmt.Errorf("more than %d events", maxEvents)
		}
		l.Events = append(l.Events, Event{PCR: e.Index, Type: e.Type.String(), Digest: hex.EncodeToString(e.Digest), Text: printable(e.Data)})
	}
	return l, nil
}

func chooseBank(algs []register.HashAlg, pcrs map[string][]string) bank {
	for _, b := range banks {
		if slices.Contains(algs, b.alg) && pcrs[b.name] != nil {
			return b
		}
	}
	for _, b := range banks {
		if slices.Contains(algs, b.alg) {
			return b
		}
	}
	return banks[len(banks)-1]
}

// verdict replays the log.
func verdict(l *tcg.EventLog, b bank, values []string) string {
	if values == nil {
		return "cannot be checked: the TPM has no registers for the log's digests"
	}
	hash := map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384}[b.name]
	var mrs []register.MR
	for i, v := range values {
		d, err := hex.DecodeString(v)
		if err != nil || len(d) != hash.Size() {
			return fmt.Sprintf("cannot be checked: register %d reads %q", i, v)
		}
		mrs = append(mrs, register.PCR{Index: i, Digest: d, DigestAlg: hash})
	}
	_, err := l.Verify(mrs)
	var replay tcg.ReplayError
	switch {
	case err == nil:
		return Matches
	case errors.As(err, &replay):
		bad := slices.Clone(replay.InvalidMRs)
		slices.SortFunc(bad, cmp.Compare)
		return fmt.Sprintf("does not explain the registers %v: something was measured without the log, or the log was changed", slices.Compact(bad))
	}
	return "cannot be checked: " + err.Error()
}

// printable takes the text out of an event's data, whose form depends on its
// type: ASCII, or UTF-16 in EFI variables. The rest of it are numbers that only
// programs read.
func printable(data []byte) string {
	const enough = 120 // characters
	var s, word strings.Builder
	flush := func() {
		if word.Len() >= 4 {
			if s.Len() > 0 {
				s.WriteByte(' ')
			}
			s.WriteString(strings.TrimSpace(word.String()))
		}
		word.Reset()
	}
	for i, c := range data {
		wide := c == 0 && i > 0 && i+1 < len(data) && ascii(data[i-1]) && ascii(data[i+1])
		switch {
		case ascii(c):
			word.WriteByte(c)
		case !wide:
			flush()
		}
		if s.Len()+word.Len() >= enough {
			break
		}
	}
	flush()
	return s.String()
}

func ascii(c byte) bool { return c >= ' ' && c < 0x7f }
