package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"

	"github.com/pierrec/lz4/v4"
	"golang.org/x/sync/errgroup"
)

// What Squash writes of the format, see Linux Documentation/filesystems/squashfs.rst
// and fs/squashfs/squashfs_fs.h. All numbers are little-endian.
const (
	squashMagic     = 0x73717368
	squashLZ4       = 5
	squashBlockLog  = 17 // of the size of a data block: what one read unpacks
	squashBlock     = 1 << squashBlockLog
	squashMeta      = 8192 // bytes in a block of a table
	squashPlainMeta = 1 << 15
	squashPlainData = 1 << 24
	squashNone      = math.MaxUint32
	squashPad       = 4096 // the image's size is a multiple: loop devices have whole sectors

	squashPlainInodes, squashNoFragments, squashNoXattrs, squashOptions = 1 << 0, 1 << 4, 1 << 9, 1 << 10

	squashDir, squashFile, squashLink = 1, 2, 3
)

// squashSuper is the superblock.
type squashSuper struct {
	Magic, Inodes, Time, Block, Fragments          uint32
	Compressor, BlockLog, Flags, IDs, Major, Minor uint16
	Root, Size                                     uint64
	IDTable, XattrTable, InodeTable, DirTable      uint64
	FragmentTable, ExportTable                     uint64
}

// Squash returns files as one squashfs file system: read-only, each block of
// 128 KiB packed with lz4 and unpacked when it is read. What holds for Pack
// holds here, too: order does not matter, parents are added, owner is root,
// times are zero. There are no devices in it.
func Squash(files []File) ([]byte, error) {
	entries, err := layout(files)
	if err != nil {
		return nil, fmt.Errorf("squash: %w", err)
	}
	s := squasher{packed: make([][][]byte, len(entries))}
	if err := s.pack(entries); err != nil {
		return nil, fmt.Errorf("squash: %w", err)
	}
	root := &squashNode{file: Dir(".")}
	nodes := map[string]*squashNode{".": root}
	for i, f := range entries {
		n := &squashNode{file: f, blocks: s.packed[i]}
		nodes[f.Path] = n
		parent := nodes[path.Dir(f.Path)]
		parent.children = append(parent.children, n)
	}
	return s.write(root, len(nodes))
}

// squashNode is a file in its place in the tree.
type squashNode struct {
	file     File
	blocks   [][]byte // of a regular file, packed
	children []*squashNode

	number uint32 // of the inode, from 1
	at     uint64 // of the inode: block of the table << 16 | place in it
}

type squasher struct {
	packed       [][][]byte // by entry
	data         bytes.Buffer
	inodes, dirs bytes.Buffer // not in blocks yet
	count        uint32
}

// pack packs the blocks of all files, several at once.
func (s *squasher) pack(entries []File) error {
	var g errgroup.Group
	g.SetLimit(8)
	for i, f := range entries {
		if f.Mode.Type() != 0 {
			continue
		}
		s.packed[i] = make([][]byte, (len(f.Data)+squashBlock-1)/squashBlock)
		for j := range s.packed[i] {
			plain := f.Data[j*squashBlock : min((j+1)*squashBlock, len(f.Data))]
			g.Go(func() (err error) {
				s.packed[i][j], err = packLZ4(plain)
				return err
			})
		}
	}
	return g.Wait()
}

// packLZ4 is plain packed, or plain itself when that is not larger.
func packLZ4(plain []byte) ([]byte, error) {
	out := make([]byte, lz4.CompressBlockBound(len(plain)))
	c := lz4.CompressorHC{Level: lz4.Level9}
	n, err := c.CompressBlock(plain, out)
	if err != nil {
		return nil, fmt.Errorf("lz4: %w", err)
	}
	if n == 0 || n >= len(plain) {
		return plain, nil
	}
	return slices.Clip(out[:n]), nil
}

func (s *squasher) write(root *squashNode, count int) ([]byte, error) {
	super := squashSuper{
		Magic: squashMagic, Inodes: uint32(count), Block: squashBlock, Compressor: squashLZ4, BlockLog: squashBlockLog,
		Flags: squashPlainInodes | squashNoFragments | squashNoXattrs | squashOptions, IDs: 1, Major: 4,
		XattrTable: math.MaxUint64, ExportTable: math.MaxUint64,
	}
	s.data.Write(make([]byte, binary.Size(super)))
	s.data.Write(metaBlocks(words(uint32(1), uint32(1)))) // options of lz4: version, high compression
	if err := s.node(root, uint32(count)+1); err != nil {
		return nil, err
	}
	super.Root = root.at
	super.InodeTable = uint64(s.data.Len())
	s.data.Write(metaBlocks(s.inodes.Bytes()))
	super.DirTable = uint64(s.data.Len())
	s.data.Write(metaBlocks(s.dirs.Bytes()))
	super.FragmentTable = uint64(s.data.Len()) // it is empty
	ids := uint64(s.data.Len())
	s.data.Write(metaBlocks(words(uint32(0)))) // root
	super.IDTable = uint64(s.data.Len())
	s.data.Write(words(ids))
	super.Size = uint64(s.data.Len())
	s.data.Write(make([]byte, -s.data.Len()&(squashPad-1)))
	out := s.data.Bytes()
	copy(out, words(super))
	return out, nil
}

