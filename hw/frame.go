package hw

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
)

// FrameDocument is what a frame tells a module that is plugged into it, over
// the module's management controller (FRU device 1): a channel that nobody
// outside the frame can write to, so what it says of the frame manager is
// trusted.
type FrameDocument struct {
	Frame string `json:"frame"` // serial number
	Bay   string `json:"bay"`   // where the module sits: "appliance bay 1"
	// Address is the module's own on the frame link, with the link's size.
	Address netip.Prefix `json:"address"`
	Manager FrameManager `json:"manager"`
	Bays    []FrameBay   `json:"bays"` // the bay map
}

// FrameManager is how to reach the frame manager.
type FrameManager struct {
	URL string `json:"url"` // https://169.254.1.1
	// CertificateSHA256 is the hash of the manager's certificate (DER) in
	// lower-case hexadecimal.
	CertificateSHA256 string `json:"certificateSha256"`
	User              string `json:"user"`
	Password          Secret `json:"password"`
}

// FrameBay is one place of the bay map.
type FrameBay struct {
	Bay  string `json:"bay"`
	Kind Kind   `json:"kind"`
}

// Secret is text that prints, logs and encodes as "***"; string(s) is the text.
type Secret string

const hidden = "***"

// String implements fmt.Stringer.
func (Secret) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON implements json.Marshaler.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// maxBays bounds the bay map.
const maxBays = 256

// ParseFrameDocument parses the bytes of FRU device 1: a JSON object in UTF-8,
// which NUL or FFh bytes may follow. Members that we do not know are skipped.
// No error repeats what the document says of credentials.
func ParseFrameDocument(b []byte) (FrameDocument, error) {
	var d FrameDocument
	b = bytes.TrimRight(b, "\x00\xff \r\n\t")
	if len(b) == 0 {
		return d, errors.New("frame document: is empty")
	}
	if err := json.Unmarshal(b, &d); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) {
			return FrameDocument{}, fmt.Errorf("frame document: member %s cannot be a JSON %s", typ.Field, typ.Value)
		}
		return FrameDocument{}, fmt.Errorf("frame document: not a JSON object, or a member of the wrong form (%d bytes)", len(b))
	}
	return d, d.check()
}

func (d *FrameDocument) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("frame document: "+format, args...)) }
	if d.Frame == "" {
		wrong("member frame: is missing")
	}
	if kind, _ := ParseLocation(d.Bay); kind == Unknown {
		wrong("member bay: %q is no bay", d.Bay)
	}
	if d.Address.IsValid() && (!d.Address.Addr().IsLinkLocalUnicast() && !d.Address.Addr().IsPrivate() || d.Address.Addr().Zone() != "") {
		wrong("member address: %s is no address of a frame link: want a link-local or private one", d.Address)
	}
	d.Manager.CertificateSHA256 = strings.ToLower(strings.ReplaceAll(d.Manager.CertificateSHA256, ":", ""))
	if m := d.Manager; m != (FrameManager{}) {
		if u, err := url.Parse(m.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			wrong("member manager.url: want https://ADDRESS")
		}
		if pin, err := hex.DecodeString(m.CertificateSHA256); err != nil || len(pin) != 32 {
			wrong("member manager.certificateSha256: want 64 hex digits")
		}
		if m.User == "" || m.Password == "" {
			wrong("member manager: user or password is missing")
		}
	}
	if len(d.Bays) > maxBays {
		wrong("member bays: %d bays", len(d.Bays))
		d.Bays = d.Bays[:maxBays]
	}
	return errors.Join(errs...)
}

// Agree compares the two sources of a module's place: the firmware's SMBIOS
// tables, which travel with the module, and the frame's document, which stays
// with the frame. A module that was moved, or whose firmware was copied from
// another, would otherwise take over another one's role and volumes.
func Agree(b Bay, d FrameDocument) error {
	kind, n := ParseLocation(d.Bay)
	switch {
	case kind != b.Kind || n != b.Number:
		return fmt.Errorf("the module's SMBIOS says %s, the frame's document says %s", b.place(), d.Bay)
	case b.Frame != d.Frame:
		return fmt.Errorf("the module's SMBIOS says frame %q, the frame's document says frame %q", b.Frame, d.Frame)
	}
	return nil
}

// place is the bay without the frame.
func (b Bay) place() string {
	if b.Kind == Unknown || b.Kind == "" {
		return "no bay"
	}
	return fmt.Sprintf("%s bay %d", b.Kind, b.Number)
}
