package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// resolved is all that a deployment needs, gathered from the store.
type resolved struct {
	plan    domain.DeploymentPlan
	golden  *domain.GoldenImage
	scripts []Script
	values  map[string]string
	secrets map[string]bool
	size    int64 // bytes asked for; 0: the golden image's
}

// resolve gathers the plan of a profile and merges its attributes; what is
// missing or out of its constraints is an error that names it.
func (d *Deployer) resolve(ctx context.Context, p domain.ServerProfile) (resolved, error) {
	var r resolved
	s := p.OSDeploymentSettings
	if s == nil {
		return r, domain.Errorf(domain.Conflict, "server profile "+p.Name, "has no deployment plan any more")
	}
	plan, err := d.state.DeploymentPlans.Get(ctx, planID(s.OSDeploymentPlanURI))
	if err != nil {
		return r, err
	}
	r.plan = plan
	if plan.GoldenImageURI != "" {
		g, err := d.state.GoldenImages.Get(ctx, planID(plan.GoldenImageURI))
		if err != nil {
			return r, fmt.Errorf("deployment plan %s: %w", plan.Name, err)
		}
		r.golden = &g
	}
	var bp domain.BuildPlan
	var attrs []domain.ScriptAttribute
	if plan.OEBuildPlanURI != "" {
		if bp, err = d.state.BuildPlans.Get(ctx, planID(plan.OEBuildPlanURI)); err != nil {
			return r, fmt.Errorf("deployment plan %s: %w", plan.Name, err)
		}
		if r.scripts, attrs, err = d.scripts(ctx, bp); err != nil {
			return r, err
		}
	}
	r.values, r.secrets, err = domain.MergeAttributes(attrs, bp, plan, s.OSCustomAttributes)
	if err != nil {
		return r, err
	}
	if r.golden == nil {
		if r.size, err = volumeSize(plan, r.values); err != nil {
			return r, err
		}
	}
	return r, nil
}

// scripts are the plan scripts of a build plan in their order, and the
// attributes that they ask for.
func (d *Deployer) scripts(ctx context.Context, bp domain.BuildPlan) ([]Script, []domain.ScriptAttribute, error) {
	steps := append([]domain.BuildStep(nil), bp.BuildStep...)
	sort.SliceStable(steps, func(i, j int) bool { return stepNumber(steps[i]) < stepNumber(steps[j]) })
	var out []Script
	var attrs []domain.ScriptAttribute
	for _, s := range steps {
		ps, err := d.state.PlanScripts.Get(ctx, planID(s.PlanScriptURI))
		if err != nil {
			return nil, nil, fmt.Errorf("build plan %s: step %s: %w", bp.Name, s.SerialNumber, err)
		}
		found, err := d.plans.Attributes(ps.Content)
		if err != nil {
			return nil, nil, fmt.Errorf("plan script %s: %w", ps.Name, err)
		}
		attrs = append(attrs, found...)
		out = append(out, Script{Name: ps.Name, Content: ps.Content})
	}
	return out, attrs, nil
}

// stepNumber orders steps; one without a number comes last.
func stepNumber(s domain.BuildStep) int {
	n, err := strconv.Atoi(s.SerialNumber)
	if err != nil {
		return 1 << 30
	}
	return n
}

// volumeSize is the size in bytes of a volume without a golden image.
func volumeSize(plan domain.DeploymentPlan, values map[string]string) (int64, error) {
	mib, ok, err := domain.VolumeSizeMiB(values)
	if err == nil && !ok {
		err = domain.Errorf(domain.Invalid, "deployment plan "+plan.Name, "has no golden image, and the size of the empty volume is not given").
			Fix("Set the attribute VolumeSize, in MiB.")
	}
	return mib << 20, err
}

func (d *Deployer) profile(ctx context.Context, r *task.Run) (domain.ServerProfile, error) {
	return d.state.ServerProfiles.Get(ctx, r.Data(keyProfile))
}

// retire moves the profile's volumes to the trash, but for the one that this
// task makes.
func (d *Deployer) retire(ctx context.Context, r *task.Run) error {
	if r.Data(keyProfile) == "" {
		return nil
	}
	return d.retireAll(ctx, domain.ServerProfiles+"/"+r.Data(keyProfile), r.Data(keyVolume))
}

