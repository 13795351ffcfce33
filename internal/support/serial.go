package support

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Over a serial line a dump goes as base64 between two lines, the first with its
// length and SHA-256. Any terminal that can keep what it shows can take it, which
// is more than can be said of file transfer protocols; FromCapture finds it in
// what was kept.
const (
	beginLine = "-----BEGIN BAYSTREAM SUPPORT DUMP-----"
	endLine   = "-----END BAYSTREAM SUPPORT DUMP-----"
)

// WriteSerial writes a dump as text; lines end as the terminal wants it.
func WriteSerial(w io.Writer, dump []byte) error {
	sum := sha256.Sum256(dump)
	if _, err := fmt.Fprintf(w, "%s\nbytes %d sha256 %x\n", beginLine, len(dump), sum); err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(dump)
	for len(text) > 0 {
		n := min(76, len(text))
		if _, err := fmt.Fprintln(w, text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	_, err := fmt.Fprintln(w, endLine)
	return err
}

var headLine = regexp.MustCompile(`bytes (\d+) sha256 ([0-9a-f]{64})`)

// FromCapture finds the last dump in what a terminal has kept.
func FromCapture(capture []byte) ([]byte, error) {
	at := bytes.LastIndex(capture, []byte(beginLine))
	if at < 0 {
		return nil, errors.New("no support dump: no line " + beginLine)
	}
	body, _, ended := bytes.Cut(capture[at+len(beginLine):], []byte(endLine))
	head := headLine.FindSubmatchIndex(body)
	if head == nil || !ended {
		return nil, errors.New("the support dump is not whole: its first or last line is missing")
	}
	want := string(body[head[4]:head[5]])
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == ' ' {
			return -1
		}
		return r
	}, string(body[head[1]:]))
	dump, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("support dump: %w: other text is in between; take it again", err)
	}
	if sum := sha256.Sum256(dump); hex.EncodeToString(sum[:]) != want {
		return nil, errors.New("the support dump was damaged on its way: take it again")
	}
	return dump, nil
}
