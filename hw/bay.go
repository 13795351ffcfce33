package hw

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kind is the kind of bay a module sits in.
type Kind string

// The kinds of bays.
const (
	Unknown      Kind = "unknown"      // not in a frame, or a frame that does not say
	Appliance    Kind = "appliance"    // our own modules
	Interconnect Kind = "interconnect" // switches
	Device       Kind = "device"       // compute modules
)

// Bay is a module's identity and its place in a frame.
type Bay struct {
	Kind Kind `json:"kind"`
	// Number counts from 1 within the kind; 0 if the kind is unknown.
	Number int `json:"number"`
	// Location is the place as the firmware spells it.
	Location string `json:"location"`
	// Frame is the frame's serial number (that of the chassis).
	Frame string `json:"frame"`
	// Serial and UUID are the module's own.
	Serial string `json:"serial"`
	UUID   string `json:"uuid"`

	Manufacturer string `json:"manufacturer"`
	Product      string `json:"product"`
}

// String is the bay as an operator says it: "appliance bay 1 of frame F1".
func (b Bay) String() string {
	s := "unknown bay"
	if b.Kind != Unknown && b.Kind != "" {
		s = fmt.Sprintf("%s bay %d", b.Kind, b.Number)
	}
	if b.Frame != "" {
		s += " of frame " + b.Frame
	}
	return s
}

// ProbeBay reads the identity of the module this process runs on, below root,
// from its SMBIOS structures: system (type 1), baseboard (type 2: the bay) and
// chassis (type 3: the frame). On a machine without SMBIOS the error wraps
// fs.ErrNotExist. A location that names no bay of ours gives Kind Unknown and
// no error: ordinary machines have such.
func ProbeBay(root string) (Bay, error) {
	t, err := readTables(root)
	b, bayErr := bayOf(t)
	if err := errors.Join(err, bayErr); err != nil {
		return b, fmt.Errorf("bay identity: %w", err)
	}
	return b, nil
}

// bayOf makes the identity from the structures. Two boards that name
// different bays are an error, and the bay unknown: never guess a place.
func bayOf(t tables) (Bay, error) {
	b := Bay{
		Kind: Unknown, Frame: t.chassis, Serial: t.serial, UUID: t.uuid,
		Manufacturer: t.manufacturer, Product: t.product,
	}
	if len(t.location) > 0 {
		b.Location = t.location[0]
	}
	for _, l := range t.location {
		kind, n := ParseLocation(l)
		switch {
		case kind == Unknown:
		case b.Kind == Unknown:
			b.Kind, b.Number, b.Location = kind, n, l
		case kind != b.Kind || n != b.Number:
			err := fmt.Errorf("boards disagree about their place: %q and %q: correct the frame's SMBIOS data", b.Location, l)
			b.Kind, b.Number = Unknown, 0
			return b, err
		}
	}
	return b, nil
}

// maxBay bounds bay numbers: no frame has as many, so more is garbage.
const maxBay = 99

// ParseLocation parses a location in a chassis of the form "appliance bay 1",
// in any case and spacing. Everything else is Unknown, 0.
func ParseLocation(s string) (Kind, int) {
	f := strings.Fields(strings.ToLower(s))
	if len(f) != 3 || f[1] != "bay" {
		return Unknown, 0
	}
	n, err := strconv.ParseUint(f[2], 10, 8)
	if err != nil || n < 1 || n > maxBay {
		return Unknown, 0
	}
	switch k := Kind(f[0]); k {
	case Appliance, Interconnect, Device:
		return k, int(n)
	}
	return Unknown, 0
}
