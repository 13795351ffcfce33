package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"

	"baystream/daemon/pool"
)

// Digest reads the contents of a disk and names them: the SHA-256, in hex,
// over the number (8 bytes, big endian) and the SHA-256 of each 64 KiB block
// that is not all zero, in order, and at the end the size in bytes (8 bytes,
// big endian). The last block may be shorter.
//
// Two disks have one digest if and only if they have the same bytes, like a
// plain SHA-256; but the zeros that fill most of an image cost nothing, and a
// block can be checked by itself.
func Digest(r io.Reader) (string, error) {
	d := newDigester()
	buf := make([]byte, importChunk)
	for {
		n, err := io.ReadFull(r, buf)
		d.write(buf[:n])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return d.sum(), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// digester computes a digest. Each write but the last is of whole blocks.
type digester struct {
	h    hash.Hash
	size uint64
}

func newDigester() digester { return digester{h: sha256.New()} }

func (d *digester) write(b []byte) {
	var entry [8 + sha256.Size]byte
	for len(b) > 0 {
		block := b[:min(len(b), pool.BlockSize)]
		if !allZero(block) {
			binary.BigEndian.PutUint64(entry[:8], d.size/pool.BlockSize)
			sum := sha256.Sum256(block)
			copy(entry[8:], sum[:])
			d.h.Write(entry[:])
		}
		d.size += uint64(len(block))
		b = b[len(block):]
	}
}

func (d *digester) sum() string {
	d.h.Write(binary.BigEndian.AppendUint64(nil, d.size))
	return hex.EncodeToString(d.h.Sum(nil))
}
