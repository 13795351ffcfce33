package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// spareSlots are an appliance's empty PCIe slots.
var spareSlots = []int{7, 8}

func slotID(slot int) string { return fmt.Sprintf("slot%d", slot) }

// slots are the PCIe slots of a module, filled or not.
func (v *VM) slots() []int {
	all := map[int]bool{}
	for _, s := range v.cfg.Spare {
		all[s] = true
	}
	for _, n := range v.cfg.NICs {
		all[n.Slot] = true
	}
	for _, d := range v.cfg.Disks {
		if d.Slot > 0 {
			all[d.Slot] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// empty tells whether something fits into a slot.
func (v *VM) empty(slot int) error {
	for _, n := range v.cfg.NICs {
		if n.Slot == slot {
			return fmt.Errorf("vm %s: slot %d has a network card; unplug it first", v.cfg.Name, slot)
		}
	}
	for _, d := range v.cfg.Disks {
		if d.Slot == slot {
			return fmt.Errorf("vm %s: slot %d has a disk; unplug it first", v.cfg.Name, slot)
		}
	}
	if !slices.Contains(v.cfg.Spare, slot) {
		return fmt.Errorf("vm %s: no slot %d to plug into; there are %v", v.cfg.Name, slot, v.cfg.Spare)
	}
	return nil
}

// PlugDisk puts a disk into an empty slot, d.Slot. It stays there when the
// module is switched off and on.
func (v *VM) PlugDisk(ctx context.Context, d Disk) error {
	v.power.Lock()
	defer v.power.Unlock()
	if err := v.empty(d.Slot); err != nil {
		return err
	}
	if err := d.create(); err != nil {
		return fmt.Errorf("vm %s: %w", v.cfg.Name, err)
	}
	id := d.id(0)
	if err := v.serveDisk(id, d); err != nil {
		return fmt.Errorf("vm %s: %w", v.cfg.Name, err)
	}
	if v.On() {
		if err := v.Do(ctx, "blockdev-add", v.node(id, d, false), nil); err != nil {
			return errors.Join(err, v.endDrive(id))
		}
		if err := v.Do(ctx, "device_add", d.device(id), nil); err != nil {
			return errors.Join(err, v.Do(ctx, "blockdev-del", map[string]any{"node-name": id}, nil), v.endDrive(id))
		}
	}
	v.mu.Lock()
	v.cfg.Disks = append(v.cfg.Disks, d)
	v.mu.Unlock()
	v.log.Info("disk plugged", "slot", d.Slot, "file", d.Path)
	v.tellChange(fmt.Sprintf("a disk was plugged into slot %d", d.Slot))
	return nil
}

// PlugNIC puts a network card into an empty slot, n.Slot.
func (v *VM) PlugNIC(ctx context.Context, n NIC) error {
	v.power.Lock()
	defer v.power.Unlock()
	if err := v.empty(n.Slot); err != nil {
		return err
	}
	p, err := n.Network.Listen(v.socket(n.id()), n.Port)
	if err != nil {
		return err
	}
	if v.On() {
		if err := v.Do(ctx, "netdev_add", v.netdev(n, false), nil); err != nil {
			p.Close()
			return err
		}
		if err := v.Do(ctx, "device_add", n.device(), nil); err != nil {
			p.Close()
			return errors.Join(err, v.Do(ctx, "netdev_del", map[string]any{"id": n.netdevID()}, nil))
		}
	}
	v.mu.Lock()
	v.cfg.NICs, v.ports = append(v.cfg.NICs, n), append(v.ports, p)
	v.mu.Unlock()
	v.log.Info("network card plugged", "slot", n.Slot, "network", n.Network.name)
	v.tellChange(fmt.Sprintf("a network card was plugged into slot %d", n.Slot))
	return nil
}

// ReplaceNIC takes the network card out of a slot and puts another in, with an
// address of its own. Its cable leads where that of the module's first card in slot to
// leads: to is slot itself for the right one.
func (v *VM) ReplaceNIC(ctx context.Context, slot, to int) error {
	v.mu.Lock()
	find := func(slot int) (NIC, bool) {
		i := slices.IndexFunc(v.cfg.NICs, func(n NIC) bool { return n.Slot == slot })
		if i < 0 {
			return NIC{}, false
		}
		return v.cfg.NICs[i], true
	}
	n, ok := find(slot)
	if v.wiring == nil {
		v.wiring = map[int]NIC{}
	}
	if _, known := v.wiring[slot]; ok && !known {
		v.wiring[slot] = n
	}
	end, found := v.wiring[to]
	if !found {
		end, found = find(to)
	}
	v.mu.Unlock()
	if !ok || !found {
		return fmt.Errorf("vm %s: no network card in slot %d or %d", v.cfg.Name, slot, to)
	}
	if err := v.Unplug(ctx, slot); err != nil {
		return err
	}
	n.MAC = slices.Clone(n.MAC)
	n.MAC[2]++
	n.Network, n.Port = end.Network, end.Port
	if to != slot {
		n.Port.Name = fmt.Sprintf("%s-%s", end.Port.Name, slotID(slot))
	}
	return v.PlugNIC(ctx, n)
}

// Unplug takes what is in a slot out, and returns when the module has let it
// go: Linux waits 5 s after the slot's button is pressed (pciehp).
func (v *VM) Unplug(ctx context.Context, slot int) error {
	v.power.Lock()
	defer v.power.Unlock()
	if i := slices.IndexFunc(v.cfg.NICs, func(n NIC) bool { return n.Slot == slot }); i >= 0 {
		n := v.cfg.NICs[i]
		if err := v.remove(ctx, n.id(), "netdev_del", map[string]any{"id": n.netdevID()}); err != nil {
			return err
		}
		v.ports[i].Close()
		v.mu.Lock()
		v.cfg.NICs, v.ports = slices.Delete(v.cfg.NICs, i, i+1), slices.Delete(v.ports, i, i+1)
		v.mu.Unlock()
	} else if i := slices.IndexFunc(v.cfg.Disks, func(d Disk) bool { return d.Slot == slot }); i >= 0 {
		id := v.cfg.Disks[i].id(i)
		if err := v.remove(ctx, id, "blockdev-del", map[string]any{"node-name": id}); err != nil {
			return err
		}
		if err := v.endDrive(id); err != nil {
			return err
		}
		v.cfg.Disks = slices.Delete(v.cfg.Disks, i, i+1)
	} else {
		return fmt.Errorf("vm %s: slot %d is empty", v.cfg.Name, slot)
	}
	if !slices.Contains(v.cfg.Spare, slot) {
		v.cfg.Spare = append(v.cfg.Spare, slot)
	}
	v.log.Info("unplugged", "slot", slot)
	v.tellChange(fmt.Sprintf("slot %d was emptied", slot))
	return nil
}

// remove takes a device from a running module, then its backend.
func (v *VM) remove(ctx context.Context, device, backend string, args map[string]any) error {
	if !v.On() {
		return nil
	}
	gone := make(chan struct{})
	v.mu.Lock()
	v.leaving[device] = gone
	exited := v.exited
	v.mu.Unlock()
	if err := v.Do(ctx, "device_del", map[string]any{"id": device}, nil); err != nil {
		return err
	}
	select {
	case <-gone:
		return v.Do(ctx, backend, args, nil)
	case <-exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("vm %s: unplug %s: %w; does the module's OS answer the slot's button?", v.cfg.Name, device, ctx.Err())
	}
}

// event looks at what the VM reports by itself.
func (v *VM) event(e Event) {
	v.log.Debug("qmp", "event", e.Name, "data", string(e.Data))
	if e.Name != "DEVICE_DELETED" {
		return
	}
	var data struct{ Device string }
	if err := json.Unmarshal(e.Data, &data); err != nil || data.Device == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if gone := v.leaving[data.Device]; gone != nil {
		close(gone)
		delete(v.leaving, data.Device)
	}
}

func (v *VM) tellChange(what string) {
	if v.changed != nil {
		v.changed(what)
	}
}
