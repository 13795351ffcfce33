package bmc

// chassisCapabilities: no sensors of its own, everything at the BMC's address.
func (b *BMC) chassisCapabilities([]byte) (byte, []byte) {
	return ccOK, []byte{0x00, 0x20, 0x20, 0x20, 0x20}
}

func (b *BMC) chassisStatus([]byte) (byte, []byte) {
	var power byte = 0x60 // restore policy unknown
	if b.cfg.Machine.On() {
		power |= 1
	}
	return ccOK, []byte{power, 0, 0}
}

// chassisControl: IPMI 2.0 section 28.3.
func (b *BMC) chassisControl(data []byte) (byte, []byte) {
	m := b.cfg.Machine
	switch data[0] & 0xf {
	case 0:
		b.act("power off", m.PowerOff)
	case 1:
		b.act("power on", m.PowerOn)
	case 2:
		b.act("power cycle", m.PowerCycle)
	case 3:
		b.act("reset", m.Reset)
	case 4:
		b.act("interrupt", m.Interrupt)
	case 5:
		b.act("power button", m.PowerButton)
	default:
		return ccInvalidField, nil
	}
	return ccOK, nil
}
