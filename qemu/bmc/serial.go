package bmc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// The bytes that end a message or a command, and the one before an escaped
// byte (QEMU, hw/ipmi/ipmi_bmc_extern.c).
const (
	messageEnd = 0xa0
	commandEnd = 0xa1
	escapeByte = 0xaa
	escapeBit  = 0x10
)

// Commands beside messages. A VM sends its version and capabilities when it
// connects, and hostReset whenever its CPU is reset.
const (
	cmdNoAttention  = 0x00
	cmdAttention    = 0x01
	cmdReset        = 0x04
	cmdEnableIRQ    = 0x05
	cmdCapabilities = 0x08
	cmdVersion      = 0xff

	protocolVersion = 1
)

const maxMessage = 300 // bytes, MAX_IPMI_MSG_SIZE of QEMU

var errChecksum = errors.New("wrong checksum")

// A request is a message from the module's software.
type request struct {
	seq   byte
	netFn byte
	lun   byte
	cmd   byte
	data  []byte
}

// parseRequest checks a message without its end byte: sequence number, network
// function and LUN, command, data, and a checksum that makes the sum 0.
func parseRequest(b []byte) (request, error) {
	if len(b) < 4 {
		return request{}, fmt.Errorf("message of %d bytes: want 4 at least", len(b))
	}
	if checksum(b) != 0 {
		return request{}, errChecksum
	}
	return request{seq: b[0], netFn: b[1] >> 2, lun: b[1] & 3, cmd: b[2], data: b[3 : len(b)-1]}, nil
}

// response returns the whole answer to a request, ready to be sent.
func (r request) response(code byte, data []byte) []byte {
	b := append([]byte{r.seq, (r.netFn|1)<<2 | r.lun, r.cmd, code}, data...)
	return encode(append(b, checksum(b)), messageEnd)
}

// checksum is what makes the sum of all bytes 0.
func checksum(b []byte) byte {
	var sum byte
	for _, v := range b {
		sum += v
	}
	return -sum
}

// encode escapes a message or command and ends it.
func encode(b []byte, end byte) []byte {
	out := make([]byte, 0, len(b)+8)
	for _, v := range b {
		switch v {
		case messageEnd, commandEnd, escapeByte:
			out = append(out, escapeByte, v|escapeBit)
		default:
			out = append(out, v)
		}
	}
	return append(out, end)
}

// A decoder reads what a VM sends.
type decoder struct {
	r *bufio.Reader
	b []byte
}

func newDecoder(r io.Reader) *decoder { return &decoder{r: bufio.NewReader(r)} }

// next returns the next message or command, unescaped, and the byte that ended
// it. The slice is valid until the next call.
func (d *decoder) next() (b []byte, end byte, err error) {
	d.b = d.b[:0]
	escaped := false
	for {
		v, err := d.r.ReadByte()
		if err != nil {
			return nil, 0, err
		}
		switch {
		case v == messageEnd || v == commandEnd:
			return d.b, v, nil
		case v == escapeByte:
			escaped = true
			continue
		case escaped:
			v &^= escapeBit
			escaped = false
		}
		if len(d.b) >= maxMessage {
			return nil, 0, fmt.Errorf("message longer than %d bytes: the stream is out of step", maxMessage)
		}
		d.b = append(d.b, v)
	}
}
