package bmc

import "encoding/binary"

const (
	sdrVersion = 0x51
	lastRecord = 0xffff
	bmcAddress = 0x20
)

// repository returns the sensor data records: the controller, the frame's
// document, and each sensor.
func (b *BMC) repository() [][]byte {
	records := [][]byte{locator(0x12, []byte{bmcAddress, 0, 0, 0x8f, 0, 0, 0, 0x2e, 1, 0}, "Module BMC")}
	if b.cfg.Document != nil {
		records = append(records, locator(0x11, []byte{bmcAddress, fruDocument, 0x80, 0, 0, 0x10, 0, 0x17, 1, 0}, "Frame document"))
	}
	for _, s := range b.sensors {
		records = append(records, s.record())
	}
	for i, r := range records {
		binary.LittleEndian.PutUint16(r, uint16(i))
		r[4] = byte(len(r) - 5)
	}
	return records
}

// locator is a record of 11h (FRU device) or 12h (management controller).
func locator(kind byte, body []byte, name string) []byte {
	r := append([]byte{0, 0, sdrVersion, kind, 0}, body...)
	return append(append(r, 0xc0|byte(len(name))), name...)
}

// record is a full sensor record (IPMI 2.0 table 43-1).
func (s *sensorState) record() []byte {
	r := make([]byte, 48, 64)
	r[2], r[3] = sdrVersion, 0x01
	r[5], r[7], r[8], r[9] = bmcAddress, s.number, s.Kind.ent, s.number
	r[10], r[11] = 0x7f, 0x68 // everything initialised and on; thresholds can be read and set
	r[12], r[13] = s.Kind.sensorType, 0x01
	r[18], r[19] = s.mask(), s.mask()
	r[21] = s.Kind.unit
	r[24], r[25] = byte(s.Step), byte(s.Step>>8)<<6
	r[30] = 0x01 // the nominal reading is given
	r[31], r[34] = s.raw(s.Nominal), 0xff
	var events uint16 // that are logged, coming and going
	for i, at := range [limits]int{41, 40, 39, 38, 37, 36} {
		r[at] = s.raw(s.limits()[i])
		if s.limits()[i] != 0 {
			events |= 1 << eventOffsets[i]
		}
	}
	binary.LittleEndian.PutUint16(r[14:], events)
	binary.LittleEndian.PutUint16(r[16:], events)
	name := s.Name[:min(len(s.Name), 16)]
	r[47] = 0xc0 | byte(len(name))
	return append(r, name...)
}

func (b *BMC) sdrInfo([]byte) (byte, []byte) {
	out := []byte{sdrVersion, byte(len(b.sdrs)), 0, 0, 0}
	out = append(out, make([]byte, 8)...) // never changed
	return ccOK, append(out, 0x22)        // non-modal, reservations
}

func (b *BMC) reserveSDR([]byte) (byte, []byte) {
	b.reserved++
	return ccOK, binary.LittleEndian.AppendUint16(nil, b.reserved)
}

func (b *BMC) getSDR(data []byte) (byte, []byte) {
	reservation, id := binary.LittleEndian.Uint16(data), int(binary.LittleEndian.Uint16(data[2:]))
	at, count := int(data[4]), int(data[5])
	if at > 0 && reservation != b.reserved {
		return ccReservation, nil
	}
	if id == lastRecord {
		id = len(b.sdrs) - 1
	}
	if id >= len(b.sdrs) {
		return ccNotPresent, nil
	}
	next := uint16(id + 1)
	if id+1 == len(b.sdrs) {
		next = lastRecord
	}
	r := b.sdrs[id]
	if at > len(r) {
		return ccRange, nil
	}
	return ccOK, append(binary.LittleEndian.AppendUint16(nil, next), r[at:min(at+count, len(r))]...)
}
