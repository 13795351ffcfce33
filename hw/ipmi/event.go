package ipmi

import (
	"fmt"

	"github.com/bougou/go-ipmi/pkg/types"
)

// Event is one of ours for the system event log. It outlives the module's disks
// and can be read by whatever tool an operator has, so each kind is a standard
// record (type 02h) of the sensor type that comes nearest, written by the
// generator of system management software; what no sensor type knows is a
// record of an OEM sensor type.
type Event struct {
	Kind EventKind
	// Bay is the bay that a Fence cut off from power, such as "device bay 3".
	Bay Bay
	// Code says more: the drive's number for DiskFailed, DiskReplaced and
	// DiskErrors, a Maintenance code for Maintenance, a network for LinkLost and
	// LinkBack. Up to 255.
	Code byte
}

// EventKind is what happened.
type EventKind int

// The kinds of events.
const (
	_            EventKind = iota
	Started                // the appliance answers
	DiskFailed             // a disk of this module failed or went away
	DiskReplaced           // it is back, or another is
	Maintenance            // the module stopped its roles, for the reason in Code
	MaintenanceEnded
	Fence      // this module cut another one off from power
	Updated    // the module starts another version of its image
	DiskErrors // a disk ended commands in an error
	LinkLost   // no port of the network in Code has a carrier
	LinkBack   // one has again
)

// Networks, the Code of LinkLost and LinkBack.
const (
	NetworkManagement   byte = 1
	NetworkInterconnect byte = 2
)

var networkText = map[byte]string{NetworkManagement: "management port", NetworkInterconnect: "interconnect ports"}

// Reasons for Maintenance, the Code of the event.
const (
	ReasonOperator  byte = 1 // somebody asked for it
	ReasonBay       byte = 2 // the sources of the bay's identity disagree
	ReasonCrashLoop byte = 3 // a service does not stay up
	ReasonDisk      byte = 4 // no usable data disk
)

var reasonText = map[byte]string{
	ReasonOperator: "asked for", ReasonBay: "sources of the bay's identity disagree",
	ReasonCrashLoop: "a service does not stay up", ReasonDisk: "no usable data disk",
}

// Bay is a place in a frame, in the two bytes that a record has for it.
type Bay struct {
	Kind   byte // 1 appliance, 2 interconnect, 3 device
	Number byte
}

var bayKinds = []string{"unknown", "appliance", "interconnect", "device"}

// String is the bay as an operator says it.
func (b Bay) String() string {
	if int(b.Kind) >= len(bayKinds) {
		return fmt.Sprintf("bay %d", b.Number)
	}
	return fmt.Sprintf("%s bay %d", bayKinds[b.Kind], b.Number)
}

// BayOf makes a Bay of a kind as hw spells it and a number.
func BayOf(kind string, number int) Bay {
	for i, k := range bayKinds {
		if k == kind && number >= 0 && number < 256 {
			return Bay{byte(i), byte(number)}
		}
	}
	return Bay{}
}

// String says what happened.
func (e Event) String() string {
	switch e.Kind {
	case Started:
		return "appliance started"
	case DiskFailed:
		return fmt.Sprintf("disk %d failed or was removed", e.Code)
	case DiskReplaced:
		return fmt.Sprintf("disk %d is there again", e.Code)
	case Maintenance:
		text := reasonText[e.Code]
		if text == "" {
			text = fmt.Sprintf("reason %d", e.Code)
		}
		return "maintenance: " + text
	case MaintenanceEnded:
		return "maintenance ended"
	case Fence:
		return e.Bay.String() + " was cut off from power"
	case Updated:
		return "another version of the image starts"
	case DiskErrors:
		return fmt.Sprintf("disk %d has I/O errors", e.Code)
	case LinkLost:
		return "no carrier: " + networkName(e.Code)
	case LinkBack:
		return "carrier is back: " + networkName(e.Code)
	}
	return fmt.Sprintf("event %d", int(e.Kind))
}

