package dm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotFound says that no mapped device of that name exists.
var ErrNotFound = errors.New("no such mapped device")

// ErrExists says that a mapped device of that name exists already.
var ErrExists = errors.New("mapped device exists")

// ErrBusy says that the device is still open, after all retries.
var ErrBusy = errors.New("mapped device is in use")

// Target is one segment of a table, or of a status answer.
type Target struct {
	Start, Length uint64 // sectors
	Type          string
	Params        string // parameters of a table, status text of a status
}

// Info is the state of a mapped device.
type Info struct {
	Name      string
	UUID      string
	Minor     uint32
	Opens     int
	Active    bool // has a live table
	Inactive  bool // has a loaded table that was not resumed yet
	Suspended bool
	ReadOnly  bool
}

// Node is the path of the device as devtmpfs names it.
func (i Info) Node() string { return node(i.Minor) }

// Name is one entry of the list of mapped devices.
type Name struct {
	Name  string
	Minor uint32
}

func node(minor uint32) string { return "/dev/dm-" + strconv.FormatUint(uint64(minor), 10) }

const (
	nrCreate  = 3
	nrRemove  = 4
	nrSuspend = 6
	nrStatus  = 7
	nrLoad    = 9
	nrTable   = 12
	nrMessage = 14
	nrList    = 2
)

const controlNode = "/dev/mapper/control"

// Control is the open control node of device-mapper.
type Control struct {
	f *os.File
}

// Open opens the control node, making it from /proc/misc when no udev did. It
// needs CAP_SYS_ADMIN and the module dm-mod.
func Open() (*Control, error) {
	f, err := os.OpenFile(controlNode, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeControl(); err != nil {
			return nil, fmt.Errorf("device-mapper: %w", err)
		}
		f, err = os.OpenFile(controlNode, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("device-mapper: %w (is the module dm-mod loaded?)", err)
	}
	return &Control{f: f}, nil
}

// Close closes the control node. Devices stay.
func (c *Control) Close() error { return c.f.Close() }

func makeControl() error {
	b, err := os.ReadFile("/proc/misc")
	if err != nil {
		return err
	}
	n, err := miscMinor(b, "device-mapper")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(controlNode), 0o755); err != nil {
		return err
	}
	err = unix.Mknod(controlNode, unix.S_IFCHR|0o600, int(unix.Mkdev(10, n)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", controlNode, err)
	}
	return nil
}

// miscMinor finds the minor number of a misc device in the text of /proc/misc.
func miscMinor(procMisc []byte, name string) (uint32, error) {
	for s := bufio.NewScanner(bytes.NewReader(procMisc)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) == 2 && f[1] == name {
			n, err := strconv.ParseUint(f[0], 10, 20)
			return uint32(n), err
		}
	}
	return 0, fmt.Errorf("%s is not in /proc/misc (%w): load the module dm-mod", name, os.ErrNotExist)
}

// call runs one ioctl. It grows the buffer until the kernel's answer fits and
// returns the header and the data behind it.
func (c *Control) call(nr uintptr, h header, data []byte) (header, []byte, error) {
	for size := max(4096, headerSize+len(data)+64); ; size *= 4 {
		buf := make([]byte, size)
		h.size = uint32(size)
		if err := h.put(buf); err != nil {
			return header{}, nil, err
		}
		copy(buf[dataStart:], data)
		req := uintptr(3)<<30 | uintptr(headerSize)<<16 | 0xfd<<8 | nr
		var errno unix.Errno
		for {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, c.f.Fd(), req, uintptr(unsafe.Pointer(&buf[0])))
			if errno != unix.EINTR {
				break
			}
		}
		if errno != 0 {
			return header{}, nil, errno
		}
		out := parseHeader(buf)
		if out.flags&flagBufferFull != 0 && size < 16<<20 {
			continue
		}
		return out, buf[dataStart:min(uint32(size), max(out.size, dataStart))], nil
	}
}

func wrap(op, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENXIO):
		err = ErrNotFound
	case errors.Is(err, unix.EBUSY) && op == "create":
		err = ErrExists
	case errors.Is(err, unix.EBUSY) && op == "remove":
		err = ErrBusy
	}
	return fmt.Errorf("mapped device %s: %s: %w", name, op, err)
}

// Create makes an empty device. It answers ErrExists when the name or the uuid
// is taken.
func (c *Control) Create(name, uuid string) (Info, error) {
	h, _, err := c.call(nrCreate, header{name: name, uuid: uuid}, nil)
	return info(h), wrap("create", name, err)
}

// Load loads a table into the device's inactive slot; Resume makes it live.
func (c *Control) Load(name string, readOnly bool, table ...Target) error {
	data, err := encodeTargets(table)
	if err != nil {
		return wrap("load table", name, err)
	}
	h := header{name: name, targets: uint32(len(table))}
	if readOnly {
		h.flags |= flagReadOnly
	}
	_, _, err = c.call(nrLoad, h, data)
	return wrap("load table", name, err)
}

// Suspend flushes the device and holds back new I/O until Resume.
func (c *Control) Suspend(name string) error {
	_, _, err := c.call(nrSuspend, header{name: name, flags: flagSuspend}, nil)
	return wrap("suspend", name, err)
}

