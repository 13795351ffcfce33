package bmc

import (
	"encoding/binary"
	"time"
)

// Bits of the watchdog commands (IPMI 2.0 section 27.6).
const (
	dontLog        = 0x80
	dontStop       = 0x40
	running        = 0x40 // in the answer of Get
	preTimeoutFlag = 0x08 // of Get Message Flags

	interruptNMI     = 2
	interruptMessage = 3
)

// A watchdog counts down in steps of 100 ms while it runs.
type watchdog struct {
	bmc     *BMC
	set     bool
	use     byte // and dontLog
	actions byte // pre-timeout interrupt in the upper half, action in the lower
	early   byte // seconds between interrupt and action
	expired byte // flags by timer use
	initial time.Duration
	warned  bool // the interrupt was raised

	ends    time.Time // zero: stopped
	timer   *time.Timer
	warning *time.Timer
}

const watchdogTick = 100 * time.Millisecond

func (w *watchdog) stop() {
	for _, t := range []*time.Timer{w.timer, w.warning} {
		if t != nil {
			t.Stop()
		}
	}
	w.ends = time.Time{}
}

// start counts down from the beginning. A timer that fires while it is being
// stopped finds another end than its own, and does nothing.
func (w *watchdog) start() {
	w.stop()
	w.warned = false
	ends := time.Now().Add(w.initial)
	w.ends = ends
	w.timer = time.AfterFunc(w.initial, func() { w.fire(ends, w.bite) })
	if early := w.initial - time.Duration(w.early)*time.Second; w.actions>>4 != 0 && early >= 0 {
		w.warning = time.AfterFunc(early, func() { w.fire(ends, w.warn) })
	}
}

func (w *watchdog) fire(ends time.Time, do func()) {
	w.bmc.mu.Lock()
	defer w.bmc.mu.Unlock()
	if w.ends.Equal(ends) && !w.bmc.closed {
		do()
	}
}

// warn raises the pre-timeout interrupt.
func (w *watchdog) warn() {
	w.warned = true
	w.log(0x08)
	switch w.actions >> 4 & 7 {
	case interruptNMI:
		w.bmc.act("watchdog: interrupt", w.bmc.cfg.Machine.Interrupt)
	case interruptMessage:
		if w.bmc.send != nil {
			w.bmc.send(encode([]byte{cmdAttention}, commandEnd))
		}
	}
}

// bite does what the timer was set to do.
func (w *watchdog) bite() {
	w.ends = time.Time{}
	w.expired |= 1 << (w.use & 7)
	action := w.actions & 7
	w.log(action)
	m := w.bmc.cfg.Machine
	switch action {
	case 1:
		w.bmc.act("watchdog: reset", m.Reset)
	case 2:
		w.bmc.act("watchdog: power off", m.PowerOff)
	case 3:
		w.bmc.act("watchdog: power cycle", m.PowerCycle)
	}
}

// log writes an event of sensor type 23h, watchdog 2.
func (w *watchdog) log(offset byte) {
	if w.use&dontLog == 0 {
		w.bmc.logEvent(event{0x23, watchdogSensor, 0x6f, [3]byte{0x80 | offset, w.actions&0x70 | w.use&7, 0xff}})
	}
}

func (b *BMC) setWatchdog(data []byte) (byte, []byte) {
	w := &b.watchdog
	was := !w.ends.IsZero()
	w.set = true
	w.use, w.actions, w.early = data[0]&^dontStop, data[1], data[2]
	w.expired &^= data[3]
	w.initial = time.Duration(binary.LittleEndian.Uint16(data[4:])) * watchdogTick
	w.stop()
	if was && data[0]&dontStop != 0 {
		w.start()
	}
	return ccOK, nil
}

func (b *BMC) resetWatchdog([]byte) (byte, []byte) {
	if !b.watchdog.set {
		return ccNotInitialised, nil
	}
	b.watchdog.start()
	return ccOK, nil
}

func (b *BMC) getWatchdog([]byte) (byte, []byte) {
	w := &b.watchdog
	use, left := w.use, w.initial
	if !w.ends.IsZero() {
		use |= running
		left = max(0, time.Until(w.ends))
	}
	out := []byte{use, w.actions, w.early, w.expired}
	out = binary.LittleEndian.AppendUint16(out, uint16(w.initial/watchdogTick))
	return ccOK, binary.LittleEndian.AppendUint16(out, uint16((left+watchdogTick-1)/watchdogTick))
}
