package ipmi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// FRU is what an inventory device says of the unit it sits on. Areas that it
// lacks are nil.
type FRU struct {
	Chassis *FRUArea `json:"chassis,omitempty"`
	Board   *FRUArea `json:"board,omitempty"`
	Product *FRUArea `json:"product,omitempty"`
}

// FRUArea is a chassis, board or product information area. Members that a kind
// of area does not have are empty.
type FRUArea struct {
	Manufacturer string   `json:"manufacturer,omitempty"`
	Name         string   `json:"name,omitempty"`
	Part         string   `json:"part,omitempty"`
	Version      string   `json:"version,omitempty"`
	Serial       string   `json:"serial,omitempty"`
	AssetTag     string   `json:"assetTag,omitempty"`
	Made         string   `json:"made,omitempty"` // date of manufacture, RFC 3339
	Custom       []string `json:"custom,omitempty"`
}

// maxFRU bounds what is read of an inventory device, in bytes: the size has 16 bits.
const maxFRU = 64 << 10

// FRU reads and parses an inventory device; the module's own is number 0.
// Areas that are damaged are an error, beside the others.
func (c *Client) FRU(ctx context.Context, device byte) (FRU, error) {
	b, err := c.FRUData(ctx, device)
	if err != nil {
		return FRU{}, err
	}
	f, err := ParseFRU(b)
	if err != nil {
		return f, fmt.Errorf("ipmi: fru %d: %w", device, err)
	}
	return f, nil
}

// FRUData reads the bytes of an inventory device (section 34). A device that
// is not there is an error that NotPresent knows.
func (c *Client) FRUData(ctx context.Context, device byte) ([]byte, error) {
	info, err := c.ask(ctx, netFnStorage, 0x10, 3, device)
	if err != nil {
		return nil, fmt.Errorf("ipmi: fru %d: size: %w", device, err)
	}
	size, unit := int(info[0])|int(info[1])<<8, 1
	if info[2]&1 != 0 {
		unit = 2 // offsets and counts are in words
	}
	var out []byte
	for chunk := 32; len(out) < min(size, maxFRU); {
		n, at := min(chunk, size-len(out)), len(out)/unit
		count := (n + unit - 1) / unit
		b, err := c.ask(ctx, netFnStorage, 0x11, 1, device, byte(at), byte(at>>8), byte(count))
		var code Code
		if errors.As(err, &code) && (code == codeTooMuchAsked || code == codeLengthLimit || code == codeLengthInvalid) && chunk > 2*unit {
			chunk /= 2
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ipmi: fru %d: read at %d: %w", device, len(out), err)
		}
		got := b[1:]
		if len(got) > int(b[0])*unit {
			got = got[:int(b[0])*unit]
		}
		if len(got) == 0 || len(got)%unit != 0 {
			return nil, fmt.Errorf("ipmi: fru %d: read at %d: %w", device, len(out), errShort)
		}
		out = append(out, got...)
	}
	return out[:min(len(out), size)], nil
}

// ParseFRU parses the common header and the three areas with strings. It
// returns what could be read beside an error for what could not.
func ParseFRU(b []byte) (FRU, error) {
	var f FRU
	if len(b) < 8 {
		return f, fmt.Errorf("%d bytes hold no header", len(b))
	}
	if b[0]&0x0f != 1 || sum(b[:8]) != 0 {
		return f, errors.New("no header: not the format of the Platform Management FRU definition, or a wrong checksum")
	}
	var errs []error
	area := func(name string, offset byte, layout func(a *FRUArea, r *fruReader)) *FRUArea {
		if offset == 0 {
			return nil
		}
		a, err := parseArea(b, int(offset)*8, layout)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s area: %w", name, err))
		}
		return a
	}
	f.Chassis = area("chassis", b[2], func(a *FRUArea, r *fruReader) {
		r.skip(1) // type
		a.Part, a.Serial = r.field(), r.field()
	})
	f.Board = area("board", b[3], func(a *FRUArea, r *fruReader) {
		r.skip(1) // language
		a.Made = madeAt(r.take(3))
		a.Manufacturer, a.Name, a.Serial, a.Part = r.field(), r.field(), r.field(), r.field()
		r.field() // name of the file that it was made of
	})
	f.Product = area("product", b[4], func(a *FRUArea, r *fruReader) {
		r.skip(1)
		a.Manufacturer, a.Name, a.Part, a.Version, a.Serial, a.AssetTag = r.field(), r.field(), r.field(), r.field(), r.field(), r.field()
		r.field()
	})
	return f, errors.Join(errs...)
}

