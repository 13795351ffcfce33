package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// The trash counts the time that the appliance runs and not the calendar: a
// clock that jumps by ten years must not empty it, nor one that was set back
// keep it for ever.
const (
	trashTick = 10 * time.Minute // how often the time left is written
	trashStep = 2 * trashTick    // the most that one look takes off, whatever a clock says
	trashSlip = time.Hour        // how far off the day that a volume's row names may be
)

// countDown takes elapsed off the time that is left to each volume in the
// trash, and says which have none left. A volume that is new there has all of
// TrashTime; one that is no longer there is forgotten.
func countDown(left map[string]time.Duration, inTrash []string, elapsed time.Duration) (next map[string]time.Duration, over []string) {
	elapsed = min(max(elapsed, 0), trashStep)
	next = map[string]time.Duration{}
	for _, id := range inTrash {
		had, known := left[id]
		switch {
		case !known:
			next[id] = TrashTime
		case had <= elapsed:
			next[id] = 0
			over = append(over, id)
		default:
			next[id] = had - elapsed
		}
	}
	return next, over
}

// KeepTrash empties the trash as its time comes, until ctx ends.
func (d *Deployer) KeepTrash(ctx context.Context) error {
	return ticks(ctx, trashTick, func(elapsed time.Duration) {
		if err := d.EmptyTrash(ctx, elapsed); err != nil && ctx.Err() == nil {
			d.log.Warn("trash", "err", err)
		}
	})
}

// ticks calls do again and again until ctx ends, with the time since the call
// before on the kernel's monotonic clock, which nobody can set.
func ticks(ctx context.Context, every time.Duration, do func(elapsed time.Duration)) error {
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		now := time.Now()
		do(now.Sub(last))
		last = now
	}
}

// EmptyTrash destroys the volumes whose time is over, and the logs that nobody
// will read. Elapsed is how long the appliance has run since the last call.
func (d *Deployer) EmptyTrash(ctx context.Context, elapsed time.Duration) error {
	volumes, err := d.state.OSVolumes.List(ctx)
	if err == nil {
		err = d.pruneLogs(volumes)
	}
	if err != nil || d.storage.Ready() != nil {
		return err
	}
	var inTrash []string
	for _, v := range volumes {
		if v.State == domain.VolumeTrash || v.State == domain.VolumeDestroying {
			inTrash = append(inTrash, v.OEVolumeID)
		}
	}
	left, over, err := d.countTrash(ctx, inTrash, elapsed)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		t, in := left[v.OEVolumeID]
		switch {
		case !in:
		case v.State == domain.VolumeDestroying || slices.Contains(over, v.OEVolumeID):
			d.log.Info("trash: OS volume destroyed", "volume", v.OEVolumeID, "name", v.Name)
			err = errors.Join(err, d.destroyTrashed(ctx, v.OEVolumeID))
		default:
			err = errors.Join(err, d.showExpiry(ctx, v, time.Now().Add(t)))
		}
	}
	return err
}

// countTrash is countDown on record.
func (d *Deployer) countTrash(ctx context.Context, inTrash []string, elapsed time.Duration) (left map[string]time.Duration, over []string, err error) {
	d.trashMu.Lock()
	defer d.trashMu.Unlock()
	before, _, err := d.trash.Get(ctx)
	if err != nil {
		return nil, nil, err
	}
	left, over = countDown(before, inTrash, elapsed)
	if len(left)+len(before) > 0 {
		err = d.trash.Put(ctx, left)
	}
	return left, over, err
}

// forgetTrashed makes a volume's time begin anew if it comes back to the trash.
func (d *Deployer) forgetTrashed(ctx context.Context, id string) error {
	d.trashMu.Lock()
	defer d.trashMu.Unlock()
	left, _, err := d.trash.Get(ctx)
	if _, in := left[id]; err != nil || !in {
		return err
	}
	delete(left, id)
	return d.trash.Put(ctx, left)
}

