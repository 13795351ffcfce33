package dm

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Sizes and flags of include/uapi/linux/dm-ioctl.h.
const (
	headerSize     = 312 // struct dm_ioctl, its 7 bytes of data padding included
	dataStart      = headerSize
	specSize       = 40 // struct dm_target_spec
	maxName        = 127
	maxUUID        = 128
	flagReadOnly   = 1 << 0
	flagSuspend    = 1 << 1
	flagActive     = 1 << 5
	flagInactive   = 1 << 6
	flagTable      = 1 << 4 // DM_STATUS_TABLE_FLAG: the table instead of the status
	flagBufferFull = 1 << 8
	flagNoFlush    = 1 << 11
	flagDataOut    = 1 << 16
)

// header holds the fields of struct dm_ioctl that this package uses.
type header struct {
	size    uint32
	flags   uint32
	targets uint32
	open    int32
	event   uint32
	dev     uint64
	name    string
	uuid    string
}

// put writes h in the kernel's layout into the first headerSize bytes of b.
func (h header) put(b []byte) error {
	if h.name == "" && h.dev == 0 && h.uuid == "" && h.targets != 0 {
		return fmt.Errorf("table without a device name")
	}
	if len(h.name) > maxName || len(h.uuid) > maxUUID {
		return fmt.Errorf("name %q or uuid %q is too long: %d and %d bytes at most", h.name, h.uuid, maxName, maxUUID)
	}
	le := binary.LittleEndian
	le.PutUint32(b[0:], 4) // version 4.0.0 is answered by every kernel
	le.PutUint32(b[12:], h.size)
	le.PutUint32(b[16:], dataStart)
	le.PutUint32(b[20:], h.targets)
	le.PutUint32(b[28:], h.flags)
	le.PutUint32(b[32:], h.event)
	le.PutUint64(b[40:], h.dev)
	copy(b[48:], h.name)
	copy(b[176:], h.uuid)
	return nil
}

// parseHeader reads what the kernel left in the first headerSize bytes of b.
func parseHeader(b []byte) header {
	le := binary.LittleEndian
	return header{
		size:    le.Uint32(b[12:]),
		targets: le.Uint32(b[20:]),
		open:    int32(le.Uint32(b[24:])),
		flags:   le.Uint32(b[28:]),
		event:   le.Uint32(b[32:]),
		dev:     le.Uint64(b[40:]),
		name:    cstring(b[48:176]),
		uuid:    cstring(b[176:305]),
	}
}

// encodeTargets lays a table out as the chain of struct dm_target_spec and
// parameter strings that DM_TABLE_LOAD reads.
func encodeTargets(table []Target) ([]byte, error) {
	var out []byte
	for _, t := range table {
		if len(t.Type) > 15 || t.Type == "" {
			return nil, fmt.Errorf("target type %q: 1 to 15 bytes", t.Type)
		}
		n := specSize + len(t.Params) + 1
		n = (n + 7) &^ 7
		rec := make([]byte, n)
		le := binary.LittleEndian
		le.PutUint64(rec[0:], t.Start)
		le.PutUint64(rec[8:], t.Length)
		le.PutUint32(rec[20:], uint32(n))
		copy(rec[24:], t.Type)
		copy(rec[specSize:], t.Params)
		out = append(out, rec...)
	}
	return out, nil
}

// parseTargets reads the answer of DM_TABLE_STATUS: count targets in b, each
// giving the offset of the next counted from the start of b.
func parseTargets(b []byte, count uint32) ([]Target, error) {
	var out []Target
	off := 0
	for i := uint32(0); i < count; i++ {
		if off < 0 || off+specSize > len(b) {
			return nil, fmt.Errorf("status answer cut short at target %d", i)
		}
		le := binary.LittleEndian
		rec := b[off:]
		next := int(le.Uint32(rec[20:]))
		end := len(b)
		if next > off+specSize && next <= len(b) {
			end = next
		}
		out = append(out, Target{
			Start:  le.Uint64(rec[0:]),
			Length: le.Uint64(rec[8:]),
			Type:   cstring(rec[24:40]),
			Params: cstring(b[off+specSize : end]),
		})
		off = next
	}
	return out, nil
}

// parseNames reads the answer of DM_LIST_DEVICES: records of dev, offset of
// the next record from this one, and a name.
func parseNames(b []byte) ([]Name, error) {
	var out []Name
	for off := 0; ; {
		if off+12 > len(b) {
			return nil, fmt.Errorf("device list cut short")
		}
		le := binary.LittleEndian
		dev, next := le.Uint64(b[off:]), int(le.Uint32(b[off+8:]))
		if dev == 0 {
			return out, nil // one empty record: no devices
		}
		out = append(out, Name{Name: cstring(b[off+12:]), Minor: minor(dev)})
		if next == 0 {
			return out, nil
		}
		off += next
	}
}

// minor takes the minor number out of the kernel's 64-bit huge_encode_dev.
func minor(dev uint64) uint32 { return uint32(dev&0xff | (dev>>12)&0xfff00) }

func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
