package plan

import (
	"bytes"
	"encoding/binary"
	"io"
)

// FileSystem names the file system at the start of r as blkid(8) does: vfat,
// ext2, ext3, ext4, xfs, btrfs, ntfs, swap, LVM2_member, or "" if it is none of
// these. It reads the first 128 KiB at most.
func FileSystem(r io.ReaderAt) string {
	head := make([]byte, 128<<10)
	n, _ := r.ReadAt(head, 0) // a short device has zeros where it ends
	clear(head[n:])
	at := func(off int, magic string) bool { return bytes.HasPrefix(head[off:], []byte(magic)) }
	switch {
	case at(0, "XFSB"):
		return "xfs"
	case at(64<<10+0x40, "_BHRfS_M"):
		return "btrfs"
	case at(3, "NTFS    "):
		return "ntfs"
	case at(1024+0x38, "\x53\xef"):
		return extVersion(head[1024:])
	case at(4086, "SWAPSPACE2"), at(65526, "SWAPSPACE2"):
		return "swap"
	case isFAT(head):
		return "vfat"
	}
	for sector := range 4 {
		if at(512*sector, "LABELONE") && at(512*sector+24, "LVM2 001") {
			return "LVM2_member"
		}
	}
	return ""
}

// extVersion tells ext2, 3 and 4 apart by the features that each forbids.
func extVersion(super []byte) string {
	compat := binary.LittleEndian.Uint32(super[0x5c:])
	incompat := binary.LittleEndian.Uint32(super[0x60:])
	roCompat := binary.LittleEndian.Uint32(super[0x64:])
	switch {
	case incompat&^0x16 != 0 || roCompat&^0x7 != 0: // more than filetype, recover, meta_bg; sparse, large, btree
		return "ext4"
	case compat&0x4 != 0: // has a journal
		return "ext3"
	}
	return "ext2"
}

// isFAT checks a boot sector: the kernel is as lenient (fs/fat/inode.c).
func isFAT(b []byte) bool {
	sector := int(binary.LittleEndian.Uint16(b[11:]))
	cluster, reserved, fats, media := b[13], binary.LittleEndian.Uint16(b[14:]), b[16], b[21]
	switch {
	case b[510] != 0x55 || b[511] != 0xaa:
		return false
	case sector != 512 && sector != 1024 && sector != 2048 && sector != 4096:
		return false
	case cluster == 0 || cluster&(cluster-1) != 0 || reserved == 0 || fats == 0 || fats > 2:
		return false
	case media != 0xf0 && media < 0xf8:
		return false
	}
	return b[0] == 0xeb || b[0] == 0xe9
}
