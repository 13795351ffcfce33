package image

import "encoding/binary"

// undoX86 reverses, in place, the x86 branch filter of xz: the filter has
// turned the relative targets of CALL (E8) and JMP (E9) into absolute ones,
// which compress better, but only where the bytes look like a near branch.
//
// Near means that the top byte of the target is 00 or FF. Bytes that belong to
// a possible earlier branch disturb that test, so the filter remembers in
// which of the three positions before there was an opcode it left alone: that
// is what recent holds, one bit for each, the nearest in bit 0.
func undoX86(code []byte) {
	sign := func(b byte) bool { return b == 0x00 || b == 0xff }
	var recent uint32 // bits 0 to 2
	last := -1        // where the opcode before was
	for at := 0; at+5 <= len(code); at++ {
		if code[at]&0xfe != 0xe8 {
			continue
		}
		if gap := at - last; gap > 3 {
			recent = 0
		} else {
			recent = recent << (gap - 1) & 7
		}
		last = at
		if recent != 0 && (!solvable(recent) || sign(code[at+4-overlap(recent)])) {
			recent = recent<<1 | 1
			continue
		}
		if !sign(code[at+4]) {
			recent = recent<<1 | 1
			continue
		}
		operand := code[at+1 : at+5]
		binary.LittleEndian.PutUint32(operand, relative(binary.LittleEndian.Uint32(operand), uint32(at+5), recent))
		at += 4
	}
}

// relative is the branch target as the processor wants it: relative to next,
// the address after the instruction, 25 bits with sign.
func relative(target, next, recent uint32) uint32 {
	for {
		rel := target - next
		if recent != 0 {
			low := 32 - 8*uint(overlap(recent))
			if top := byte(rel >> (low - 8)); top == 0x00 || top == 0xff {
				// The filter saw this as disturbed too, and went round again.
				target = rel ^ (1<<low - 1)
				continue
			}
		}
		rel &= 1<<25 - 1
		return rel | -(rel & (1 << 24))
	}
}

// solvable tells whether the filter converts at all with this past: not when
// two opcodes stand closer together than it can tell apart.
func solvable(recent uint32) bool { return recent&(recent-1) == 0 }

// overlap is how many bytes the nearest earlier branch reaches into this one,
// counted from its most significant end.
func overlap(recent uint32) int {
	switch {
	case recent&4 != 0:
		return 3
	case recent&2 != 0:
		return 2
	}
	return int(recent & 1)
}
