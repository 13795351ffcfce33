package bmc

import (
	"encoding/binary"
	"slices"
	"time"
)

// selRoom is how many entries the event log holds. A full one takes no more,
// as a real one.
const selRoom = 1024

// Numbers of the sensors that have no reading, for the event log.
const (
	watchdogSensor = 0x80
	powerSensor    = 0x81
)

type eventLog struct {
	records    [][]byte // 16 bytes each, IPMI 2.0 table 32-1
	next       uint16
	lastAdd    uint32
	lastErase  uint32
	reserved   uint16
	overflowed bool
}

// An event is a record of the system event log's type 2.
type event struct {
	sensorType byte
	sensor     byte
	direction  byte // and event type
	data       [3]byte
}

// A Record is an entry of the event log.
type Record struct {
	ID   uint16
	Time time.Time // zero: the record has none
	Raw  []byte    // all 16 bytes
}

// Log returns the event log, the oldest first.
func (b *BMC) Log() []Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Record
	for _, r := range b.sel.records {
		e := Record{ID: binary.LittleEndian.Uint16(r), Raw: slices.Clone(r)}
		if stamped(r[2]) {
			e.Time = time.Unix(int64(binary.LittleEndian.Uint32(r[3:])), 0)
		}
		out = append(out, e)
	}
	return out
}

// PowerChanged puts into the event log that the module's power went on or off
// (IPMI 2.0 table 42-3: system ACPI power state).
func (b *BMC) PowerChanged(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var offset byte // S0, working
	if !on {
		offset = 0x06 // S4 or S5, soft-off
		b.watchdog.stop()
	}
	b.logEvent(event{0x22, powerSensor, 0x6f, [3]byte{offset, 0xff, 0xff}})
}

func (b *BMC) logEvent(e event) {
	r := make([]byte, 16)
	r[2] = 0x02
	r[7] = bmcAddress
	r[9] = 0x04
	r[10], r[11], r[12] = e.sensorType, e.sensor, e.direction
	copy(r[13:], e.data[:])
	b.addRecord(r)
}

func stamped(recordType byte) bool { return recordType < 0xe0 }

// addRecord numbers and dates a record. False means that the log is full.
func (b *BMC) addRecord(r []byte) bool {
	l := &b.sel
	if len(l.records) >= selRoom {
		l.overflowed = true
		return false
	}
	l.next++
	if l.next == 0 || l.next == lastRecord {
		l.next = 1
	}
	binary.LittleEndian.PutUint16(r, l.next)
	l.lastAdd = b.now()
	if stamped(r[2]) {
		binary.LittleEndian.PutUint32(r[3:], l.lastAdd)
	}
	l.records = append(l.records, r)
	l.reserved++ // a reservation ends when the log changes
	return true
}

func (b *BMC) selInfo([]byte) (byte, []byte) {
	l := &b.sel
	out := binary.LittleEndian.AppendUint16([]byte{sdrVersion}, uint16(len(l.records)))
	out = binary.LittleEndian.AppendUint16(out, uint16((selRoom-len(l.records))*16))
	out = binary.LittleEndian.AppendUint32(out, l.lastAdd)
	out = binary.LittleEndian.AppendUint32(out, l.lastErase)
	var support byte = 0x02 // reservations
	if l.overflowed {
		support |= 0x80
	}
	return ccOK, append(out, support)
}

func (b *BMC) reserveSEL([]byte) (byte, []byte) {
	b.sel.reserved++
	return ccOK, binary.LittleEndian.AppendUint16(nil, b.sel.reserved)
}

// getSEL: id 0 is the first record, FFFFh the last.
func (b *BMC) getSEL(data []byte) (byte, []byte) {
	reservation, id := binary.LittleEndian.Uint16(data), binary.LittleEndian.Uint16(data[2:])
	at, count := int(data[4]), int(data[5])
	l := &b.sel
	if at > 0 && reservation != l.reserved {
		return ccReservation, nil
	}
	i := slices.IndexFunc(l.records, func(r []byte) bool { return binary.LittleEndian.Uint16(r) == id })
	switch {
	case len(l.records) == 0:
		return ccNotPresent, nil
	case id == 0:
		i = 0
	case id == lastRecord:
		i = len(l.records) - 1
	case i < 0:
		return ccNotPresent, nil
	}
	var next uint16 = lastRecord
	if i+1 < len(l.records) {
		next = binary.LittleEndian.Uint16(l.records[i+1])
	}
	if at > 16 {
		return ccRange, nil
	}
	return ccOK, append(binary.LittleEndian.AppendUint16(nil, next), l.records[i][at:min(at+count, 16)]...)
}

const ccSELFull = 0xc4 // out of space

func (b *BMC) addSEL(data []byte) (byte, []byte) {
	r := slices.Clone(data[:16])
	if !b.addRecord(r) {
		return ccSELFull, nil
	}
	return ccOK, r[:2]
}

// platformEvent is an event from the module's software: revision, sensor type,
// number, direction and type, data.
func (b *BMC) platformEvent(data []byte) (byte, []byte) {
	if len(data) > 7 { // over the system interface, the generator leads
		data = data[1:]
	}
	b.logEvent(event{data[1], data[2], data[3], [3]byte(data[4:7])})
	return ccOK, nil
}

func (b *BMC) clearSEL(data []byte) (byte, []byte) {
	if binary.LittleEndian.Uint16(data) != b.sel.reserved {
		return ccReservation, nil
	}
	if string(data[2:5]) != "CLR" {
		return ccInvalidField, nil
	}
	if data[5] == 0xaa {
		b.sel = eventLog{lastErase: b.now(), lastAdd: b.sel.lastAdd, reserved: b.sel.reserved + 1}
	}
	return ccOK, []byte{1} // done
}

func (b *BMC) selTime([]byte) (byte, []byte) {
	return ccOK, binary.LittleEndian.AppendUint32(nil, b.now())
}

func (b *BMC) setSELTime(data []byte) (byte, []byte) {
	b.clock = time.Until(time.Unix(int64(binary.LittleEndian.Uint32(data)), 0))
	return ccOK, nil
}
