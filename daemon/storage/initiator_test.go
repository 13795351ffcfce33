package storage

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// initiator is a small iSCSI initiator (RFC 7143) for tests: one connection,
// CHAP, no digests, writes by immediate data.
type initiator struct {
	conn   net.Conn
	cmdSN  uint32
	statSN uint32
	itt    uint32
}

var errLogin = errors.New("login refused")

const dataLimit = 8192 // LIO's MaxRecvDataSegmentLength

// login opens a session with a target.
func login(ctx context.Context, addr, name, target, user, secret string) (*initiator, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	i := &initiator{conn: conn, cmdSN: 1}
	if err := i.login(name, target, user, secret); err != nil {
		conn.Close()
		return nil, err
	}
	return i, nil
}

func (i *initiator) login(name, target, user, secret string) error {
	const security, operational, full = 0, 1, 3
	if _, err := i.loginStep(security, security, false, "InitiatorName="+name, "TargetName="+target, "SessionType=Normal", "AuthMethod=CHAP"); err != nil {
		return err
	}
	keys, err := i.loginStep(security, security, false, "CHAP_A=5")
	if err != nil {
		return err
	}
	challenge, err := hex.DecodeString(strings.TrimPrefix(keys["CHAP_C"], "0x"))
	if err != nil {
		return fmt.Errorf("CHAP_C %q: %w", keys["CHAP_C"], err)
	}
	var id byte
	if _, err := fmt.Sscan(keys["CHAP_I"], &id); err != nil {
		return fmt.Errorf("CHAP_I %q: %w", keys["CHAP_I"], err)
	}
	sum := md5.Sum(append(append([]byte{id}, secret...), challenge...))
	if _, err := i.loginStep(security, operational, true, "CHAP_N="+user, "CHAP_R=0x"+hex.EncodeToString(sum[:])); err != nil {
		return err
	}
	_, err = i.loginStep(operational, full, true, "HeaderDigest=None", "DataDigest=None", "MaxConnections=1", "InitialR2T=No",
		"ImmediateData=Yes", "MaxBurstLength=262144", "FirstBurstLength=65536", "DefaultTime2Wait=0", "DefaultTime2Retain=0",
		"MaxOutstandingR2T=1", "DataPDUInOrder=Yes", "DataSequenceInOrder=Yes", "ErrorRecoveryLevel=0",
		"IFMarker=No", "OFMarker=No", "MaxRecvDataSegmentLength=262144")
	return err
}

func (i *initiator) loginStep(csg, nsg byte, transit bool, keys ...string) (map[string]string, error) {
	h := make([]byte, 48)
	h[0] = 0x43
	h[1] = csg << 2
	if transit {
		h[1] |= 0x80 | nsg
	}
	h[8], h[13] = 0x80, 1 // ISID: random format
	binary.BigEndian.PutUint32(h[24:], i.cmdSN)
	binary.BigEndian.PutUint32(h[28:], i.statSN)
	if err := i.send(h, []byte(strings.Join(keys, "\x00")+"\x00")); err != nil {
		return nil, err
	}
	rh, data, err := i.receive()
	if err != nil {
		return nil, err
	}
	if rh[0] != 0x23 {
		return nil, fmt.Errorf("answer to login has opcode %#x", rh[0])
	}
	if rh[36] != 0 {
		return nil, fmt.Errorf("%w: class %d detail %d", errLogin, rh[36], rh[37])
	}
	i.statSN = binary.BigEndian.Uint32(rh[24:]) + 1
	out := map[string]string{}
	for _, kv := range bytes.Split(data, []byte{0}) {
		if k, v, ok := strings.Cut(string(kv), "="); ok {
			out[k] = v
		}
	}
	if transit && rh[1]&0x80 == 0 {
		return nil, fmt.Errorf("target wants to go on negotiating: %v", out)
	}
	return out, nil
}

func (i *initiator) send(h, data []byte) error {
	h[5], h[6], h[7] = byte(len(data)>>16), byte(len(data)>>8), byte(len(data))
	p := append(h, data...)
	for len(p)%4 != 0 {
		p = append(p, 0)
	}
	_, err := i.conn.Write(p)
	return err
}

