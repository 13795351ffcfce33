package image

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// bzImageOf is the least that the setup header describes: two setup sectors
// and a payload with the size of plain behind it.
func bzImageOf(compressed, plain []byte) []byte {
	bz := make([]byte, 1024+64)
	bz[0x1f1] = 1
	copy(bz[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(bz[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(bz[0x248:], 64)
	binary.LittleEndian.PutUint32(bz[0x24c:], uint32(len(compressed)+4))
	bz = append(bz, compressed...)
	bz = binary.LittleEndian.AppendUint32(bz, uint32(len(plain)))
	return append(bz, "signature"...)
}

// sampleELF is machine code with many branches: this test itself, repeated
// past the 8 MiB of an lz4 block.
func sampleELF(t *testing.T) []byte {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	for len(code) < 9<<20 {
		code = append(code, code...)
	}
	return code[:9<<20+1]
}

func TestExtractVmlinux(t *testing.T) {
	large := sampleELF(t)
	small := large[:1<<20+1] // the xz library is slow
	for name, compress := range map[string]func(t *testing.T, plain []byte) []byte{
		"gzip": func(t *testing.T, plain []byte) []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			w.Write(plain)
			w.Close()
			return b.Bytes()
		},
		"zstd": func(t *testing.T, plain []byte) []byte {
			w, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			return w.EncodeAll(plain, nil)
		},
		"lz4": func(t *testing.T, plain []byte) []byte {
			var b bytes.Buffer
			w := lz4.NewWriter(&b)
			if err := w.Apply(lz4.LegacyOption(true)); err != nil {
				t.Fatal(err)
			}
			w.Write(plain)
			w.Close()
			return b.Bytes()
		},
		"xz": func(t *testing.T, plain []byte) []byte { return xzCommand(t, plain, "--lzma2=preset=1,dict=4MiB") },
		"xz-x86": func(t *testing.T, plain []byte) []byte {
			return xzCommand(t, plain, "--x86", "--lzma2=preset=1,dict=32MiB")
		},
	} {
		t.Run(name, func(t *testing.T) {
			plain := small
			if name == "lz4" {
				plain = large
			}
			got, err := ExtractVmlinux(bzImageOf(compress(t, plain), plain))
			if err != nil {
				t.Fatalf("ExtractVmlinux: %v", err)
			}
			if !bytes.Equal(got, plain) {
				t.Errorf("ExtractVmlinux gives other bytes")
			}
		})
	}
}

func xzCommand(t *testing.T, plain []byte, filters ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("needs xz: apt install xz-utils")
	}
	cmd := exec.Command(tool, append([]string{"-c", "--check=crc32"}, filters...)...)
	cmd.Stdin = bytes.NewReader(plain)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz: %v", err)
	}
	return out
}

func TestExtractVmlinuxRefuses(t *testing.T) {
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write([]byte("no ELF file, but text that compresses"))
	w.Close()
	good := bzImageOf(gz.Bytes(), make([]byte, 37))
	outside := bytes.Clone(good)
	binary.LittleEndian.PutUint32(outside[0x24c:], 1<<30)
	old := bytes.Clone(good)
	binary.LittleEndian.PutUint16(old[0x206:], 0x207)
	xz := []byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36\xff\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3")
	for name, bz := range map[string][]byte{
		"empty":               nil,
		"no header":           make([]byte, 4096),
		"no ELF":              good,
		"payload outside":     outside,
		"old protocol":        old,
		"unknown compression": bzImageOf(make([]byte, 64), make([]byte, 64)),
		"short xz":            bzImageOf(xz, make([]byte, 64)),
	} {
		if _, err := ExtractVmlinux(bz); err == nil {
			t.Errorf("ExtractVmlinux(%s) = nil, want an error", name)
		}
	}
}

// FuzzExtractVmlinux looks for images that make it panic.
func FuzzExtractVmlinux(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3"))
	f.Add([]byte("\x02\x21\x4c\x18\x04\x00\x00\x00abcd"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		ExtractVmlinux(bzImageOf(payload, make([]byte, 1000)))
	})
}
