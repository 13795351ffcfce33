package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"

	"baystream/qemu/block"
)

// id is "disk0" for the first disk without a slot, "disk-slot7" for one in slot 7.
func (d Disk) id(n int) string {
	if d.Slot > 0 {
		return fmt.Sprintf("disk-slot%d", d.Slot)
	}
	return fmt.Sprintf("disk%d", n)
}

// create makes the file where there is none, and lets a smaller one grow.
func (d Disk) create() error {
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() < d.Size {
		err = f.Truncate(d.Size)
	}
	return errors.Join(err, f.Close())
}

// node is the disk's block backend, as the arguments of blockdev-add.
func (v *VM) node(id string, d Disk, alone bool) map[string]any {
	file := map[string]any{"driver": "file", "filename": d.Path}
	direct := false
	switch {
	case d.Served && !alone:
		file = map[string]any{"driver": "nbd", "server": map[string]any{"type": "unix", "path": v.socket(id)}}
	default:
		if f, err := os.OpenFile(d.Path, os.O_RDWR|syscall.O_DIRECT, 0); err == nil {
			f.Close()
			direct = true // the file system can: no second cache on the host
		}
	}
	cache := map[string]any{"direct": direct}
	file["node-name"], file["discard"], file["cache"] = id+"-file", "unmap", cache
	return map[string]any{"driver": "raw", "node-name": id, "file": file, "discard": "unmap", "cache": cache}
}

// device is the disk as the module sees it, as the arguments of device_add.
// Errors are the module's to deal with: QEMU would stop it at some.
func (d Disk) device(id string) map[string]any {
	device := map[string]any{"driver": "virtio-blk-pci", "id": id, "drive": id, "rerror": "report", "werror": "report"}
	if d.Slot > 0 {
		device["bus"] = slotID(d.Slot)
	}
	if d.Serial != "" {
		device["serial"] = d.Serial
	}
	return device
}

func (v *VM) diskArguments(id string, d Disk, alone bool) []string {
	return []string{"-blockdev", options(v.node(id, d, alone)), "-device", options(d.device(id))}
}

// drives are the disks that we serve, by id.
type drives struct {
	mu    sync.Mutex
	open  map[string]*block.Drive
	doors map[string]net.Listener // where QEMU connects
}

func (s *drives) each(do func(id string, d *block.Drive)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, d := range s.open {
		do(id, d)
	}
}

// serveDisk opens a disk that is served, and answers QEMU at its socket.
func (v *VM) serveDisk(id string, d Disk) error {
	if !d.Served {
		return nil
	}
	drive, err := block.Open(d.Path, d.Seed)
	if err != nil {
		return err
	}
	l, err := v.listen(id)
	if err != nil {
		return errors.Join(err, drive.Close())
	}
	v.drives.mu.Lock()
	defer v.drives.mu.Unlock()
	if v.drives.open == nil {
		v.drives.open, v.drives.doors = map[string]*block.Drive{}, map[string]net.Listener{}
	}
	v.drives.open[id], v.drives.doors[id] = drive, l
	v.wg.Go(func() { drive.Serve(l, func(err error) { v.log.Warn("disk", "disk", id, "err", err) }) })
	return nil
}

// endDrive ends a drive that was unplugged, which loses its power.
func (v *VM) endDrive(id string) error {
	v.drives.mu.Lock()
	defer v.drives.mu.Unlock()
	d := v.drives.open[id]
	if d == nil {
		return nil
	}
	v.drives.doors[id].Close()
	v.cutDrive(id, d)
	delete(v.drives.open, id)
	delete(v.drives.doors, id)
	return d.Close()
}

// Drive returns a disk of the module that is served, by its id: "disk0" is the
// first. Its faults can be set.
func (v *VM) Drive(id string) (*block.Drive, error) {
	v.drives.mu.Lock()
	defer v.drives.mu.Unlock()
	if d := v.drives.open[id]; d != nil {
		return d, nil
	}
	var ids []string
	for id := range v.drives.open {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return nil, fmt.Errorf("vm %s: disk %q is not served by the rig, served are %v; start the frame with Config.ServeDisks (vframe up -serve-disks)", v.cfg.Name, id, ids)
}

// cutDrives takes the power from the disks of a module that has lost its own.
func (v *VM) cutDrives() { v.drives.each(v.cutDrive) }

func (v *VM) cutDrive(id string, d *block.Drive) {
	d.Abort(true) // nobody waits for an answer any more
	d.WaitIdle()
	d.Abort(false)
	cut, err := d.PowerCut(block.DefaultLoss)
	if err != nil {
		v.log.Error("disk: power cut", "disk", id, "err", err)
		return
	}
	v.log.Info("disk: power cut", "disk", id, "kept", cut.Kept, "torn", cut.Torn, "lost", cut.Lost)
}
