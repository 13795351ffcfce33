package deploy

import (
	"context"
	"errors"

	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// RestoreVolume takes a volume out of the trash. With a profile, that profile
// has it from then on, with the settings that it was made with; a volume that
// the profile has goes to the trash instead, which needs force. Without one,
// the volume is unassigned.
func (d *Deployer) RestoreVolume(ctx context.Context, owner, id, profileURI string, force bool) (domain.Task, error) {
	if err := d.ready(); err != nil {
		return domain.Task{}, err
	}
	v, err := d.state.OSVolumes.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	if v.State != domain.VolumeTrash {
		return domain.Task{}, domain.Errorf(domain.Conflict, "OS volume "+v.Name, "is not in the trash: its state is %s", v.State)
	}
	req := task.Request{Kind: "volume.restore", Name: "Restore OS volume", Owner: owner, Lock: "volume " + v.OEVolumeID,
		Associated: domain.AssociatedResource{ResourceCategory: "os-volumes", ResourceName: v.Name, ResourceURI: v.URI},
		Data:       map[string]string{keyVolume: v.OEVolumeID}}
	if profileURI != "" {
		p, err := d.mayReceive(ctx, profileURI, force)
		if err != nil {
			return domain.Task{}, err
		}
		req.Lock, req.Data[keyProfile] = "profile "+p.ID, p.ID
	}
	return d.tasks.Submit(ctx, req)
}

// mayReceive is the profile, if a restored volume can become its volume now.
func (d *Deployer) mayReceive(ctx context.Context, profileURI string, force bool) (domain.ServerProfile, error) {
	p, err := d.state.ServerProfiles.Get(ctx, planID(profileURI))
	if err != nil {
		return p, err
	}
	if t, err := d.openTask(ctx, p.ID); err != nil {
		return p, err
	} else if t != "" {
		return p, domain.Errorf(domain.Conflict, "server profile "+p.Name, "a task still works on it: %s", t).Fix("Wait for that task to end.")
	}
	present, err := d.volumesOf(ctx, p.URI)
	if err != nil || len(present) == 0 {
		return p, err
	}
	if !force {
		return p, domain.Errorf(domain.Conflict, "server profile "+p.Name, "has an OS volume").
			Fix("Send force=true to move that volume to the trash and have the restored one in its place.")
	}
	for _, id := range present {
		if err := d.quiet(ctx, id); err != nil {
			return p, err
		}
	}
	return p, nil
}

// withdrawPrevious takes the volumes that the profile had so far from its
// server. They stay the profile's until the new one is served.
func (d *Deployer) withdrawPrevious(ctx context.Context, r *task.Run) error {
	if r.Data(keyProfile) == "" {
		return nil
	}
	ids, err := d.volumesOf(ctx, domain.ServerProfiles+"/"+r.Data(keyProfile))
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id == r.Data(keyVolume) {
			continue
		}
		if err := d.quiet(ctx, id); err != nil {
			return err
		}
		if err := r.Set(ctx, keyPrevious, id); err != nil { // from here on it is given back on failure
			return err
		}
		if err := d.unassign(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// unassign takes a volume from its server, but not from its profile.
func (d *Deployer) unassign(ctx context.Context, id string) error {
	if err := d.storage.Unexport(ctx, id); err != nil {
		return err
	}
	_, err := d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error {
		v.State, v.ServerHardwareURI, v.InitiatorIQN = domain.VolumeUnassigned, "", ""
		v.DependentArtifacts = []domain.Dependent{}
		return nil
	})
	return err
}

// restore takes the task's volume out of the trash.
func (d *Deployer) restore(ctx context.Context, r *task.Run) error {
	if r.Data(keyProfile) == "" {
		return d.outOfTrash(ctx, r.Data(keyVolume), domain.ServerProfile{})
	}
	p, err := d.profile(ctx, r)
	if err != nil {
		return err
	}
	return d.giveTo(ctx, r, r.Data(keyVolume), p)
}

// outOfTrash makes a volume the profile's, if there is one, and unassigned.
func (d *Deployer) outOfTrash(ctx context.Context, id string, p domain.ServerProfile) error {
	if err := d.forgetTrashed(ctx, id); err != nil {
		return err
	}
	_, err := d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error {
		if v.State == domain.VolumeDestroying {
			return domain.Errorf(domain.Conflict, "OS volume "+v.Name, "is being destroyed")
		}
		v.State, v.Expires = domain.VolumeUnassigned, ""
		v.ServerProfileURI = p.URI
		if p.URI != "" {
			v.ServerProfileName, v.StatelessServerURI = p.Name, domain.StatelessServers+"/"+p.ID
		}
		return nil
	})
	return err
}

// giveTo makes a volume that was withdrawn or in the trash the profile's, with
// the settings that it was made with, and serves it to the profile's server.
func (d *Deployer) giveTo(ctx context.Context, r *task.Run, id string, p domain.ServerProfile) error {
	if err := d.outOfTrash(ctx, id, p); err != nil {
		return err
	}
	v, err := d.state.OSVolumes.Get(ctx, id)
	if err != nil {
		return err
	}
	settings, known, err := d.madeWith.Get(ctx, id)
	if err != nil {
		return err
	}
	if !known { // it was made before settings were kept
		settings = domain.OSDeploymentSettings{OSDeploymentPlanURI: domain.OSDeploymentPlans + "/" + planID(v.DeploymentPlanURI)}
	}
	settings.OSVolumeURI, settings.ForceOSDeployment, settings.ReapplyState = v.URI, false, "NotApplying"
	if err := d.exportTo(ctx, r, id, p); err != nil {
		return err
	}
	_, err = d.state.ServerProfiles.Update(ctx, p.ID, func(p *domain.ServerProfile) error {
		p.Status, p.State, p.OSDeploymentSettings = domain.StatusOK, "Normal", &settings
		return nil
	})
	return err
}

// bringBack gives the profile the volume that the failed task was to replace,
// and marks the profile if there is none or it cannot be had back.
func (d *Deployer) bringBack(ctx context.Context, r *task.Run, cause error) error {
	id := r.Data(keyPrevious)
	if id == "" {
		return d.markFailed(ctx, r, cause)
	}
	p, err := d.profile(ctx, r)
	if err == nil {
		err = d.giveTo(ctx, r, id, p)
	}
	if err != nil {
		return errors.Join(err, d.markFailed(ctx, r, cause))
	}
	r.Logf("the profile has its previous OS volume %s again, and the settings of that", id)
	return nil
}

// undoRestore puts a volume that could not be restored back into the trash.
func (d *Deployer) undoRestore(ctx context.Context, r *task.Run, cause error) error {
	if err := d.toTrash(ctx, r.Data(keyVolume)); err != nil {
		return err
	}
	if r.Data(keyPrevious) == "" {
		return nil // the profile is as it was
	}
	return d.bringBack(ctx, r, cause)
}