func (d *Deployer) retireAll(ctx context.Context, profileURI, except string) error {
	ids, err := d.volumesOf(ctx, profileURI)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id == except {
			continue
		}
		if err := d.quiet(ctx, id); err != nil {
			return err
		}
		if err := d.toTrash(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// create clones the volume. After a crash in the middle of personalising, the
// clone is no longer what the golden image says and is made anew.
func (d *Deployer) create(ctx context.Context, r *task.Run) error {
	if err := d.ready(); err != nil {
		return err
	}
	p, err := d.profile(ctx, r)
	if err != nil {
		return err
	}
	res, err := d.resolve(ctx, p)
	if err != nil {
		return err
	}
	id := r.Data(keyVolume)
	v := domain.OSVolume{
		Resource:           domain.Resource{Name: p.Name, Description: "OS volume of server profile " + p.Name, Status: domain.StatusOK, State: domain.VolumeCreating},
		DeploymentPlanURI:  res.plan.URI,
		ServerProfileURI:   p.URI,
		ServerProfileName:  p.Name,
		ServerHardwareURI:  p.ServerHardwareURI,
		DependentArtifacts: []domain.Dependent{},
	}
	v.SetID(id)
	v.StatelessServerURI = domain.StatelessServers + "/" + p.ID
	v.DeploymentClusterURI = domain.DeploymentGroups + "/" + domain.DeploymentGroupID
	spec := VolumeSpec{ID: id, Name: p.Name, Size: res.size}
	if res.golden != nil {
		spec.Golden, v.GoldenVolumeURI = res.golden.InPool(), res.golden.URI
	}
	if err := d.madeWith.Put(ctx, id, *p.OSDeploymentSettings); err != nil {
		return err
	}
	// The row comes first: a clone without a row would be nobody's.
	if _, err := d.state.OSVolumes.Create(ctx, v); err != nil && domain.KindOf(err) != domain.Conflict {
		return err
	}
	log, err := d.newLog(id)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "=== 1. OS volume, %s\nserver profile %s, deployment plan %s\n", domain.Stamp(time.Now()), p.Name, res.plan.Name)
	began := time.Now()
	size, err := d.storage.Create(ctx, spec)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "volume %s, %d bytes, target %s\n", id, size, v.OEVolumeIQN)
	r.Logf("OS volume of %d bytes cloned in %d ms", size, time.Since(began).Milliseconds())
	_, err = d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error { v.Size = size; return nil })
	return err
}