func (i *initiator) receive() (h, data []byte, err error) {
	h = make([]byte, 48)
	if _, err := io.ReadFull(i.conn, h); err != nil {
		return nil, nil, err
	}
	n := int(h[5])<<16 | int(h[6])<<8 | int(h[7])
	data = make([]byte, (n+3)&^3)
	_, err = io.ReadFull(i.conn, data)
	return h, data[:n], err
}

// command runs one SCSI command on LUN 0.
func (i *initiator) command(cdb []byte, out []byte, in int) ([]byte, error) {
	h := make([]byte, 48)
	h[0], h[1] = 0x01, 0x80|1 // final, simple
	length := in
	if len(out) > 0 {
		h[1] |= 0x20
		length = len(out)
	} else if in > 0 {
		h[1] |= 0x40
	}
	i.itt++
	be := binary.BigEndian
	be.PutUint32(h[16:], i.itt)
	be.PutUint32(h[20:], uint32(length))
	be.PutUint32(h[24:], i.cmdSN)
	be.PutUint32(h[28:], i.statSN)
	copy(h[32:], cdb)
	i.cmdSN++
	if err := i.send(h, out); err != nil {
		return nil, err
	}
	got := make([]byte, in)
	seen := 0
	for {
		rh, data, err := i.receive()
		if err != nil {
			return nil, err
		}
		switch rh[0] & 0x3f {
		case 0x25: // data in
			at := int(be.Uint32(rh[40:]))
			copy(got[at:], data)
			seen = max(seen, at+len(data))
			if rh[1]&1 == 0 {
				continue
			}
			i.statSN = be.Uint32(rh[24:]) + 1
			return got[:seen], status(rh[3], nil)
		case 0x21: // response
			i.statSN = be.Uint32(rh[24:]) + 1
			if rh[2] != 0 {
				return nil, fmt.Errorf("iSCSI response %d", rh[2])
			}
			return got[:seen], status(rh[3], data)
		case 0x20: // NOP in: answer when asked to
			if ttt := be.Uint32(rh[20:]); ttt != 0xffffffff {
				n := make([]byte, 48)
				n[0], n[1] = 0x40, 0x80
				be.PutUint32(n[16:], 0xffffffff)
				be.PutUint32(n[20:], ttt)
				be.PutUint32(n[24:], i.cmdSN)
				be.PutUint32(n[28:], i.statSN)
				if err := i.send(n, nil); err != nil {
					return nil, err
				}
			}
		default:
			return nil, fmt.Errorf("unexpected opcode %#x", rh[0])
		}
	}
}

func status(s byte, sense []byte) error {
	if s == 0 {
		return nil
	}
	return fmt.Errorf("SCSI status %#x, sense %x", s, sense)
}

func (i *initiator) read(lba uint32, n int) ([]byte, error) {
	cdb := []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(cdb[2:], lba)
	binary.BigEndian.PutUint16(cdb[7:], uint16(n/512))
	b, err := i.command(cdb, nil, n)
	if err == nil && len(b) != n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (i *initiator) write(lba uint32, b []byte) error {
	if len(b) > dataLimit {
		return fmt.Errorf("write of %d bytes: immediate data has %d at most", len(b), dataLimit)
	}
	cdb := []byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(cdb[2:], lba)
	binary.BigEndian.PutUint16(cdb[7:], uint16(len(b)/512))
	_, err := i.command(cdb, b, 0)
	return err
}

func (i *initiator) inquiry(page byte) ([]byte, error) {
	cdb := []byte{0x12, 0, 0, 0, 255, 0}
	if page != 0 {
		cdb[1], cdb[2] = 1, page
	}
	return i.command(cdb, nil, 255)
}

// sectors asks for the capacity.
func (i *initiator) sectors() (uint64, error) {
	b, err := i.command([]byte{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 8)
	if err != nil {
		return 0, err
	}
	return uint64(binary.BigEndian.Uint32(b)) + 1, nil
}

func (i *initiator) close() { i.conn.Close() }
