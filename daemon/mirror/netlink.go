package mirror

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Commands and attributes of the generic netlink family "drbd", version 1
// (include/linux/drbd_genl.h).
const (
	cmdGetStatus   = 2
	cmdNewMinor    = 5
	cmdNewResource = 7
	cmdAttach      = 12
	cmdPrimary     = 14
	cmdSecondary   = 15
	cmdDown        = 27
	cmdConnect     = 10
	cmdDisconnect  = 11
	cmdNewUUID     = 16
	cmdDetach      = 18
	cmdResumeIO    = 24
	cmdOutdate     = 25
	cmdDiskOptions = 28

	nlaReply     = 1
	nlaContext   = 2
	nlaDiskConf  = 3
	nlaNetConf   = 5
	nlaSetRole   = 6
	nlaStateInfo = 8
	nlaNewUUID   = 10
	nlaLeave     = 12 // parameters of disconnect
	nlaDetach    = 13

	nlaNested    = 0x8000
	nlaMandatory = 0x4000
	nlaTypeMask  = 0x3fff

	noMinor = ^uint32(0)
)

// Return codes (include/linux/drbd.h): configuration requests answer 101, state
// changes 1 or 2, refusals of state changes negative numbers.
const (
	retOK             = 101
	retStateOK        = 1
	retNothingToDo    = 2
	retAddressInUse   = 102
	retNoSuchMinor    = 127
	retNoSuchResource = 158
	retNoSuchLink     = 162
	retPartnerPrimary = -1
	retUnknownPartner = -7
	retDeviceInUse    = -12
)

// Errors that callers branch on.
var (
	// ErrInUse says that somebody still holds the volume's device open.
	ErrInUse = errors.New("volume's device is in use")
	// ErrPartnerPrimary says that the partner is, or may be, primary.
	ErrPartnerPrimary = errors.New("the partner is, or may be, primary")
)

// callTimeout bounds one request whose context has no deadline of its own.
const callTimeout = 60 * time.Second

// A refusal is DRBD's answer to a request that it did not carry out.
type refusal struct {
	code int32
	info string
}

func (r refusal) Error() string {
	if r.info != "" {
		return fmt.Sprintf("drbd answered %d: %s", r.code, r.info)
	}
	if s := refusals[r.code]; s != "" {
		return fmt.Sprintf("drbd answered %d: %s", r.code, s)
	}
	return fmt.Sprintf("drbd answered %d", r.code)
}

func (r refusal) Is(target error) bool {
	switch target {
	case ErrInUse:
		return r.code == retDeviceInUse
	case ErrPartnerPrimary:
		return r.code == retPartnerPrimary || r.code == retUnknownPartner
	}
	return false
}

var refusals = map[int32]string{
	102:  "the local address is in use by another link",
	103:  "the partner's address is in use by another link",
	104:  "the leg cannot be opened",
	105:  "the leg's metadata cannot be opened",
	111:  "the leg is too small",
	114:  "the leg is claimed by somebody else",
	119:  "no valid metadata on the leg",
	125:  "a disk is attached already",
	127:  "no such minor",
	158:  "no such resource",
	162:  "no such link",
	161:  "minor or volume exists already",
	165:  "the activity log was not applied",
	-1:   "the partner is primary",
	-2:   "no up-to-date disk",
	-7:   "refused while the partner's state is unknown",
	-12:  "the device is held open",
	-20:  "wait for the connection",
	-100: "unknown",
}

// attr is one netlink attribute.
func attr(typ uint16, payload []byte) []byte {
	n := 4 + len(payload)
	b := make([]byte, (n+3)&^3)
	binary.NativeEndian.PutUint16(b[0:], uint16(n))
	binary.NativeEndian.PutUint16(b[2:], typ)
	copy(b[4:], payload)
	return b
}

func nest(typ uint16, fields ...[]byte) []byte {
	var p []byte
	for _, f := range fields {
		p = append(p, f...)
	}
	return attr(typ|nlaNested, p)
}

func strField(typ uint16, s string) []byte {
	return attr(typ|nlaMandatory, append([]byte(s), 0))
}

func u32Field(typ uint16, v uint32) []byte {
	return attr(typ|nlaMandatory, binary.NativeEndian.AppendUint32(nil, v))
}

// flag is DRBD's form of a switch that is on: a byte, not NLA_FLAG.
func flag(typ uint16) []byte { return attr(typ|nlaMandatory, []byte{1}) }

func binField(typ uint16, b []byte) []byte { return attr(typ|nlaMandatory, b) }

// parseAttrs splits a run of attributes. A type that comes twice keeps its
// last value; what is cut short is dropped.
func parseAttrs(b []byte) map[uint16][]byte {
	out := map[uint16][]byte{}
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b[0:]))
		if n < 4 || n > len(b) {
			break
		}
		out[binary.NativeEndian.Uint16(b[2:])&nlaTypeMask] = b[4:n]
		b = b[min((n+3)&^3, len(b)):]
	}
	return out
}