// node writes a file and what is below it: data at once, its inode and the
// listing of a directory into their tables.
func (s *squasher) node(n *squashNode, parent uint32) error {
	s.count++
	n.number = s.count
	var start uint64
	var sizes []uint32
	switch n.file.Mode.Type() {
	case 0:
		start = uint64(s.data.Len())
		for j, b := range n.blocks {
			size := uint32(len(b))
			if len(b) == min(squashBlock, len(n.file.Data)-j*squashBlock) {
				size |= squashPlainData
			}
			sizes = append(sizes, size)
			s.data.Write(b)
		}
		if s.data.Len() > math.MaxUint32 {
			return fmt.Errorf("%s: beyond 4 GiB", n.file.Path)
		}
	case fs.ModeDir:
		// The order is by bytes, where the archive's is by components.
		slices.SortFunc(n.children, func(a, b *squashNode) int { return bytes.Compare([]byte(a.name()), []byte(b.name())) })
		for _, c := range n.children {
			if err := s.node(c, n.number); err != nil {
				return err
			}
		}
	}
	return s.inode(n, parent, uint32(start), sizes)
}

func (n *squashNode) name() string { return path.Base(n.file.Path) }

func (s *squasher) inode(n *squashNode, parent, start uint32, sizes []uint32) error {
	kind, err := n.kind()
	if err != nil {
		return err
	}
	perm := uint16(n.file.Mode.Perm())
	if n.file.Mode&fs.ModeSticky != 0 {
		perm |= 0o1000
	}
	var listing []byte
	at := metaAddress(s.dirs.Len())
	if kind == squashDir {
		if listing, err = n.listing(); err != nil {
			return err
		}
		s.dirs.Write(listing)
	}
	n.at = metaAddress(s.inodes.Len())
	s.inodes.Write(words(kind, perm, uint16(0), uint16(0), uint32(0), n.number)) // type, mode, owner, group, time, number
	switch kind {
	case squashDir:
		links := uint32(2)
		for _, c := range n.children {
			if c.file.Mode.IsDir() {
				links++
			}
		}
		// The size counts "." and "..", which are not in the listing, as 3.
		s.inodes.Write(words(uint32(at>>16), links, uint16(len(listing)+3), uint16(at), parent))
	case squashFile:
		s.inodes.Write(words(start, uint32(squashNone), uint32(0), uint32(len(n.file.Data)), sizes))
	case squashLink:
		s.inodes.Write(words(uint32(1), uint32(len(n.file.Link)), []byte(n.file.Link)))
	}
	return nil
}

func (n *squashNode) kind() (uint16, error) {
	switch n.file.Mode.Type() {
	case 0:
		return squashFile, nil
	case fs.ModeDir:
		return squashDir, nil
	case fs.ModeSymlink:
		return squashLink, nil
	}
	return 0, fmt.Errorf("%s: file type %v is not supported", n.file.Path, n.file.Mode.Type())
}

// listing is a directory: runs of at most 256 entries whose inodes are in one
// block of the table, each after a header.
func (n *squashNode) listing() ([]byte, error) {
	var out []byte
	for rest := n.children; len(rest) > 0; {
		first := rest[0]
		var run []byte
		count := 0
		for _, c := range rest {
			if count == 256 || c.at>>16 != first.at>>16 || c.number-first.number > math.MaxInt16 {
				break
			}
			kind, err := c.kind()
			if err != nil {
				return nil, err
			}
			run = append(run, words(uint16(c.at), int16(c.number-first.number), kind, uint16(len(c.name())-1), []byte(c.name()))...)
			count++
		}
		out = append(out, words(uint32(count-1), uint32(first.at>>16), first.number)...)
		out = append(out, run...)
		rest = rest[count:]
	}
	if len(out)+3 > math.MaxUint16 {
		return nil, fmt.Errorf("directory %s: %d entries are too many", n.file.Path, len(n.children))
	}
	return out, nil
}

// metaAddress is where byte n of a table is: where its block begins << 16 |
// place in the block.
func metaAddress(n int) uint64 { return uint64(n/squashMeta*(squashMeta+2))<<16 | uint64(n%squashMeta) }

// metaBlocks cuts a table into blocks, each after its length. They are not
// packed: they are small, and read often.
func metaBlocks(table []byte) []byte {
	var out []byte
	for block := range slices.Chunk(table, squashMeta) {
		out = append(out, words(uint16(len(block)|squashPlainMeta))...)
		out = append(out, block...)
	}
	return out
}

// words is what values of fixed size are in memory.
func words(values ...any) []byte {
	var out []byte
	for _, v := range values {
		out, _ = binary.Append(out, binary.LittleEndian, v) // all callers' values have a fixed size
	}
	return out
}
