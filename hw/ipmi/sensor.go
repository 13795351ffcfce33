package ipmi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/bougou/go-ipmi/pkg/types"
)

// State is how a sensor's reading compares with its thresholds.
type State string

// The states, from good to bad. An Unavailable sensor has no reading: the part
// that it measures is off or not there.
const (
	Unavailable    State = "unavailable"
	OK             State = "ok"
	NonCritical    State = "non-critical"
	Critical       State = "critical"
	NonRecoverable State = "non-recoverable"
)

// Sensor is one sensor with its reading.
type Sensor struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Type   string `json:"type"` // Temperature, Fan, Voltage ... (table 42-3)
	// Unit of Reading and thresholds as the specification spells it (table
	// 43-15): "degrees C", "RPM", "Volts". A discrete sensor has none.
	Unit    string   `json:"unit,omitempty"`
	Reading *float64 `json:"reading,omitempty"`
	State   State    `json:"state"`
	// Asserted are the states of a discrete sensor that hold.
	Asserted   []string    `json:"asserted,omitempty"`
	Thresholds *Thresholds `json:"thresholds,omitempty"`
}

// Thresholds of a sensor in its unit; those that it lacks are nil.
type Thresholds struct {
	LowerNonRecoverable *float64 `json:"lowerNonRecoverable,omitempty"`
	LowerCritical       *float64 `json:"lowerCritical,omitempty"`
	LowerNonCritical    *float64 `json:"lowerNonCritical,omitempty"`
	UpperNonCritical    *float64 `json:"upperNonCritical,omitempty"`
	UpperCritical       *float64 `json:"upperCritical,omitempty"`
	UpperNonRecoverable *float64 `json:"upperNonRecoverable,omitempty"`
}

// Sensors reads the repository and a controller's sensors by it. The repository
// changes with the hardware only, so Read may be called again on the result.
type Sensors struct {
	c      *Client
	probes []probe
}

// Sensors reads the sensor repository. Sensors of other controllers are left
// out. Damaged records are an error, beside the others.
func (c *Client) Sensors(ctx context.Context) (*Sensors, error) {
	recs, err := c.records(ctx)
	all, perr := probes(recs)
	s := &Sensors{c: c}
	for _, p := range all {
		if !p.ownerless {
			s.probes = append(s.probes, p)
		}
	}
	return s, errors.Join(err, perr)
}

// Read reads all sensors. What one cannot say is no reason to leave the others
// out: the error joins all faults.
func (s *Sensors) Read(ctx context.Context) ([]Sensor, error) {
	out := make([]Sensor, 0, len(s.probes))
	var errs []error
	for _, p := range s.probes {
		v, err := s.read(ctx, p)
		if err != nil {
			errs = append(errs, fmt.Errorf("ipmi: sensor %d (%s): %w", p.number, p.name, err))
			if ctx.Err() != nil {
				break
			}
		}
		out = append(out, v)
	}
	return out, errors.Join(errs...)
}

func (s *Sensors) read(ctx context.Context, p probe) (Sensor, error) {
	v := Sensor{Number: int(p.number), Name: p.name, Type: p.kind.String(), State: Unavailable}
	if p.full != nil {
		v.Unit = unit(p.full.SensorUnit)
	}
	b, err := s.c.ask(ctx, netFnSensor, 0x2d, 2, p.number) // Get Sensor Reading, section 35.14
	if NotPresent(err) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	if p.full != nil && p.class.IsThreshold() {
		// Get Sensor Thresholds, section 35.9: those in force, which somebody may
		// have changed; a controller that does not tell has those of the record.
		if th, err := s.c.ask(ctx, netFnSensor, 0x27, 7, p.number); err == nil {
			v.Thresholds = thresholds(p.full, th)
		} else if NotPresent(err) {
			v.Thresholds = thresholds(p.full, recordThresholds(p.rec))
		} else {
			return v, err
		}
	}
	p.judge(&v, b)
	return v, nil
}

// judge fills in the reading and what it means.
func (p probe) judge(v *Sensor, b []byte) {
	scanning, unavailable := b[1]&0x40 != 0, b[1]&0x20 != 0
	if !scanning || unavailable {
		return
	}
	v.State = OK
	if p.full != nil {
		v.Reading = finite(p.full.ConvertReading(b[0]))
	}
	if len(b) < 3 {
		return
	}
	if p.class.IsThreshold() {
		v.State = compare(b[2])
		return
	}
	states := uint16(b[2])
	if len(b) > 3 {
		states |= uint16(b[3]&0x7f) << 8
	}
	for bit := range 15 {
		if states&(1<<bit) == 0 {
			continue
		}
		text := p.class.EventString(p.kind, types.EventData{EventData1: byte(bit)})
		if text == "" {
			text = fmt.Sprintf("state %d", bit)
		}
		v.Asserted = append(v.Asserted, text)
	}
}

// compare makes a state of the comparison with the thresholds, the worst first.
func compare(status byte) State {
	switch {
	case status&0x24 != 0:
		return NonRecoverable
	case status&0x12 != 0:
		return Critical
	case status&0x09 != 0:
		return NonCritical
	}
	return OK
}

// thresholds converts an answer to Get Sensor Thresholds: a mask of those that
// can be read, then the lower and the upper ones, non-critical first.
func thresholds(full *types.SDRFull, b []byte) *Thresholds {
	var t Thresholds
	for bit, p := range []**float64{&t.LowerNonCritical, &t.LowerCritical, &t.LowerNonRecoverable,
		&t.UpperNonCritical, &t.UpperCritical, &t.UpperNonRecoverable} {
		if b[0]&(1<<bit) != 0 {
			*p = finite(full.ConvertReading(b[1+bit]))
		}
	}
	if t == (Thresholds{}) {
		return nil
	}
	return &t
}

// recordThresholds is a full sensor record (table 43-1) in the form of that answer.
func recordThresholds(rec []byte) []byte {
	unr, ucr, unc, lnr, lcr, lnc := rec[36], rec[37], rec[38], rec[39], rec[40], rec[41]
	return []byte{rec[18] & 0x3f, lnc, lcr, lnr, unc, ucr, unr}
}

func unit(u types.SensorUnit) string {
	if !u.IsAnalog() {
		return ""
	}
	return strings.TrimSpace(u.String())
}

// finite drops what a formula of a damaged record gives, which JSON cannot hold.
func finite(f float64) *float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	f = math.Round(f*1e6) / 1e6 // of decimal exponents only noise is left there
	return &f
}