func (d *Deployer) newLog(id string) (*os.File, error) {
	return os.OpenFile(filepath.Join(d.logs, id+".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
}

func (d *Deployer) appendLog(id string) (*os.File, error) {
	return os.OpenFile(filepath.Join(d.logs, id+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// personalise runs the build plan on the fresh clone, which is then whole and
// goes to both appliances of a pair.
func (d *Deployer) personalise(ctx context.Context, r *task.Run) error {
	p, err := d.profile(ctx, r)
	if err != nil {
		return err
	}
	res, err := d.resolve(ctx, p)
	if err != nil {
		return err
	}
	id := r.Data(keyVolume)
	if r.Data(keyBegun) != "" {
		r.Logf("personalising was interrupted: the clone is made anew")
		if err := d.storage.Delete(ctx, id); err != nil {
			return err
		}
	}
	spec := VolumeSpec{ID: id, Name: p.Name, Size: res.size}
	if res.golden != nil {
		spec.Golden = res.golden.InPool()
	}
	// The appliance that made the clone may not be this one.
	if _, err := d.storage.Create(ctx, spec); err != nil {
		return err
	}
	if len(res.scripts) == 0 {
		r.Logf("the build plan has no steps")
		return d.storage.Join(ctx, id)
	}
	if err := r.Set(ctx, keyBegun, "yes"); err != nil {
		return err
	}
	if err := d.initiators(ctx, p, res.values); err != nil {
		return err
	}
	if _, err := d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error { v.State = domain.VolumePersonalising; return nil }); err != nil {
		return err
	}
	log, err := d.appendLog(id)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := d.plans.Run(ctx, id, res.scripts, res.values, res.secrets, activity{w: log, r: r}); err != nil {
		return err
	}
	return d.storage.Join(ctx, id)
}

// initiators adds the reserved attributes of the server's boot ports (spec
// section 5.2). The second port shares the address: whichever port boots has it.
func (d *Deployer) initiators(ctx context.Context, p domain.ServerProfile, values map[string]string) error {
	for i := 1; i <= 2; i++ {
		for _, f := range []string{"mac", "ip", "netmask"} {
			values[fmt.Sprintf("_Initiator%d.%s", i, f)] = ""
		}
	}
	if p.ServerHardwareURI == "" {
		return nil
	}
	h, err := d.state.ServerHardware.Get(ctx, planID(p.ServerHardwareURI))
	if err != nil {
		return err
	}
	domain.AssignMACs(values, h.MACs)
	for i, mac := range h.MACs {
		prefix := fmt.Sprintf("_Initiator%d.", i+1)
		values[prefix+"mac"] = mac
		values[prefix+"ip"] = h.Address
		if ip := net.ParseIP(h.Address); ip != nil {
			values[prefix+"netmask"] = d.netmask()
		}
	}
	return nil
}

// export gives the volume to the server.
func (d *Deployer) export(ctx context.Context, r *task.Run) error {
	p, err := d.profile(ctx, r)
	if err != nil {
		return err
	}
	return d.exportTo(ctx, r, r.Data(keyVolume), p)
}

// exportTo serves the volume to the profile's server; without a server it stays
// unassigned. CHAP credentials belong to the volume and never change.
func (d *Deployer) exportTo(ctx context.Context, r *task.Run, id string, p domain.ServerProfile) error {
	if p.ServerHardwareURI == "" {
		_, err := d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error { v.State = domain.VolumeUnassigned; return nil })
		return err
	}
	h, err := d.state.ServerHardware.Get(ctx, planID(p.ServerHardwareURI))
	if err != nil {
		return err
	}
	c, err := d.credentials(ctx, id)
	if err != nil {
		return err
	}
	initiator := domain.InitiatorIQN(h.UUID)
	portal, err := d.storage.Export(ctx, id, Access{Initiator: initiator, User: c.User, Secret: c.Secret})
	if err != nil {
		return err
	}
	if log, err := d.appendLog(id); err == nil {
		fmt.Fprintf(log, "=== 4. exported at %s to %s, %s\n", portal, initiator, domain.Stamp(time.Now()))
		log.Close()
	}
	r.Logf("exported at %s to %s", portal, initiator)
	_, err = d.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error {
		v.State, v.OEVolumeIP, v.InitiatorIQN = domain.VolumeExported, portal.Addr().String(), initiator
		v.ServerHardwareURI, v.ServerProfileURI, v.ServerProfileName = h.URI, p.URI, p.Name
		v.StatelessServerURI = domain.StatelessServers + "/" + p.ID
		v.DependentArtifacts = []domain.Dependent{{Name: p.Name, URI: p.URI, ServerIQN: initiator}}
		return nil
	})
	return err
}

// credentials returns the volume's CHAP name and secret, made on first need.
// 24 letters of rand.Text's alphabet are 120 bits; RFC 7143 section 9.2.1 asks
// for 96 or more, and iPXE takes secrets of up to 255 bytes.
func (d *Deployer) credentials(ctx context.Context, id string) (domain.Credentials, error) {
	c := domain.Credentials{VolumeID: id, User: "vol-" + id[:8], Secret: rand.Text()[:24]}
	fresh, err := d.state.Credentials.Create(ctx, id, c)
	if err != nil || fresh {
		return c, err
	}
	c, _, err = d.state.Credentials.Get(ctx, id)
	return c, err
}

// complete tells the profile where its volume is.
func (d *Deployer) complete(ctx context.Context, r *task.Run) error {
	_, err := d.state.ServerProfiles.Update(ctx, r.Data(keyProfile), func(p *domain.ServerProfile) error {
		p.Status, p.State = domain.StatusOK, domain.ProfileNormal
		if p.OSDeploymentSettings != nil {
			p.OSDeploymentSettings.OSVolumeURI = domain.OSVolumes + "/" + r.Data(keyVolume)
			p.OSDeploymentSettings.ReapplyState = "NotApplying"
		}
		return nil
	})
	return err
}

// undo removes the clone of a failed deployment and gives the profile back the
// volume that it had, or marks it.
func (d *Deployer) undo(ctx context.Context, r *task.Run, cause error) error {
	if log, err := d.appendLog(r.Data(keyVolume)); err == nil {
		fmt.Fprintf(log, "=== failed, %s\n%v\nthe clone is deleted\n", domain.Stamp(time.Now()), cause)
		log.Close()
	}
	if err := d.destroy(ctx, r.Data(keyVolume)); err != nil {
		return err
	}
	return d.bringBack(ctx, r, cause)
}

func (d *Deployer) markFailed(ctx context.Context, r *task.Run, _ error) error {
	_, err := d.state.ServerProfiles.Update(ctx, r.Data(keyProfile), func(p *domain.ServerProfile) error {
		p.Status, p.State = domain.StatusCritical, domain.ProfileFailed
		return nil
	})
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	return err
}

// withdraw takes the volume from a server that the profile no longer has. A
// volume that the profile itself no longer has moves to the trash.
func (d *Deployer) withdraw(ctx context.Context, r *task.Run) error {
	p, err := d.profile(ctx, r)
	if err != nil {
		return err
	}
	id := volumeOf(p)
	if err := d.retireAll(ctx, p.URI, id); err != nil || id == "" {
		return err
	}
	v, err := d.state.OSVolumes.Get(ctx, id)
	if err != nil || v.ServerHardwareURI == p.ServerHardwareURI {
		return err
	}
	if err := d.quiet(ctx, id); err != nil {
		return err
	}
	return d.unassign(ctx, id)
}

// assign gives the profile's volume, if it has one, to its present server.
func (d *Deployer) assign(ctx context.Context, r *task.Run) error {
	p, err := d.profile(ctx, r)
	if err != nil {
		return err
	}
	if id := volumeOf(p); id != "" {
		if err := d.exportTo(ctx, r, id, p); err != nil {
			return err
		}
	}
	_, err = d.state.ServerProfiles.Update(ctx, p.ID, func(p *domain.ServerProfile) error {
		p.Status, p.State = domain.StatusOK, domain.ProfileNormal
		return nil
	})
	return err
}

// remove deletes the profile's row and frees its server.
func (d *Deployer) remove(ctx context.Context, r *task.Run) error {
	return cluster.Atomically(ctx, d.state.Client, func(tx *cluster.Txn) error {
		p, err := d.state.ServerProfiles.GetIn(tx, r.Data(keyProfile))
		if domain.KindOf(err) == domain.NotFound {
			return nil // an earlier try got here
		}
		if err != nil {
			return err
		}
		if err := d.free(tx, p.URI, p.ServerHardwareURI); err != nil {
			return err
		}
		return d.state.ServerProfiles.DeleteIn(tx, p.ID)
	})
}

// Capture hands the contents of a volume to use. With a build plan, a clone of
// what is captured is generalised by it first, so the volume itself never
// changes. The volume must have no server logged in.
func (d *Deployer) Capture(ctx context.Context, r *task.Run, volumeID, buildPlanID string, use func(disk io.Reader, size int64) error) error {
	if err := d.quiet(ctx, volumeID); err != nil {
		return err
	}
	if buildPlanID != "" {
		bp, err := d.state.BuildPlans.Get(ctx, buildPlanID)
		if err != nil {
			return err
		}
		if len(bp.BuildStep) > 0 {
			return d.captureGeneralised(ctx, r, volumeID, bp, use)
		}
	}
	return d.readDisk(ctx, volumeID, use)
}

func (d *Deployer) readDisk(ctx context.Context, id string, use func(io.Reader, int64) error) error {
	disk, size, err := d.plans.Disk(ctx, id)
	if err != nil {
		return err
	}
	defer disk.Close()
	return use(disk, size)
}

// activity writes a plan's output to the deployment log and passes what the
// script marks for the activity (spec section 5.1) on to the task.
type activity struct {
	w io.Writer
	r *task.Run
}

const activityMark = "ImageStreamerLog:"

// Write implements io.Writer.
func (a activity) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, text, ok := strings.Cut(line, activityMark); ok {
			a.r.Logf("%s", strings.TrimSpace(text))
		}
	}
	return a.w.Write(p)
}

