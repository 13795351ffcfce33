package qemu

import (
	"context"
	"net"
	"time"

	"baystream/qemu/bmc"
)

// module is a VM as its BMC and the frame's manager see it.
type module struct{ vm *VM }

const powerPause = 500 * time.Millisecond // between off and on of a power cycle

func (m module) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(m.vm.life, Deadline(10*time.Second))
}

func (m module) On() bool { return m.vm.On() }

func (m module) PowerOn() error {
	ctx, cancel := m.context()
	defer cancel()
	return m.vm.PowerOn(ctx)
}

func (m module) PowerOff() error {
	m.vm.PowerOff()
	return nil
}

func (m module) PowerCycle() error {
	m.vm.PowerOff()
	select {
	case <-m.vm.life.Done():
	case <-time.After(powerPause):
	}
	return m.PowerOn()
}

func (m module) Reset() error {
	ctx, cancel := m.context()
	defer cancel()
	return m.vm.Reset(ctx)
}

func (m module) PowerButton() error {
	ctx, cancel := m.context()
	defer cancel()
	return m.vm.PowerButton(ctx)
}

func (m module) Interrupt() error {
	ctx, cancel := m.context()
	defer cancel()
	return m.vm.Do(ctx, "inject-nmi", nil, nil)
}

func (m module) Readings() []bmc.Reading { return m.vm.bmc.Readings() }

// sensors of a virtual module, at rest.
func sensors() []bmc.Sensor {
	return []bmc.Sensor{
		{Name: "Inlet Temp", Kind: bmc.Temperature, Step: 1, Nominal: 24, UpperWarning: 38, UpperCritical: 42, UpperFatal: 47},
		{Name: "CPU Temp", Kind: bmc.Processor, Step: 1, Nominal: 46, UpperWarning: 85, UpperCritical: 95, UpperFatal: 105},
		{Name: "Power", Kind: bmc.Power, Step: 2, Nominal: 84, UpperWarning: 300, UpperCritical: 350},
		{Name: "Fan 1", Kind: bmc.Fan, Step: 60, Nominal: 5400, LowerWarning: 2400, LowerCritical: 1200},
	}
}

// serveBMC answers each connection that QEMU makes.
func (v *VM) serveBMC(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		v.wg.Go(func() {
			if err := v.bmc.Serve(conn); err != nil {
				v.log.Warn("bmc", "err", err)
			}
		})
	}
}

// BMC returns the module's management controller.
func (v *VM) BMC() *bmc.BMC { return v.bmc }

// SetBMC makes the BMC stop answering its module, or answer again. QEMU then
// ends each command after 4 s with completion code C3h. The watchdog of a dead
// BMC does nothing.
func (v *VM) SetBMC(alive bool) { v.bmc.SetSilent(!alive) }
