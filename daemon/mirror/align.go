package mirror

import "unsafe"

// alignedBlock gives n bytes at an address fit for O_DIRECT.
func alignedBlock(n int) []byte {
	b := make([]byte, n+4096)
	o := -int(uintptr(unsafe.Pointer(&b[0]))) & 4095
	return b[o : o+n : o+n]
}
