package bmc

import "encoding/binary"

// A Board is what an area of a FRU inventory says about a thing.
type Board struct {
	Manufacturer string
	Name         string
	Part         string
	Serial       string
}

const chassisBlade = 0x1c // SMBIOS chassis type: blade; 1Dh would be its enclosure

// inventory returns FRU 0 (Platform Management FRU Information Storage
// Definition 1.0 revision 1.3): a common header and the areas.
func (c Config) inventory() []byte {
	areas := [][]byte{
		area([]byte{1, 0, chassisBlade}, c.Chassis.Part, c.Chassis.Serial),
		area([]byte{1, 0, 0, 0, 0, 0}, c.Board.Manufacturer, c.Board.Name, c.Board.Serial, c.Board.Part, ""),
		area([]byte{1, 0, 0}, c.Product.Manufacturer, c.Product.Name, c.Product.Part, "1", c.Product.Serial, "", ""),
	}
	head := []byte{1, 0, 0, 0, 0, 0, 0}
	at := 1 // in units of 8 bytes, behind the header
	var body []byte
	for i, a := range areas {
		head[2+i] = byte(at)
		at += len(a) / 8
		body = append(body, a...)
	}
	return append(append(head, checksum(head)), body...)
}

// area makes an info area: its head, the fields with their types and lengths,
// the end mark, padding and checksum. The head's second byte is the length.
func area(head []byte, fields ...string) []byte {
	b := append([]byte(nil), head...)
	for _, f := range fields {
		f = f[:min(len(f), 62)]
		if len(f) == 1 {
			f += " " // one character of type 3 would be the end mark
		}
		b = append(b, 0xc0|byte(len(f))) // type 3: 8-bit Latin 1
		b = append(b, f...)
	}
	b = append(b, 0xc1)
	for len(b)%8 != 7 {
		b = append(b, 0)
	}
	b[1] = byte((len(b) + 1) / 8)
	return append(b, checksum(b))
}

// FRU devices: the module itself, and the frame's document.
const (
	fruModule   = 0
	fruDocument = 1
)

// fruInfo opens a FRU: what is read afterwards is its contents at this moment.
func (b *BMC) fruInfo(data []byte) (byte, []byte) {
	switch {
	case data[0] == fruModule:
		b.frus[fruModule] = b.cfg.inventory()
	case data[0] == fruDocument && b.cfg.Document != nil:
		b.frus[fruDocument] = b.cfg.Document()
	default:
		return ccNotPresent, nil
	}
	size := len(b.frus[data[0]])
	return ccOK, append(binary.LittleEndian.AppendUint16(nil, uint16(size)), 0) // by bytes
}

func (b *BMC) readFRU(data []byte) (byte, []byte) {
	fru, ok := b.frus[data[0]]
	if !ok {
		if code, _ := b.fruInfo(data[:1]); code != ccOK {
			return code, nil
		}
		fru = b.frus[data[0]]
	}
	at, count := int(binary.LittleEndian.Uint16(data[1:])), int(data[3])
	if at >= len(fru) {
		return ccRange, nil
	}
	part := fru[at:min(at+count, len(fru))]
	return ccOK, append([]byte{byte(len(part))}, part...)
}