// message is one answer of DRBD.
type message struct {
	minor uint32
	ret   int32
	attrs map[uint16][]byte
}

// parseMessages splits what one receive returned. Done is set at the end of a
// dump and at a plain acknowledgement.
func parseMessages(b []byte, family uint16) (out []message, done bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= unix.SizeofNlMsghdr {
		n, typ := int(ne.Uint32(b[0:])), ne.Uint16(b[4:])
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return out, done, fmt.Errorf("netlink answer cut short")
		}
		body := b[unix.SizeofNlMsghdr:n]
		switch typ {
		case unix.NLMSG_DONE:
			done = true
		case unix.NLMSG_ERROR:
			done = true
			if len(body) >= 4 {
				if e := int32(ne.Uint32(body)); e != 0 {
					return out, true, os.NewSyscallError("netlink", unix.Errno(-e))
				}
			}
		case family:
			if len(body) >= 12 { // genlmsghdr, then drbd_genlmsghdr
				out = append(out, message{
					minor: ne.Uint32(body[4:]), ret: int32(ne.Uint32(body[8:])), attrs: parseAttrs(body[12:]),
				})
			}
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return out, done, nil
}

// request builds one netlink message for a generic family.
func request(family, flags uint16, cmd, version uint8, body []byte) []byte {
	n := unix.SizeofNlMsghdr + 4 + len(body)
	b := make([]byte, unix.SizeofNlMsghdr+4, n)
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], uint32(n))
	ne.PutUint16(b[4:], family)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	ne.PutUint32(b[8:], 1)
	b[16], b[17] = cmd, version
	return append(b, body...)
}

// exchange sends one request on a socket of its own and collects the answers.
// The kernel works on the request inside the send, so the caller's thread may
// stay there as long as the disk takes.
func exchange(req []byte, family uint16, dump bool) ([]message, []byte, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	tv := unix.NsecToTimeval(int64(callTimeout))
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Sendto(s, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, nil, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 64<<10)
	var all []message
	for {
		n, _, err := unix.Recvfrom(s, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, nil, os.NewSyscallError("recvfrom", err)
		}
		raw := append([]byte(nil), buf[:n]...)
		msgs, done, err := parseMessages(raw, family)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, msgs...)
		if done || !dump {
			return all, raw, nil
		}
	}
}

// resolveFamily asks the kernel for the number of the family "drbd".
func resolveFamily() (uint16, error) {
	const familyID = 1
	fam, err := askFamily()
	if err != nil {
		return 0, err
	}
	id := fam[familyID]
	if len(id) < 2 {
		return 0, errors.New("generic netlink did not name the family drbd")
	}
	return binary.NativeEndian.Uint16(id), nil
}

// askFamily asks the kernel what it says of the family "drbd".
func askFamily() (map[uint16][]byte, error) {
	const ctrlGetFamily, ctrlFamilyName = 3, 2
	req := request(unix.GENL_ID_CTRL, 0, ctrlGetFamily, 1, attr(ctrlFamilyName, []byte("drbd\x00")))
	_, raw, err := exchange(req, 0xffff, false)
	if errors.Is(err, unix.ENOENT) {
		return nil, errors.New("kernel has no DRBD: load the module drbd")
	}
	if err != nil {
		return nil, err
	}
	if len(raw) < unix.SizeofNlMsghdr+4 {
		return nil, errors.New("netlink answer cut short")
	}
	return parseAttrs(raw[unix.SizeofNlMsghdr+4:]), nil
}

// call runs one DRBD command and returns its answers. It gives up waiting when
// ctx ends; the kernel then finishes the request by itself.
func (c *Control) call(ctx context.Context, cmd uint8, minor uint32, attrs ...[]byte) ([]message, error) {
	dump := cmd == cmdGetStatus && minor == noMinor
	body := binary.NativeEndian.AppendUint32(nil, minor)
	body = binary.NativeEndian.AppendUint32(body, 0)
	for _, a := range attrs {
		body = append(body, a...)
	}
	var flags uint16
	if dump {
		flags = unix.NLM_F_DUMP
	}
	req := request(c.family, flags, cmd, 1, body)

	type answer struct {
		msgs []message
		err  error
	}
	ch := make(chan answer, 1)
	go func() {
		m, _, err := exchange(req, c.family, dump)
		ch <- answer{m, err}
	}()
	var a answer
	select {
	case a = <-ch:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.err != nil || dump {
		return a.msgs, a.err
	}
	if len(a.msgs) == 0 {
		return nil, errors.New("drbd did not answer")
	}
	for _, m := range a.msgs {
		switch m.ret {
		case retOK, retStateOK, retNothingToDo:
		default:
			r := refusal{code: m.ret}
			if rep := parseAttrs(m.attrs[nlaReply])[1]; len(rep) > 0 {
				r.info = cstring(rep)
			}
			return nil, r
		}
	}
	return a.msgs, nil
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
