package ipmi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// answerTimeout bounds one request. The kernel's driver gives up on a silent
// controller after some retries of 5 s each.
const answerTimeout = 15 * time.Second

// Open opens the kernel's device of the first controller, for which the
// modules ipmi_si and ipmi_devintf must be loaded. On a machine without a
// controller the error wraps fs.ErrNotExist.
func Open(path string) (*Client, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("ipmi: %w", err)
	}
	return NewClient(&device{f}), nil
}

// The kernel's side is include/uapi/linux/ipmi.h and drivers/char/ipmi/ipmi_devintf.c.

const (
	systemInterface = 0x0c // IPMI_SYSTEM_INTERFACE_ADDR_TYPE
	bmcChannel      = 0x0f // IPMI_BMC_CHANNEL
	maxMessage      = 272  // IPMI_MAX_MSG_LENGTH
)

type address struct {
	kind    int32
	channel int16
	_       [30]byte // LUN 0, and room for other kinds of addresses (struct ipmi_addr)
}

type message struct {
	netFn, cmd byte
	length     uint16
	data       *byte
}

type sendRequest struct { // struct ipmi_req
	addr    *address
	addrLen uint32
	id      int64
	msg     message
}

type receiveRequest struct { // struct ipmi_recv
	kind    int32
	addr    *address
	addrLen uint32
	id      int64
	msg     message
}

const (
	iocRead, iocWrite = 2, 1
	ioctlMagic        = 'i'
	ioctlSend         = iocRead<<30 | unsafe.Sizeof(sendRequest{})<<16 | ioctlMagic<<8 | 13               // IPMICTL_SEND_COMMAND
	ioctlReceive      = (iocRead|iocWrite)<<30 | unsafe.Sizeof(receiveRequest{})<<16 | ioctlMagic<<8 | 11 // IPMICTL_RECEIVE_MSG_TRUNC
)

// device is a Transport over /dev/ipmiN. The libraries that speak to it hand
// the kernel addresses of Go memory through functions of their own, which a
// growing stack makes wrong; so it is done here, with pinned memory.
type device struct{ f *os.File }

func (d *device) Close() error { return d.f.Close() }

// Exchange implements Transport.
func (d *device) Exchange(ctx context.Context, netFn, cmd byte, data []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	deadline := time.Now().Add(answerTimeout)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	if err := d.f.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = d.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := d.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	id := newID()
	var sendErr error
	if err := conn.Control(func(fd uintptr) { sendErr = send(fd, id, netFn, cmd, data) }); err != nil {
		return nil, err
	}
	if sendErr != nil {
		return nil, fmt.Errorf("ipmi: send: %w", sendErr)
	}
	var answer []byte
	var got error
	err = conn.Read(func(fd uintptr) bool {
		for {
			var from int64
			answer, from, got = receive(fd)
			switch {
			case errors.Is(got, unix.EAGAIN):
				return false // wait until there is something
			case got == nil && from != id:
				continue // the answer to a request that was given up
			}
			return true
		}
	})
	if err == nil {
		err = got
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("ipmi: receive: %w", err)
	}
	return answer, nil
}

// newID tells answers apart; the kernel gives it back with the answer.
func newID() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // does not fail (crypto/rand)
	return int64(binary.NativeEndian.Uint64(b[:]) >> 1)
}

func send(fd uintptr, id int64, netFn, cmd byte, data []byte) error {
	if len(data) > maxMessage-2 {
		return fmt.Errorf("%d bytes are too many for a message", len(data))
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	req := &sendRequest{addr: &address{kind: systemInterface, channel: bmcChannel}, id: id}
	req.addrLen = 8 // struct ipmi_system_interface_addr
	req.msg = message{netFn: netFn, cmd: cmd, length: uint16(len(data))}
	if len(data) > 0 {
		req.msg.data = &data[0]
		pin.Pin(req.msg.data)
	}
	pin.Pin(req.addr)
	pin.Pin(req)
	return ioctl(fd, ioctlSend, unsafe.Pointer(req))
}

func receive(fd uintptr) (answer []byte, id int64, err error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	buf := make([]byte, maxMessage)
	req := &receiveRequest{addr: &address{}, addrLen: uint32(unsafe.Sizeof(address{}))}
	req.msg = message{length: maxMessage, data: &buf[0]}
	pin.Pin(req.msg.data)
	pin.Pin(req.addr)
	pin.Pin(req)
	if err := ioctl(fd, ioctlReceive, unsafe.Pointer(req)); err != nil {
		return nil, 0, err
	}
	return buf[:min(int(req.msg.length), len(buf))], req.id, nil
}

func ioctl(fd, op uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, op, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
