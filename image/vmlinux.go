package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

// ExtractVmlinux returns the ELF kernel that a bzImage carries compressed. A
// virtual machine boots it at once by its PVH entry, where the bzImage would
// first unpack itself (five seconds of xz without KVM).
//
// The payload is found by the setup header, see Documentation/x86/boot.rst:
// setup_sects, payload_offset and payload_length. xz with or without the x86
// filter, lz4 in its legacy frame, zstd and gzip are understood.
func ExtractVmlinux(bzImage []byte) ([]byte, error) {
	payload, size, err := payload(bzImage)
	if err != nil {
		return nil, fmt.Errorf("bzImage: %w", err)
	}
	vmlinux, err := decompress(payload, size)
	if err != nil {
		return nil, fmt.Errorf("bzImage payload: %w", err)
	}
	if len(vmlinux) != size {
		return nil, fmt.Errorf("bzImage payload: %d bytes unpacked, header says %d", len(vmlinux), size)
	}
	if !bytes.HasPrefix(vmlinux, []byte(elf.ELFMAG)) {
		return nil, errors.New("bzImage payload: not an ELF file")
	}
	return vmlinux, nil
}

const maxVmlinux = 512 << 20 // bytes; five times what Debian's largest has

// payload is the compressed kernel and the size in bytes it unpacks to, which
// the build appends to it.
func payload(bz []byte) (data []byte, size int, err error) {
	if len(bz) < 0x250 || string(bz[0x202:0x206]) != "HdrS" {
		return nil, 0, errors.New("no setup header")
	}
	if v := binary.LittleEndian.Uint16(bz[0x206:]); v < 0x208 {
		return nil, 0, fmt.Errorf("boot protocol %#x, the payload is described from 0x208 on", v)
	}
	setup := (uint64(bz[0x1f1]) + 1) * 512
	start := setup + uint64(binary.LittleEndian.Uint32(bz[0x248:]))
	end := start + uint64(binary.LittleEndian.Uint32(bz[0x24c:]))
	if end > uint64(len(bz)) || end-start < 16 {
		return nil, 0, errors.New("payload lies outside the file")
	}
	size = int(binary.LittleEndian.Uint32(bz[end-4:]))
	if size > maxVmlinux {
		return nil, 0, fmt.Errorf("payload unpacks to %d bytes, which cannot be", size)
	}
	return bz[start : end-4], size, nil
}

func decompress(data []byte, size int) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, xzMagic):
		return unxz(data, size)
	case bytes.HasPrefix(data, []byte{0x02, 0x21, 0x4c, 0x18}):
		return unlz4(data[4:], size)
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return d.DecodeAll(data, make([]byte, 0, size))
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return readSized(r, size)
	}
	return nil, fmt.Errorf("unknown compression, starts with % x", data[:8])
}

func readSized(r io.Reader, size int) ([]byte, error) {
	out := make([]byte, size)
	_, err := io.ReadFull(r, out)
	return out, err
}

// unlz4 reads the legacy frame: blocks of at most 8 MiB, each after its
// compressed size.
func unlz4(data []byte, size int) ([]byte, error) {
	out := make([]byte, size)
	at := 0
	for len(data) >= 4 {
		n := int(binary.LittleEndian.Uint32(data))
		if n > len(data)-4 {
			return nil, errors.New("lz4: block runs past the end")
		}
		m, err := lz4.UncompressBlock(data[4:4+n], out[at:min(at+8<<20, size)])
		if err != nil {
			return nil, fmt.Errorf("lz4: %w", err)
		}
		at, data = at+m, data[4+n:]
	}
	return out[:at], nil
}

var xzMagic = []byte{0xfd, '7', 'z', 'X', 'Z', 0}

const (
	xzFilterX86   = 0x04
	xzFilterLZMA2 = 0x21
	xzCheckCRC32  = 1
)

// unxz reads the first block of an xz stream and checks its CRC-32. The kernel
// is packed as one block with the x86 filter before LZMA2, which the xz
// package does not know. The format is the .xz File Format, version 1.2.
func unxz(data []byte, size int) ([]byte, error) {
	if len(data) < 24 || data[7] != xzCheckCRC32 {
		return nil, errors.New("xz: not a stream with CRC-32")
	}
	block := data[12:] // past the stream header
	headerLen := (int(block[0]) + 1) * 4
	if headerLen > len(block) {
		return nil, errors.New("xz: short block header")
	}
	x86, dictCap, err := xzFilters(block[:headerLen])
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	body := bytes.NewReader(block[headerLen:])
	r, err := lzma.Reader2Config{DictCap: dictCap}.NewReader2(body)
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	out, err := readSized(r, size)
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, fmt.Errorf("xz: more data than announced (%v)", err)
	}
	if x86 {
		undoX86(out)
	}
	used := len(block) - body.Len()
	used = (used + 3) &^ 3 // block padding
	if used+4 > len(block) {
		return nil, errors.New("xz: no room for the check")
	}
	if got, want := crc32.ChecksumIEEE(out), binary.LittleEndian.Uint32(block[used:]); got != want {
		return nil, fmt.Errorf("xz: CRC-32 is %08x, want %08x", got, want)
	}
	return out, nil
}

// xzFilters reads a block header: whether the x86 filter is used, and the
// dictionary capacity in bytes.
func xzFilters(header []byte) (x86 bool, dictCap int, err error) {
	flags := header[1]
	r := bytes.NewReader(header[2 : len(header)-4])
	for bit := byte(0x40); bit != 0; bit <<= 1 { // compressed and unpacked size, both optional
		if flags&bit != 0 {
			if _, err := binary.ReadUvarint(r); err != nil {
				return false, 0, err
			}
		}
	}
	for range int(flags&3) + 1 {
		id, err1 := binary.ReadUvarint(r)
		n, err2 := binary.ReadUvarint(r)
		if err := errors.Join(err1, err2); err != nil {
			return false, 0, fmt.Errorf("filter: %w", err)
		}
		props := make([]byte, min(n, 64))
		if _, err := io.ReadFull(r, props); err != nil {
			return false, 0, fmt.Errorf("filter: %w", err)
		}
		switch {
		case id == xzFilterX86 && n == 0 && !x86:
			x86 = true
		case id == xzFilterLZMA2 && n == 1 && props[0] < 40:
			dictCap = (2 | int(props[0]&1)) << (props[0]/2 + 11)
		default:
			return false, 0, fmt.Errorf("filter %#x with %d bytes of properties is not supported", id, n)
		}
	}
	if dictCap == 0 {
		return false, 0, errors.New("no LZMA2 filter")
	}
	return x86, dictCap, nil
}
