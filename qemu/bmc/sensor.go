package bmc

import (
	"fmt"
	"math"
)

// A Sensor measures something of the module. Its readings are bytes on the
// wire: a value is Step times the byte.
type Sensor struct {
	Name    string // at most 16 characters
	Kind    Kind
	Step    int // 1 to 511, in the kind's unit
	Nominal float64
	// Upper and lower limits; 0 means that there is none.
	UpperWarning, UpperCritical, UpperFatal float64
	LowerWarning, LowerCritical, LowerFatal float64
}

// A Kind of sensor has a type, a unit and an entity in IPMI (tables 42-3, 43-15
// and 43-13).
type Kind struct {
	Unit                  string
	sensorType, unit, ent byte
}

// Kinds of sensors.
var (
	Temperature = Kind{"Cel", 0x01, 1, 0x07}  // of the board, degrees Celsius
	Processor   = Kind{"Cel", 0x01, 1, 0x03}  // of a processor
	Power       = Kind{"W", 0x0b, 6, 0x07}    // consumed
	Fan         = Kind{"RPM", 0x04, 18, 0x1d} // revolutions per minute
)

// A Reading is a sensor's present value and its state: "ok", "warning",
// "critical" or "fatal".
type Reading struct {
	Sensor
	Value float64
	State string
}

// sensorState is a sensor in use. Bits of a mask stand for the lower warning,
// critical and fatal limits, then the upper ones.
type sensorState struct {
	Sensor
	number byte
	value  float64
	status byte // mask of the limits that are passed
}

const limits = 6

func (s Sensor) limits() [limits]float64 {
	return [limits]float64{s.LowerWarning, s.LowerCritical, s.LowerFatal, s.UpperWarning, s.UpperCritical, s.UpperFatal}
}

// mask tells which limits there are.
func (s Sensor) mask() (m byte) {
	for i, l := range s.limits() {
		if l != 0 {
			m |= 1 << i
		}
	}
	return m
}

func (s Sensor) raw(value float64) byte {
	return byte(math.Round(min(max(value/float64(s.Step), 0), 255)))
}

// passed returns the mask of the limits that a value is at or beyond.
func (s Sensor) passed(value float64) (m byte) {
	v := s.raw(value)
	for i, l := range s.limits() {
		if l != 0 && (i < 3 && v <= s.raw(l) || i >= 3 && v >= s.raw(l)) {
			m |= 1 << i
		}
	}
	return m
}

func stateOf(passed byte) string {
	switch {
	case passed&0x24 != 0:
		return "fatal"
	case passed&0x12 != 0:
		return "critical"
	case passed&0x09 != 0:
		return "warning"
	}
	return "ok"
}

// Readings returns the present values of all sensors.
func (b *BMC) Readings() []Reading {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Reading
	for _, s := range b.sensors {
		out = append(out, Reading{Sensor: s.Sensor, Value: s.value, State: stateOf(s.status)})
	}
	return out
}

// SetSensor makes a sensor read a value. A limit that is passed on the way is
// an entry of the event log.
func (b *BMC) SetSensor(name string, value float64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for i := range b.sensors {
		if b.sensors[i].Name == name {
			b.setSensor(&b.sensors[i], value)
			return nil
		}
		names = append(names, b.sensors[i].Name)
	}
	return fmt.Errorf("no sensor %q; there are %q", name, names)
}

// HealSensors puts all sensors back to their nominal values.
func (b *BMC) HealSensors() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.sensors {
		b.setSensor(&b.sensors[i], b.sensors[i].Nominal)
	}
}

func (b *BMC) setSensor(s *sensorState, value float64) {
	s.value = value
	b.judge(s)
}

// eventOffsets are those of "going low" and "going high" in the generic event
// type 1 (IPMI 2.0 table 42-2), by limit.
var eventOffsets = [limits]byte{0x00, 0x02, 0x04, 0x07, 0x09, 0x0b}

// judge compares a sensor with its limits and logs what changed.
func (b *BMC) judge(s *sensorState) {
	now := s.passed(s.value)
	for i, l := range s.limits() {
		if changed := (now ^ s.status) & (1 << i); changed != 0 {
			var direction byte = 0x80 // gone
			if now&changed != 0 {
				direction = 0
			}
			b.logEvent(event{s.Kind.sensorType, s.number, direction | 0x01, [3]byte{0x50 | eventOffsets[i], s.raw(s.value), s.raw(l)}})
		}
	}
	s.status = now
}

func (b *BMC) sensor(number byte) *sensorState {
	if i := int(number) - 1; i >= 0 && i < len(b.sensors) {
		return &b.sensors[i]
	}
	return nil
}

func (b *BMC) sensorReading(data []byte) (byte, []byte) {
	s := b.sensor(data[0])
	if s == nil {
		return ccNotPresent, nil
	}
	return ccOK, []byte{s.raw(s.value), 0xc0, 0xc0 | s.status} // events and scanning on
}

func (b *BMC) getThresholds(data []byte) (byte, []byte) {
	s := b.sensor(data[0])
	if s == nil {
		return ccNotPresent, nil
	}
	out := []byte{s.mask()}
	for _, l := range s.limits() {
		out = append(out, s.raw(l))
	}
	return ccOK, out
}

func (b *BMC) setThresholds(data []byte) (byte, []byte) {
	s := b.sensor(data[0])
	if s == nil {
		return ccNotPresent, nil
	}
	if data[1]&^s.mask() != 0 {
		return ccInvalidField, nil
	}
	for i, l := range []*float64{&s.LowerWarning, &s.LowerCritical, &s.LowerFatal, &s.UpperWarning, &s.UpperCritical, &s.UpperFatal} {
		if data[1]&(1<<i) != 0 {
			*l = float64(data[2+i]) * float64(s.Step)
		}
	}
	b.judge(s)
	return ccOK, nil
}
