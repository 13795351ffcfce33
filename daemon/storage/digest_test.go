package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"baystream/daemon/pool"
)

func TestDigestIsThatOfItsDefinition(t *testing.T) {
	disk := make([]byte, 3*importChunk+512)
	copy(disk[pool.BlockSize+7:], "second block")
	disk[len(disk)-1] = 1
	h := sha256.New()
	for _, n := range []int{1, 3 * importChunk / pool.BlockSize} {
		block := disk[n*pool.BlockSize : min(len(disk), (n+1)*pool.BlockSize)]
		sum := sha256.Sum256(block)
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
		h.Write(sum[:])
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(disk))))
	want := hex.EncodeToString(h.Sum(nil))
	if got, err := Digest(bytes.NewReader(disk)); got != want || err != nil {
		t.Errorf("Digest = %s, %v, want %s", got, err, want)
	}
}

func TestDigestTellsDisksApart(t *testing.T) {
	seen := map[string]string{}
	for name, disk := range map[string][]byte{
		"empty":        {},
		"one sector":   make([]byte, 512),
		"one block":    make([]byte, pool.BlockSize),
		"two blocks":   make([]byte, 2*pool.BlockSize),
		"first byte":   append([]byte{1}, make([]byte, 2*pool.BlockSize-1)...),
		"second block": append(make([]byte, pool.BlockSize), append([]byte{1}, make([]byte, pool.BlockSize-1)...)...),
	} {
		got, err := Digest(bytes.NewReader(disk))
		if err != nil {
			t.Fatal(err)
		}
		if other, dup := seen[got]; dup {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[got] = name
	}
}