// showExpiry corrects the day that the volume's row names, when the appliance
// was off meanwhile or its clock was set.
func (d *Deployer) showExpiry(ctx context.Context, v domain.OSVolume, at time.Time) error {
	shown, err := time.Parse(domain.TimeFormat, v.Expires)
	if err == nil && at.Sub(shown).Abs() < trashSlip {
		return nil
	}
	_, err = d.state.OSVolumes.Update(ctx, v.OEVolumeID, func(v *domain.OSVolume) error {
		if v.State == domain.VolumeTrash {
			v.Expires = domain.Stamp(at)
		}
		return nil
	})
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	return err
}

// toTrash withdraws a volume; from now on its time is counted.
func (d *Deployer) toTrash(ctx context.Context, id string) error {
	if err := d.storage.Unexport(ctx, id); err != nil {
		return err
	}
	_, err := d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error {
		if v.State != domain.VolumeTrash {
			v.State, v.Expires = domain.VolumeTrash, domain.Stamp(time.Now().Add(TrashTime))
		}
		v.ServerProfileURI, v.ServerHardwareURI, v.StatelessServerURI, v.InitiatorIQN = "", "", "", ""
		v.DependentArtifacts = []domain.Dependent{}
		return nil
	})
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	return err
}

// destroyTrashed destroys a volume for good, if nobody took it from the trash
// meanwhile.
func (d *Deployer) destroyTrashed(ctx context.Context, id string) error {
	_, err := d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error {
		if v.State != domain.VolumeTrash && v.State != domain.VolumeDestroying {
			return domain.Errorf(domain.Conflict, "OS volume "+v.Name, "is no longer in the trash")
		}
		v.State = domain.VolumeDestroying
		return nil
	})
	if domain.KindOf(err) == domain.NotFound {
		return nil // an earlier try got here
	}
	if err != nil {
		return err
	}
	return d.destroy(ctx, id)
}

// destroy removes a volume with all that belongs to it.
func (d *Deployer) destroy(ctx context.Context, id string) error {
	if err := d.storage.Unexport(ctx, id); err != nil {
		return err
	}
	if err := d.storage.Delete(ctx, id); err != nil {
		return err
	}
	if err := d.state.Credentials.Delete(ctx, id); err != nil {
		return err
	}
	if err := d.madeWith.Delete(ctx, id); err != nil {
		return err
	}
	err := d.state.OSVolumes.Delete(ctx, id)
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	return err
}

// deleteVolume is the two-step delete: to the trash, then for good. A request
// that was sent twice does not take both steps.
func (d *Deployer) deleteVolume(ctx context.Context, r *task.Run) error {
	id := r.Data(keyVolume)
	if r.Data(keyDestroy) != "" {
		return d.destroyTrashed(ctx, id)
	}
	r.Logf("moved to the trash; delete it once more to destroy it")
	return d.toTrash(ctx, id)
}

// keepLogs is how many logs of deployments stay whose volumes are gone. A log
// may have 8 MiB, and the domain state lives on the same partition.
const keepLogs = 20

// pruneLogs removes the oldest logs beyond keepLogs of volumes that are gone.
func (d *Deployer) pruneLogs(volumes []domain.OSVolume) error {
	entries, err := os.ReadDir(d.logs)
	if err != nil {
		return err
	}
	var gone []os.FileInfo
	for _, e := range entries {
		id := strings.TrimSuffix(e.Name(), ".log")
		if slices.ContainsFunc(volumes, func(v domain.OSVolume) bool { return v.OEVolumeID == id }) {
			continue
		}
		if info, err := e.Info(); err == nil { // else it went meanwhile
			gone = append(gone, info)
		}
	}
	slices.SortFunc(gone, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var errs []error
	for _, info := range gone[min(keepLogs, len(gone)):] {
		errs = append(errs, os.Remove(filepath.Join(d.logs, info.Name())))
	}
	return errors.Join(errs...)
}
