package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/kmsg"
)

// followErrors counts the commands of disks that end in an error, as the kernel
// logs them: not all drivers count.
func (k *Keeper) followErrors(ctx context.Context) {
	if k.cfg.Messages == nil {
		return
	}
	for ctx.Err() == nil {
		err := k.cfg.Messages(ctx, func(text string) {
			if disk, ok := kmsg.DiskError(text); ok {
				k.diskError(disk)
			}
		})
		if err != nil && ctx.Err() == nil {
			k.cfg.Log.Warn("errors of disks", "err", err)
			sleep(ctx, time.Minute)
		}
	}
}

// diskError notes an error of a disk of this module.
func (k *Keeper) diskError(name string) {
	k.mu.Lock()
	i := slices.IndexFunc(k.inv.Disks, func(d hw.Disk) bool { return d.Name == name })
	if i < 0 { // a volume, or a disk that is gone
		k.mu.Unlock()
		return
	}
	k.failing[name]++
	text := k.failingText()
	k.mu.Unlock()
	k.cfg.Health(diskErrorsPart, Warning, text, diskErrorsRemedy)
	k.Note(ipmi.Event{Kind: ipmi.DiskErrors, Code: byte(min(i+1, 255))})
}

// forgetErrors ends the warning about a disk that was taken out or is another.
func (k *Keeper) forgetErrors(name string) {
	k.mu.Lock()
	_, had := k.failing[name]
	delete(k.failing, name)
	text := k.failingText()
	k.mu.Unlock()
	switch {
	case had && text == "":
		k.cfg.Health(diskErrorsPart, Good, "none since the disk was replaced", "")
	case had:
		k.cfg.Health(diskErrorsPart, Warning, text, diskErrorsRemedy)
	}
}

// diskErrors is how many a disk had.
func (k *Keeper) diskErrors(name string) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return int64(k.failing[name])
}

const diskErrorsRemedy = "See bayctl logs for the kernel's words. Replace the disk if there are more."

const diskErrorsPart = "disk errors"

// failingText says which disks had errors, under k.mu.
func (k *Keeper) failingText() string {
	var out []string
	for name, n := range k.failing {
		out = append(out, fmt.Sprintf("%s: %d I/O errors since the module started", name, n))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}
