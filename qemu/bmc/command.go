package bmc

// Completion codes (IPMI 2.0 table 5-2).
const (
	ccOK             = 0x00
	ccNoData         = 0x80 // of Get Message: the queue is empty
	ccNotInitialised = 0x80 // of Reset Watchdog Timer: never set
	ccReadOnly       = 0x80 // of Write FRU Data
	ccInvalidCommand = 0xc1
	ccInvalidLUN     = 0xc2
	ccReservation    = 0xc5
	ccLength         = 0xc7
	ccTooLong        = 0xc8 // the request is fine, the answer would not fit
	ccRange          = 0xc9
	ccCannotReturn   = 0xca
	ccNotPresent     = 0xcb
	ccInvalidField   = 0xcc
)

// Network functions.
const (
	netChassis = 0x00
	netSensor  = 0x04
	netApp     = 0x06
	netStorage = 0x0a
)

// A command answers with a completion code and data. It runs with mu held.
type command struct {
	least int // bytes of data
	do    func(b *BMC, data []byte) (byte, []byte)
}

func answer(code byte) func(*BMC, []byte) (byte, []byte) {
	return func(*BMC, []byte) (byte, []byte) { return code, nil }
}

// commands by network function and number.
var commands = map[[2]byte]command{
	{netApp, 0x01}: {0, (*BMC).deviceID},
	{netApp, 0x02}: {0, answer(ccOK)},                                                       // cold reset: nothing to lose
	{netApp, 0x03}: {0, answer(ccOK)},                                                       // warm reset
	{netApp, 0x04}: {0, func(*BMC, []byte) (byte, []byte) { return ccOK, []byte{0x55, 0} }}, // self-test: no error
	{netApp, 0x08}: {0, (*BMC).systemGUID},
	{netApp, 0x22}: {0, (*BMC).resetWatchdog},
	{netApp, 0x24}: {6, (*BMC).setWatchdog},
	{netApp, 0x25}: {0, (*BMC).getWatchdog},
	{netApp, 0x2e}: {1, (*BMC).setEnables},
	{netApp, 0x2f}: {0, (*BMC).getEnables},
	{netApp, 0x30}: {1, (*BMC).clearFlags},
	{netApp, 0x31}: {0, (*BMC).getFlags},
	{netApp, 0x33}: {0, answer(ccNoData)}, // Get Message
	{netApp, 0x35}: {0, answer(ccNoData)}, // Read Event Message Buffer
	{netApp, 0x37}: {0, (*BMC).systemGUID},
	{netApp, 0x42}: {1, (*BMC).channelInfo},

	{netChassis, 0x00}: {0, (*BMC).chassisCapabilities},
	{netChassis, 0x01}: {0, (*BMC).chassisStatus},
	{netChassis, 0x02}: {1, (*BMC).chassisControl},
	{netChassis, 0x04}: {0, answer(ccOK)}, // Chassis Identify: no lamp

	{netSensor, 0x02}: {7, (*BMC).platformEvent},
	{netSensor, 0x26}: {8, (*BMC).setThresholds},
	{netSensor, 0x27}: {1, (*BMC).getThresholds},
	{netSensor, 0x2d}: {1, (*BMC).sensorReading},

	{netStorage, 0x10}: {1, (*BMC).fruInfo},
	{netStorage, 0x11}: {4, (*BMC).readFRU},
	{netStorage, 0x12}: {3, answer(ccReadOnly)},
	{netStorage, 0x20}: {0, (*BMC).sdrInfo},
	{netStorage, 0x22}: {0, (*BMC).reserveSDR},
	{netStorage, 0x23}: {6, (*BMC).getSDR},
	{netStorage, 0x40}: {0, (*BMC).selInfo},
	{netStorage, 0x42}: {0, (*BMC).reserveSEL},
	{netStorage, 0x43}: {6, (*BMC).getSEL},
	{netStorage, 0x44}: {16, (*BMC).addSEL},
	{netStorage, 0x47}: {6, (*BMC).clearSEL},
	{netStorage, 0x48}: {0, (*BMC).selTime},
	{netStorage, 0x49}: {4, (*BMC).setSELTime},
}

func (b *BMC) handle(r request) (byte, []byte) {
	if r.lun != 0 {
		return ccInvalidLUN, nil
	}
	c, ok := commands[[2]byte{r.netFn, r.cmd}]
	if !ok {
		return ccInvalidCommand, nil
	}
	if len(r.data) < c.least {
		return ccLength, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return c.do(b, r.data)
}

// deviceID: IPMI 2.0, with SDR, SEL, FRU and chassis support. Manufacturer
// 7244 is QEMU's, as in its own BMC.
func (b *BMC) deviceID([]byte) (byte, []byte) {
	return ccOK, []byte{0x20, 0x81, 1, 0x00, 0x02, 0x8f, 0x4c, 0x1c, 0, 1, 0, 0, 0, 0, 0}
}

func (b *BMC) systemGUID([]byte) (byte, []byte) { return ccOK, b.guid[:] }

func (b *BMC) setEnables(data []byte) (byte, []byte) {
	b.enables = data[0]
	return ccOK, nil
}

func (b *BMC) getEnables([]byte) (byte, []byte) { return ccOK, []byte{b.enables} }

// flags: the watchdog's pre-timeout is the only one that can be set.
func (b *BMC) getFlags([]byte) (byte, []byte) {
	var flags byte
	if b.watchdog.warned {
		flags |= preTimeoutFlag
	}
	return ccOK, []byte{flags}
}

func (b *BMC) clearFlags(data []byte) (byte, []byte) {
	if data[0]&preTimeoutFlag != 0 {
		b.watchdog.warned = false
		if b.send != nil {
			b.send(encode([]byte{cmdNoAttention}, commandEnd))
		}
	}
	return ccOK, nil
}

// channelInfo: the system interface is the only channel, 0Fh; 0Eh is "this
// one".
func (b *BMC) channelInfo(data []byte) (byte, []byte) {
	if c := data[0] & 0xf; c != 0xe && c != 0xf {
		return ccInvalidField, nil
	}
	return ccOK, []byte{0x0f, 0x0c, 0x05, 0x00, 0xf2, 0x1b, 0x00, 0xff, 0xff}
}
