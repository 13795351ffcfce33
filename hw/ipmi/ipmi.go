// Package ipmi asks a module's management controller (BMC) what it knows: the
// controller itself, field replaceable units (FRU), sensors with their
// thresholds, and the system event log (SEL), which it also writes to.
//
// A Client sends requests over a Transport; Open gives one over the kernel's
// device /dev/ipmi0. Numbers and layouts are those of the Intelligent Platform
// Management Interface Specification 2.0 (sections are named in the files) and
// of the Platform Management FRU Information Storage Definition 1.0. Sensor
// records and the texts of standard events come from the library go-ipmi; FRU
// areas are parsed here, because what a controller answers must never stop the
// program.
//
// The watchdog timer is not touched: it belongs to the first process.
//
// A Client is safe for concurrent use; requests go one after the other.
package ipmi

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Transport carries one request to the controller. The answer's first byte is
// the completion code.
type Transport interface {
	Exchange(ctx context.Context, netFn, cmd byte, data []byte) ([]byte, error)
	Close() error
}

// Client speaks to one controller.
type Client struct {
	mu sync.Mutex // one request at a time: transports mix up answers otherwise
	t  Transport
}

// NewClient makes a client, which closes t when it is closed.
func NewClient(t Transport) *Client { return &Client{t: t} }

// Close closes the transport.
func (c *Client) Close() error { return c.t.Close() }

// Network functions (IPMI 2.0, table 5-1).
const (
	netFnChassis = 0x00
	netFnSensor  = 0x04
	netFnApp     = 0x06
	netFnStorage = 0x0a
)

// Code is a completion code other than success (IPMI 2.0, section 5.2).
type Code byte

// Codes that a caller reacts to.
const (
	codeInvalidCommand  Code = 0xc1
	codeOutOfSpace      Code = 0xc4
	codeReservationLost Code = 0xc5
	codeLengthInvalid   Code = 0xc7
	codeLengthLimit     Code = 0xc8
	codeOutOfRange      Code = 0xc9
	codeTooMuchAsked    Code = 0xca
	codeNotPresent      Code = 0xcb
	codeInvalidField    Code = 0xcc
)

var codeText = map[Code]string{
	0xc0: "node busy", codeInvalidCommand: "command not supported", 0xc2: "command not supported for this LUN", 0xc3: "timeout",
	codeOutOfSpace: "out of space", codeReservationLost: "reservation lost", 0xc6: "request truncated",
	codeLengthInvalid: "wrong request length", codeLengthLimit: "request too long", codeOutOfRange: "parameter out of range",
	codeTooMuchAsked: "cannot return so many bytes", codeNotPresent: "sensor, data or record not present",
	codeInvalidField: "invalid field in request", 0xd3: "destination unavailable", 0xd4: "insufficient privilege",
	0xd5: "not possible in the present state", 0xff: "unspecified error",
}

// Error implements error.
func (c Code) Error() string {
	if s, ok := codeText[c]; ok {
		return fmt.Sprintf("controller answers %#02x: %s", byte(c), s)
	}
	return fmt.Sprintf("controller answers %#02x", byte(c))
}

// NotPresent tells whether err is the controller's way to say that there is no
// such thing: a FRU device, a record or a whole function.
func NotPresent(err error) bool {
	var c Code
	if !errors.As(err, &c) {
		return false
	}
	return c == codeNotPresent || c == codeOutOfRange || c == codeInvalidField || c == codeInvalidCommand
}

// errShort is an answer that lacks bytes.
var errShort = errors.New("answer is too short")

// ask sends a request and returns the answer behind the completion code, at
// least want bytes of it.
func (c *Client) ask(ctx context.Context, netFn, cmd byte, want int, data ...byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.t.Exchange(ctx, netFn, cmd, data)
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0:
		return nil, errShort
	case b[0] != 0:
		return nil, Code(b[0])
	case len(b)-1 < want:
		return nil, fmt.Errorf("%w: %d bytes instead of %d", errShort, len(b)-1, want)
	}
	return b[1:], nil
}

// Device is the controller itself.
type Device struct {
	ID           int    `json:"id"`
	Revision     int    `json:"revision"`
	Firmware     string `json:"firmware"`     // "1.02"
	IPMI         string `json:"ipmi"`         // version of the specification: "2.0"
	Manufacturer int    `json:"manufacturer"` // IANA private enterprise number
	Product      int    `json:"product"`
}

// Device asks for the controller's identity (section 20.1).
func (c *Client) Device(ctx context.Context) (Device, error) {
	b, err := c.ask(ctx, netFnApp, 0x01, 11)
	if err != nil {
		return Device{}, fmt.Errorf("ipmi: device id: %w", err)
	}
	return parseDevice(b), nil
}

func parseDevice(b []byte) Device {
	return Device{
		ID: int(b[0]), Revision: int(b[1] & 0x0f),
		Firmware:     fmt.Sprintf("%d.%02x", b[2]&0x7f, b[3]), // minor revision is BCD
		IPMI:         fmt.Sprintf("%d.%d", b[4]&0x0f, b[4]>>4),
		Manufacturer: int(b[6]) | int(b[7])<<8 | int(b[8]&0x0f)<<16,
		Product:      int(b[9]) | int(b[10])<<8,
	}
}

// Chassis is the power of the module as the controller sees it.
type Chassis struct {
	PowerOn     bool   `json:"powerOn"`
	PowerFault  bool   `json:"powerFault"`
	LastEvent   string `json:"lastPowerEvent"` // why power went down last; "" if not known
	IdentifyLED bool   `json:"identify"`
}

// Chassis asks for the state of power (section 28.2).
func (c *Client) Chassis(ctx context.Context) (Chassis, error) {
	b, err := c.ask(ctx, netFnChassis, 0x01, 3)
	if err != nil {
		return Chassis{}, fmt.Errorf("ipmi: chassis status: %w", err)
	}
	s := Chassis{PowerOn: b[0]&1 != 0, PowerFault: b[0]&0x18 != 0, IdentifyLED: b[2]&0x40 != 0 && b[2]&0x30 != 0}
	for bit, text := range []string{"AC failed", "overload", "interlock", "power fault", "command"} {
		if b[1]&(1<<bit) != 0 {
			s.LastEvent = text
		}
	}
	return s, nil
}
