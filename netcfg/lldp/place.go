package lldp

import (
	"fmt"
	"strconv"
	"strings"
)

// A Place is an interconnect bay of a frame.
type Place struct {
	Frame string // serial number
	Bay   int
}

const bayWords = " interconnect bay "

// PlaceOf reads the place out of the name that an interconnect module gives
// itself, such as "VF0001 interconnect bay 3". False for anything else.
func PlaceOf(systemName string) (Place, bool) {
	frame, bay, ok := strings.Cut(systemName, bayWords)
	n, err := strconv.Atoi(bay)
	if !ok || frame == "" || err != nil || n < 1 || strconv.Itoa(n) != bay {
		return Place{}, false
	}
	return Place{frame, n}, true
}

func (p Place) String() string { return fmt.Sprintf("frame %s, interconnect bay %d", p.Frame, p.Bay) }

// Crossed says what is wrong with the cable of a port whose slot leads to an
// interconnect bay of a frame, when this neighbour is at its other end; ""
// if nothing is, or the neighbour is no interconnect module.
func Crossed(port string, slot int, frame string, systemName string) string {
	at, ok := PlaceOf(systemName)
	switch {
	case !ok:
		return ""
	case at.Bay != slot:
		return fmt.Sprintf("%s (slot %d) is cabled to interconnect bay %d, not %d: exchange the cables", port, slot, at.Bay, slot)
	case frame != "" && at.Frame != frame:
		return fmt.Sprintf("%s (slot %d) is cabled to frame %s, not to its own, %s: move the cable", port, slot, at.Frame, frame)
	}
	return ""
}
