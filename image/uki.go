package image

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// StubPackage holds the stub that makes an EFI program of a kernel, at
// StubPath.
const (
	StubPackage = "systemd-boot-efi"
	StubPath    = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
)

// UKIParts are what a unified kernel image joins.
type UKIParts struct {
	Stub      []byte // an EFI program that starts what its sections hold
	OSRelease []byte // see os-release(5)
	Cmdline   string // of the kernel
	Uname     string // release of the kernel
	Linux     []byte // a bzImage
	Initrd    []byte
}

// UKI joins kernel, initramfs and command line to one EFI program, which
// firmware can measure, verify and start as a whole. The format is the Unified
// Kernel Image specification on PE/COFF; it is not signed here.
func UKI(parts UKIParts) ([]byte, error) {
	img, err := newPE(parts.Stub)
	if err != nil {
		return nil, fmt.Errorf("uki: stub: %w", err)
	}
	for _, s := range []struct {
		name string
		data []byte
	}{
		{".osrel", parts.OSRelease},
		{".cmdline", []byte(strings.TrimSpace(parts.Cmdline))},
		{".uname", []byte(parts.Uname)},
		{".linux", parts.Linux},
		{".initrd", parts.Initrd},
	} {
		if len(s.data) == 0 {
			return nil, fmt.Errorf("uki: nothing for section %s", s.name)
		}
		if err := img.add(s.name, s.data); err != nil {
			return nil, fmt.Errorf("uki: section %s: %w", s.name, err)
		}
	}
	return img.finish(), nil
}

// Offsets of fields, from the start of the part of the header they are in.
const (
	coffSections    = 2
	coffSymbols     = 8
	optDataSize     = 8
	optImageSize    = 56
	optChecksum     = 64
	sectionHeader   = 40 // bytes
	pageSize        = 4096
	sectionReadOnly = pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ
)

// A peFile is an EFI program that sections are appended to.
type peFile struct {
	data       []byte
	coff, opt  int // where these headers start
	table, end int // of the section headers: next free place, and where the room ends
	nextRVA    uint32
	alignFile  uint32
}

func newPE(stub []byte) (*peFile, error) {
	f, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		return nil, err
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || opt.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		return nil, errors.New("not a 64-bit EFI program")
	}
	img := &peFile{alignFile: opt.FileAlignment, end: int(opt.SizeOfHeaders)}
	img.coff = int(binary.LittleEndian.Uint32(stub[0x3c:])) + 4
	img.opt = img.coff + 20
	img.table = img.opt + int(f.SizeOfOptionalHeader) + len(f.Sections)*sectionHeader
	var last uint32
	for _, s := range f.Sections {
		last = max(last, s.Offset+s.Size)
		img.nextRVA = max(img.nextRVA, s.VirtualAddress+s.VirtualSize)
	}
	if int(last) > len(stub) || img.alignFile == 0 || img.table > len(stub) {
		return nil, errors.New("headers point outside the file")
	}
	// What is behind the last section is a symbol table, for debuggers only.
	img.data = slices.Clone(stub[:last])
	img.put32(img.coff+coffSymbols, 0)
	img.put32(img.coff+coffSymbols+4, 0)
	return img, nil
}

func (p *peFile) put32(at int, v uint32) { binary.LittleEndian.PutUint32(p.data[at:], v) }
func (p *peFile) get32(at int) uint32    { return binary.LittleEndian.Uint32(p.data[at:]) }

func alignUp(n, to uint32) uint32 { return (n + to - 1) / to * to }

// pad fills the file with zeros to its alignment.
func (p *peFile) pad() {
	p.data = append(p.data, make([]byte, alignUp(uint32(len(p.data)), p.alignFile)-uint32(len(p.data)))...)
}

// add appends a section that is loaded on a page of its own.
func (p *peFile) add(name string, data []byte) error {
	if p.table+sectionHeader > p.end {
		return errors.New("no room for another section header in the stub")
	}
	p.pad()
	h := p.data[p.table : p.table+sectionHeader]
	clear(h)
	copy(h, name)
	size, rva := uint32(len(data)), alignUp(p.nextRVA, pageSize)
	for i, v := range []uint32{size, rva, alignUp(size, p.alignFile), uint32(len(p.data))} {
		binary.LittleEndian.PutUint32(h[8+4*i:], v)
	}
	binary.LittleEndian.PutUint32(h[36:], sectionReadOnly)
	p.data = append(p.data, data...)
	p.pad()
	p.table += sectionHeader
	p.nextRVA = rva + size
	at := p.coff + coffSections
	binary.LittleEndian.PutUint16(p.data[at:], binary.LittleEndian.Uint16(p.data[at:])+1)
	p.put32(p.opt+optDataSize, p.get32(p.opt+optDataSize)+alignUp(size, p.alignFile))
	return nil
}

func (p *peFile) finish() []byte {
	p.put32(p.opt+optImageSize, alignUp(p.nextRVA, pageSize))
	p.put32(p.opt+optChecksum, 0) // firmware does not look at it
	return p.data
}