func networkName(code byte) string {
	if text := networkText[code]; text != "" {
		return text
	}
	return fmt.Sprintf("network %d", code)
}

// Ends returns the condition that e ends, such as DiskFailed for DiskReplaced.
func (e Event) Ends() (Event, bool) {
	switch e.Kind {
	case DiskReplaced:
		e.Kind = DiskFailed
	case MaintenanceEnded:
		e.Kind = Maintenance
	case LinkBack:
		e.Kind = LinkLost
	default:
		return Event{}, false
	}
	return e, true
}

// Sensor types (table 42-3) and the OEM one that is ours.
const (
	sensorDriveSlot     = 0x0d
	sensorOSBoot        = 0x1f
	sensorLAN           = 0x27
	sensorVersionChange = 0x2b
	sensorBaystream     = 0xc0

	sensorSpecific = 0x6f // event type
	bytesAreOurs   = 0xa0 // event data 2 and 3 hold OEM codes
)

// shape is how a kind looks in a record: event data 1 to 3, and whether a
// condition ends by it.
type shape struct {
	sensor byte
	data   [3]byte
	ended  bool
}

func (e Event) shape() shape {
	switch e.Kind {
	case Started:
		return shape{sensorOSBoot, [3]byte{0x01, 0xff, 0xff}, false} // C: boot completed
	case DiskFailed:
		return shape{sensorDriveSlot, [3]byte{bytesAreOurs | 0x01, 0, e.Code}, false} // drive fault
	case DiskReplaced:
		return shape{sensorDriveSlot, [3]byte{bytesAreOurs | 0x01, 0, e.Code}, true}
	case Updated:
		return shape{sensorVersionChange, [3]byte{0x01, 0xff, 0xff}, false} // firmware or software change detected
	case DiskErrors:
		return shape{sensorDriveSlot, [3]byte{bytesAreOurs | 0x02, 0, e.Code}, false} // predictive failure
	case LinkLost:
		return shape{sensorLAN, [3]byte{bytesAreOurs, e.Code, 0}, false} // heartbeat lost
	case LinkBack:
		return shape{sensorLAN, [3]byte{bytesAreOurs, e.Code, 0}, true}
	case Maintenance:
		return shape{sensorBaystream, [3]byte{bytesAreOurs, e.Code, 0}, false}
	case MaintenanceEnded:
		return shape{sensorBaystream, [3]byte{bytesAreOurs, e.Code, 0}, true}
	}
	return shape{sensorBaystream, [3]byte{bytesAreOurs | 0x01, e.Bay.Kind, e.Bay.Number}, false}
}

// record encodes the event for Add SEL Entry; id and time are the controller's.
func (e Event) record() (b [16]byte) {
	s := e.shape()
	b[2] = 0x02 // system event record
	b[7] = generatorBaystream
	b[9] = 0x04 // event message format of IPMI 2.0
	b[10] = s.sensor
	b[12] = sensorSpecific
	if s.ended {
		b[12] |= 0x80
	}
	copy(b[13:], s.data[:])
	return b
}

// eventOf finds our event in a record, if it is one.
func eventOf(s *types.SELStandard) (Event, bool) {
	if byte(s.GeneratorID) != generatorBaystream || byte(s.EventReadingType) != sensorSpecific {
		return Event{}, false
	}
	d := s.EventData
	for k := Started; k <= LinkBack; k++ {
		e := Event{Kind: k}
		switch k {
		case DiskFailed, DiskReplaced, DiskErrors:
			e.Code = d.EventData3
		case Maintenance, MaintenanceEnded, LinkLost, LinkBack:
			e.Code = d.EventData2
		case Fence:
			e.Bay = Bay{d.EventData2, d.EventData3}
		}
		want := e.shape()
		if want.sensor == byte(s.SensorType) && want.ended == bool(s.EventDir) && want.data == [3]byte{d.EventData1, d.EventData2, d.EventData3} {
			return e, true
		}
	}
	return Event{}, false
}