// captureGeneralised copies the volume, runs the capture plan on the copy, and
// hands that to use.
func (d *Deployer) captureGeneralised(ctx context.Context, r *task.Run, volumeID string, bp domain.BuildPlan, use func(io.Reader, int64) error) (err error) {
	scripts, attrs, err := d.scripts(ctx, bp)
	if err != nil {
		return err
	}
	values, secrets, err := domain.MergeAttributes(attrs, bp, domain.DeploymentPlan{}, nil)
	if err != nil {
		return err
	}
	v, err := d.state.OSVolumes.Get(ctx, volumeID)
	if err != nil {
		return err
	}
	// The task's id names the copy, so a repeated step finds and replaces it.
	scratch := r.ID()
	if err := d.storage.Delete(ctx, scratch); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, d.storage.Delete(context.WithoutCancel(ctx), scratch))
	}()
	if _, err := d.storage.Create(ctx, VolumeSpec{ID: scratch, Name: "capture of " + v.Name, Size: v.Size}); err != nil {
		return err
	}
	if err := d.plans.Copy(ctx, volumeID, scratch); err != nil {
		return err
	}
	log, err := d.newLog(scratch)
	if err != nil {
		return err
	}
	defer log.Close()
	r.Logf("generalising a copy by build plan %s", bp.Name)
	if err := d.plans.Run(ctx, scratch, scripts, values, secrets, activity{w: log, r: r}); err != nil {
		return err
	}
	return d.readDisk(ctx, scratch, use)
}
