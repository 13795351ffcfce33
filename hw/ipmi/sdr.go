package ipmi

import (
	"context"
	"errors"
	"fmt"

	"github.com/bougou/go-ipmi/pkg/types"
)

// sdrHeader is the size of a record's header: id, version, type, length.
const sdrHeader = 5

// maxRecords bounds the records read of a repository or log, in case a
// controller's chain of records has no end.
const maxRecords = 4096

// records reads the sensor data repository (section 33).
func (c *Client) records(ctx context.Context) ([][]byte, error) {
	var out [][]byte
	seen := map[uint16]bool{}
	for id := uint16(0); id != 0xffff && len(out) < maxRecords; {
		if seen[id] {
			return out, fmt.Errorf("ipmi: sensor records: record %#04x comes twice", id)
		}
		seen[id] = true
		rec, next, err := c.record(ctx, id)
		if errors.Is(err, codeNotPresent) && len(out) == 0 {
			return nil, nil // empty
		}
		if err != nil {
			return out, fmt.Errorf("ipmi: sensor record %#04x: %w", id, err)
		}
		out = append(out, rec)
		id = next
	}
	return out, nil
}

// record reads one record, whole where the controller can, else in parts. A
// part needs a reservation, which is lost when somebody changes the repository.
func (c *Client) record(ctx context.Context, id uint16) (rec []byte, next uint16, err error) {
	whole, err := c.ask(ctx, netFnStorage, 0x23, 2+sdrHeader, 0, 0, byte(id), byte(id>>8), 0, 0xff)
	if err == nil && len(whole) >= 2+sdrHeader+int(whole[2+4]) {
		return whole[2:], uint16(whole[0]) | uint16(whole[1])<<8, nil
	}
	var code Code
	if err != nil && (!errors.As(err, &code) || code == codeNotPresent) {
		return nil, 0, err
	}
	for range 5 {
		if rec, next, err = c.recordInParts(ctx, id); !errors.Is(err, codeReservationLost) {
			return rec, next, err
		}
	}
	return nil, 0, err
}

func (c *Client) recordInParts(ctx context.Context, id uint16) (rec []byte, next uint16, err error) {
	res, err := c.ask(ctx, netFnStorage, 0x22, 2)
	if err != nil {
		return nil, 0, err
	}
	for want := sdrHeader; len(rec) < want; {
		n := min(16, want-len(rec))
		b, err := c.ask(ctx, netFnStorage, 0x23, 3, res[0], res[1], byte(id), byte(id>>8), byte(len(rec)), byte(n))
		if err != nil {
			return nil, 0, err
		}
		next = uint16(b[0]) | uint16(b[1])<<8
		rec = append(rec, b[2:]...)
		if len(rec) >= sdrHeader {
			want = sdrHeader + int(rec[4])
		}
	}
	return rec, next, nil
}

// probe is what is needed to read a sensor again and again.
type probe struct {
	number    byte
	name      string
	kind      types.SensorType
	class     types.EventReadingType
	full      *types.SDRFull // nil: no analog reading
	rec       []byte
	ownerless bool // belongs to another controller than the one asked
}

// probes picks the sensors out of sensor records. Records that are damaged are
// an error, beside the others.
func probes(records [][]byte) ([]probe, error) {
	var out []probe
	var errs []error
	for _, rec := range records {
		sdr, err := types.ParseSDR(rec, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("ipmi: sensor record: %w", err))
			continue
		}
		switch {
		case sdr.Full != nil:
			s := sdr.Full
			p := probe{number: byte(s.SensorNumber), name: idString(s.IDStringTypeLength, s.IDStringBytes), kind: s.SensorType, class: s.SensorEventReadingType, ownerless: foreign(s.GeneratorID)}
			if s.HasAnalogReading() {
				p.full, p.rec = s, rec
			}
			out = append(out, p)
		case sdr.Compact != nil:
			s := sdr.Compact
			out = append(out, probe{number: byte(s.SensorNumber), name: idString(s.IDStringTypeLength, s.IDStringBytes), kind: s.SensorType, class: s.SensorEventReadingType, ownerless: foreign(s.GeneratorID)})
		}
	}
	return out, errors.Join(errs...)
}

// foreign tells sensors that the controller at the system interface (address
// 20h, LUN 0) does not own itself.
func foreign(owner types.GeneratorID) bool { return owner&0xff != 0x20 || owner>>8&0x03 != 0 }

// idString decodes a sensor's name, whose type has the codes of FRU fields.
func idString(t types.TypeLength, b []byte) string {
	switch byte(t) >> 6 {
	case 1:
		return bcdPlus(b)
	case 2:
		return sixBit(b)
	}
	return cleanText(b)
}