// parseArea parses the area at offset: version, length in 8 bytes, what layout
// takes, fields of the manufacturer's own up to the mark 0xc1, checksum.
func parseArea(b []byte, offset int, layout func(*FRUArea, *fruReader)) (*FRUArea, error) {
	if offset+2 > len(b) {
		return nil, fmt.Errorf("at %d, behind the end", offset)
	}
	length := int(b[offset+1]) * 8
	if length < 8 || offset+length > len(b) {
		return nil, fmt.Errorf("%d bytes long at %d, the device has %d", length, offset, len(b))
	}
	raw := b[offset : offset+length]
	if raw[0]&0x0f != 1 {
		return nil, fmt.Errorf("unknown version %d", raw[0]&0x0f)
	}
	if sum(raw) != 0 {
		return nil, errors.New("wrong checksum")
	}
	a, r := &FRUArea{}, &fruReader{b: raw[2 : length-1]}
	layout(a, r)
	for !r.end && r.err == nil {
		if s := r.field(); s != "" && len(a.Custom) < 32 {
			a.Custom = append(a.Custom, s)
		}
	}
	return a, r.err
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

// madeAt is the manufacturing date: minutes since 1996 in UTC, 0 if unknown.
func madeAt(b []byte) string {
	if len(b) < 3 {
		return ""
	}
	m := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	if m == 0 {
		return ""
	}
	return time.Date(1996, 1, 1, 0, m, 0, 0, time.UTC).Format(time.RFC3339)
}

// fruReader takes fields; behind the end mark and behind an error they are empty.
type fruReader struct {
	b   []byte
	end bool
	err error
}

func (r *fruReader) take(n int) []byte {
	if n > len(r.b) {
		r.err, r.b = errors.New("a field is longer than the area"), nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *fruReader) skip(n int) { r.take(n) }

// field takes a field by its type/length byte (FRU definition, section 13).
func (r *fruReader) field() string {
	if r.end || r.err != nil {
		return ""
	}
	t := r.take(1)
	if len(t) == 0 {
		return ""
	}
	if t[0] == 0xc1 { // no more fields; as a text of one byte it would be useless
		r.end = true
		return ""
	}
	data := r.take(int(t[0] & 0x3f))
	switch t[0] >> 6 {
	case 0:
		if len(data) == 0 {
			return ""
		}
		return fmt.Sprintf("%x", data)
	case 1:
		return strings.TrimSpace(bcdPlus(data))
	case 2:
		return strings.TrimSpace(sixBit(data))
	}
	return cleanText(data)
}

func bcdPlus(b []byte) string {
	const digits = "0123456789 -.???"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&0x0f])
	}
	return s.String()
}

// sixBit decodes packed ASCII: four characters in three bytes, from the lowest bits up.
func sixBit(b []byte) string {
	var s strings.Builder
	for i := 0; i+6 <= len(b)*8; i += 6 {
		v := uint(b[i/8]) >> (i % 8)
		if i%8 > 2 {
			v |= uint(b[i/8+1]) << (8 - i%8)
		}
		s.WriteByte(byte(v&0x3f) + ' ')
	}
	return s.String()
}

// cleanText takes 8-bit ASCII and Latin-1, without control characters.
func cleanText(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		if c >= ' ' && c != 0x7f && (c < 0x80 || c >= 0xa0) {
			s.WriteRune(rune(c))
		}
	}
	return strings.TrimSpace(s.String())
}