// Resume makes a loaded table live and lets I/O go on.
func (c *Control) Resume(name string) (Info, error) {
	h, _, err := c.call(nrSuspend, header{name: name}, nil)
	return info(h), wrap("resume", name, err)
}

// Message sends a message to the target that covers sector 0 and returns the
// target's answer, which is empty for most messages.
func (c *Control) Message(name, msg string) (string, error) {
	data := make([]byte, 8+len(msg)+1)
	copy(data[8:], msg)
	h, out, err := c.call(nrMessage, header{name: name}, data)
	if err != nil {
		return "", wrap("message "+strconv.Quote(msg), name, err)
	}
	if h.flags&flagDataOut != 0 {
		return cstring(out), nil
	}
	return "", nil
}

// Info tells a device's state, or ErrNotFound.
func (c *Control) Info(name string) (Info, error) {
	h, _, err := c.call(nrStatus, header{name: name}, nil)
	return info(h), wrap("look up", name, err)
}

// Status reads the status of the device's targets. With noFlush a thin pool
// answers from memory; without it the pool commits first.
func (c *Control) Status(name string, noFlush bool) ([]Target, error) {
	h := header{name: name}
	if noFlush {
		h.flags |= flagNoFlush
	}
	return c.table(name, "status", h)
}

// Table reads the live table.
func (c *Control) Table(name string) ([]Target, error) {
	return c.table(name, "read table", header{name: name, flags: flagTable | flagNoFlush})
}

func (c *Control) table(name, op string, h header) ([]Target, error) {
	out, data, err := c.call(nrTable, h, nil)
	if err != nil {
		return nil, wrap(op, name, err)
	}
	t, err := parseTargets(data, out.targets)
	return t, wrap(op, name, err)
}

// List names all mapped devices.
func (c *Control) List() ([]Name, error) {
	_, data, err := c.call(nrList, header{}, nil)
	if err != nil {
		return nil, fmt.Errorf("list mapped devices: %w", err)
	}
	names, err := parseNames(data)
	if err != nil {
		return nil, fmt.Errorf("list mapped devices: %w", err)
	}
	return names, nil
}

// Remove takes the device down. While somebody still holds it open it tries
// again for up to two seconds (a closing program or a udev probe lets go
// within that), then answers ErrBusy. A device that is gone is no error.
func (c *Control) Remove(ctx context.Context, name string) error {
	const tries, pause = 40, 50 * time.Millisecond
	for i := 0; ; i++ {
		_, _, err := c.call(nrRemove, header{name: name}, nil)
		if err == nil || errors.Is(err, unix.ENXIO) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || i == tries {
			return wrap("remove", name, err)
		}
		select {
		case <-ctx.Done():
			return wrap("remove", name, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// Ensure brings a device up with the given table and tells where it is. It
// finishes what an interrupted Ensure began, and leaves a device alone that is
// live already with a table of the same shape; a live device with another
// table is an error, never a silent swap.
func (c *Control) Ensure(ctx context.Context, name, uuid string, table ...Target) (Info, error) {
	_, err := c.Create(name, uuid)
	fresh := err == nil
	if errors.Is(err, ErrExists) {
		i, err := c.Info(name)
		if err != nil {
			return Info{}, err
		}
		if i.Active {
			have, err := c.Table(name)
			if err != nil {
				return Info{}, err
			}
			if !sameTable(have, table) {
				return Info{}, fmt.Errorf("mapped device %s: is live with table %v, want %v: remove it first", name, have, table)
			}
			if i.Suspended {
				return c.Resume(name)
			}
			return i, nil
		}
	} else if err != nil {
		return Info{}, err
	}
	err = c.Load(name, false, table...)
	var i Info
	if err == nil {
		i, err = c.Resume(name)
	}
	if err != nil {
		if fresh {
			err = errors.Join(err, c.Remove(ctx, name))
		}
		return Info{}, err
	}
	return i, nil
}

// sameTable compares segments and types, and parameters word by word up to
// the shorter list: the kernel appends defaults when it shows a table.
func sameTable(have, want []Target) bool {
	if len(have) != len(want) {
		return false
	}
	for i, w := range want {
		h := have[i]
		if h.Start != w.Start || h.Length != w.Length || h.Type != w.Type {
			return false
		}
		hp, wp := strings.Fields(h.Params), strings.Fields(w.Params)
		if len(hp) == 0 || len(wp) == 0 {
			continue
		}
		if hp[0] != wp[0] || h.Type != "thin-pool" && h.Params != w.Params {
			return false
		}
	}
	return true
}

func info(h header) Info {
	return Info{
		Name: h.name, UUID: h.uuid, Minor: minor(h.dev), Opens: int(h.open),
		Active:    h.flags&flagActive != 0,
		Inactive:  h.flags&flagInactive != 0,
		Suspended: h.flags&flagSuspend != 0,
		ReadOnly:  h.flags&flagReadOnly != 0,
	}
}

// Number gives a block device as "major:minor", the form in which the kernel
// shows devices in tables and accepts them.
func Number(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", fmt.Errorf("%s is not a block device", path)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}
