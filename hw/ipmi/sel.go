package ipmi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"
)

// Record is an entry of the system event log.
type Record struct {
	ID   int       `json:"id"`
	Time time.Time `json:"time"` // of the controller's clock; zero before that was set
	// Source is who wrote it: "controller", "firmware", "baystream", "software".
	Source string `json:"source"`
	Sensor string `json:"sensor,omitempty"` // type of the sensor, "Temperature"
	Number int    `json:"number,omitempty"` // of the sensor
	Text   string `json:"text"`
	// Cleared is set when the record says that a condition went away.
	Cleared bool `json:"cleared,omitempty"`
	// Raw are the record's 16 bytes in hex, for who knows more about its maker.
	Raw string `json:"raw"`
	// Event is the record if it is one of ours.
	Event *Event `json:"-"`
}

// LogInfo is the state of the log.
type LogInfo struct {
	Entries   int  `json:"entries"`
	FreeBytes int  `json:"freeBytes"` // a record has 16; 65535 means at least so many
	Overflow  bool `json:"overflow"`  // records were lost for want of room
}

// ErrLogFull is the end of the log's room. Someone must read and clear it: what
// others wrote there is not ours to delete.
var ErrLogFull = errors.New("the system event log is full: read it, then clear it with ipmitool sel clear")

// LogInfo asks for the state of the event log (section 31.2).
func (c *Client) LogInfo(ctx context.Context) (LogInfo, error) {
	b, err := c.ask(ctx, netFnStorage, 0x40, 14)
	if err != nil {
		return LogInfo{}, fmt.Errorf("ipmi: event log: %w", err)
	}
	return LogInfo{Entries: int(b[1]) | int(b[2])<<8, FreeBytes: int(b[3]) | int(b[4])<<8, Overflow: b[13]&0x80 != 0}, nil
}

// Log reads the event log, oldest first (section 31.5).
func (c *Client) Log(ctx context.Context) ([]Record, error) {
	out := []Record{}
	seen := map[uint16]bool{}
	for id := uint16(0); id != 0xffff && len(out) < maxRecords; {
		if seen[id] {
			return out, fmt.Errorf("ipmi: event log: record %#04x comes twice", id)
		}
		seen[id] = true
		b, err := c.ask(ctx, netFnStorage, 0x43, 18, 0, 0, byte(id), byte(id>>8), 0, 0xff)
		if errors.Is(err, codeNotPresent) {
			return out, nil // empty, or cleared while it was read
		}
		if err != nil {
			return out, fmt.Errorf("ipmi: event log record %#04x: %w", id, err)
		}
		r, err := parseRecord(b[2:18])
		if err != nil {
			return out, fmt.Errorf("ipmi: event log record %#04x: %w", id, err)
		}
		out = append(out, r)
		id = uint16(b[0]) | uint16(b[1])<<8
	}
	return out, nil
}

// Write adds one of our events to the log (section 31.6) and returns the id
// that its record got. The controller stamps it with its own time.
func (c *Client) Write(ctx context.Context, e Event) (int, error) {
	rec := e.record()
	b, err := c.ask(ctx, netFnStorage, 0x44, 2, rec[:]...)
	if errors.Is(err, codeOutOfSpace) {
		err = ErrLogFull
	}
	if err != nil {
		return 0, fmt.Errorf("ipmi: write event %q: %w", e, err)
	}
	return int(b[0]) | int(b[1])<<8, nil
}

// Generators of records (table 32-1): software IDs have the lowest bit set.
const (
	generatorBMC       = 0x20
	generatorBaystream = 0x41 // the first of system management software
)

func source(generator types.GeneratorID) string {
	switch low := byte(generator); {
	case low == generatorBaystream:
		return "baystream"
	case low == generatorBMC:
		return "controller"
	case low&1 == 1 && low>>1 < 0x20:
		return "firmware"
	case low&1 == 1:
		return "software"
	}
	return fmt.Sprintf("controller %#02x", byte(generator))
}

// recordTime is the time of a record; values up to 20000000h count from the
// start of the controller (section 37).
func recordTime(t time.Time) time.Time {
	if s := t.Unix(); s <= 0x20000000 || s >= 0xffffffff {
		return time.Time{}
	}
	return t.UTC()
}

// parseRecord makes text of the 16 bytes of a record.
func parseRecord(b []byte) (Record, error) {
	sel, err := types.ParseSEL(b)
	if err != nil {
		return Record{}, err
	}
	r := Record{ID: int(sel.RecordID), Raw: fmt.Sprintf("%x", b)}
	switch {
	case sel.Standard != nil:
		s := sel.Standard
		r.Time, r.Source = recordTime(s.Timestamp), source(s.GeneratorID)
		r.Sensor, r.Number, r.Cleared = s.SensorType.String(), int(s.SensorNumber), bool(s.EventDir)
		if e, ok := eventOf(s); ok {
			r.Text, r.Event = e.String(), &e
			break
		}
		if r.Text = s.EventString(); r.Text == "" {
			r.Text = fmt.Sprintf("event %s of type %#02x", s.EventData.String(), byte(s.EventReadingType))
		}
	case sel.OEMTimestamped != nil:
		o := sel.OEMTimestamped
		r.Time, r.Source = recordTime(o.Timestamp), "controller"
		r.Text = fmt.Sprintf("record %#02x of manufacturer %d: %x", byte(sel.RecordType), o.ManufacturerID, o.OEMDefined)
	default:
		r.Source, r.Text = "controller", fmt.Sprintf("record %#02x: %x", byte(sel.RecordType), b[3:])
	}
	return r, nil
}
