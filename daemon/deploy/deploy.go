// Package deploy turns server profiles into OS volumes: clone, personalise,
// export.
//
// A profile names a deployment plan; the plan names a golden image and a build
// plan. Applying a profile is a task: the volume is cloned from the image, the
// build plan's scripts run on it with the profile's attribute values, the
// volume is exported to the one server, and the profile says where it is. A
// failed deployment leaves no clone; its log stays and names the line.
//
// A volume is never destroyed as a side effect. What replaces or unassigns it
// moves it to the trash, where it stays for TrashTime and can be restored; only
// an explicit second delete, or the end of that time, destroys it. A change that
// would make a volume anew is refused unless forceOsDeployment says that this is
// meant, and if the new one fails the old one is the profile's again.
//
// Deploy owns profiles and volumes in the store. One task per server runs at a
// time; everything is safe for concurrent use.
package deploy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// TrashTime is how long a volume that nobody uses any more can be had back,
// counted while the appliance runs.
const TrashTime = 7 * 24 * time.Hour

// VolumeSpec says what clone to make.
type VolumeSpec struct {
	ID     string
	Name   string
	Golden string // the golden image's name in the pool; empty: an empty volume of Size
	Size   int64  // bytes; 0: that of the golden image
}

// Access says who may use a volume, and where.
type Access struct {
	Initiator string // IQN
	User      string // CHAP
	Secret    string
}

// Storage is the storage role.
type Storage interface {
	// Ready says whether volumes can be made and served now, else why not.
	Ready() error
	// MayClone says whether the pool has room for another clone.
	MayClone() error
	// Create makes the clone and its device; repeating it changes nothing. It
	// returns the volume's size in bytes.
	Create(ctx context.Context, spec VolumeSpec) (int64, error)
	// Join ends the making of a volume: from now on both appliances of a pair
	// have it, and any of them may go on with it. Repeating it changes nothing.
	Join(ctx context.Context, id string) error
	// Export serves the volume to one initiator and returns the portal.
	Export(ctx context.Context, id string, a Access) (netip.AddrPort, error)
	Unexport(ctx context.Context, id string) error
	// Sessions are the initiators that are logged in.
	Sessions(ctx context.Context, id string) ([]string, error)
	// Delete destroys the volume; one that is not there is no error.
	Delete(ctx context.Context, id string) error
	// Used is how many bytes the volume maps in the pool.
	Used(ctx context.Context, id string) (int64, error)
	// Detail is what GET os-volumes/{id}/storage answers.
	Detail(ctx context.Context, id string) (any, error)
}

// Script is one plan script of a build plan.
type Script struct {
	Name    string
	Content string
}

// Personaliser runs a build plan on a volume.
type Personaliser interface {
	// Attributes are the attributes that a script's text asks for.
	Attributes(content string) ([]domain.ScriptAttribute, error)
	// Run substitutes values and runs the scripts as one session on the
	// volume. Values whose names are in secrets never reach log.
	Run(ctx context.Context, volumeID string, scripts []Script, values map[string]string, secrets map[string]bool, log io.Writer) error
	// Disk reads the volume's contents.
	Disk(ctx context.Context, volumeID string) (io.ReadCloser, int64, error)
	// Copy makes the contents of one volume those of another of the same size.
	Copy(ctx context.Context, from, to string) error
}

// Deployer makes and keeps OS volumes.
type Deployer struct {
	state   *cluster.Store
	storage Storage
	plans   Personaliser
	tasks   *task.Engine
	logs    string // directory of the deployment logs
	netmask func() string
	log     *slog.Logger

	madeWith *cluster.KV[domain.OSDeploymentSettings] // what each volume was made with, by its id

	trashMu sync.Mutex
	trash   *cluster.Value[map[string]time.Duration] // time left to the volumes in the trash
}

// Config is what a Deployer works with.
type Config struct {
	State   *cluster.Store
	Storage Storage
	Plans   Personaliser
	Tasks   *task.Engine
	Logs    string
	Netmask func() string // of the deployment network, dotted
	Log     *slog.Logger
}

// New makes a Deployer and registers its kinds of tasks.
func New(c Config) (*Deployer, error) {
	d := &Deployer{state: c.State, storage: c.Storage, plans: c.Plans, tasks: c.Tasks, logs: c.Logs, netmask: c.Netmask, log: c.Log,
		madeWith: cluster.NewKV[domain.OSDeploymentSettings](c.State.Client, "deploy/settings"),
		trash:    cluster.NewValue[map[string]time.Duration](c.State.Client, "deploy/trash")}
	if err := os.MkdirAll(d.logs, 0o700); err != nil {
		return nil, fmt.Errorf("deployment logs: %w", err)
	}
	d.tasks.Register(task.Kind{Name: "profile.deploy", Undo: d.undo, Steps: []task.Step{
		{Name: "Withdraw previous OS volume", Do: d.withdrawPrevious},
		{Name: "Create OS volume", Do: d.create},
		{Name: "Personalise OS volume", Do: d.personalise},
		{Name: "Export OS volume", Do: d.export},
		{Name: "Retire previous OS volume", Do: d.retire},
		{Name: "Complete server profile", Do: d.complete},
	}})
	d.tasks.Register(task.Kind{Name: "profile.assign", Undo: d.markFailed, Steps: []task.Step{
		{Name: "Withdraw OS volume", Do: d.withdraw},
		{Name: "Assign server profile", Do: d.assign},
	}})
	d.tasks.Register(task.Kind{Name: "profile.delete", Undo: d.markFailed, Steps: []task.Step{
		{Name: "Retire OS volume", Do: d.retire},
		{Name: "Delete server profile", Do: d.remove},
	}})
	d.tasks.Register(task.Kind{Name: "volume.restore", Undo: d.undoRestore, Steps: []task.Step{
		{Name: "Withdraw present OS volume", Do: d.withdrawPrevious},
		{Name: "Restore OS volume", Do: d.restore},
		{Name: "Retire present OS volume", Do: d.retire},
	}})
	d.tasks.Register(task.Kind{Name: "volume.delete", Steps: []task.Step{{Name: "Delete OS volume", Do: d.deleteVolume}}})
	return d, nil
}

// The data that steps hand on.
const (
	keyProfile  = "profile"
	keyVolume   = "volume"   // id of the volume that this task makes
	keyPrevious = "previous" // id of the volume that it replaces
	keyBegun    = "begun"    // personalising has begun: the clone is no longer fresh
	keyDestroy  = "destroy"  // the volume was in the trash when its deletion was asked for
)

// States of a profile whose task has not ended, and what the task is called.
const (
	stateCreating, verbCreate = domain.ProfileCreating, "Create"
	stateUpdating, verbUpdate = domain.ProfileUpdating, "Update"
)

func profileRef(p domain.ServerProfile) domain.AssociatedResource {
	return domain.AssociatedResource{ResourceCategory: "server-profiles", ResourceName: p.Name, ResourceURI: p.URI}
}

// CreateProfile stores a profile and, if it names a plan, deploys it.
func (d *Deployer) CreateProfile(ctx context.Context, owner string, p domain.ServerProfile) (domain.Task, error) {
	if p.OSDeploymentSettings != nil && p.OSDeploymentSettings.OSDeploymentPlanURI != "" {
		if err := d.mayClone(); err != nil {
			return domain.Task{}, err
		}
		if _, err := d.resolve(ctx, p); err != nil {
			return domain.Task{}, err
		}
	}
	if p.ID == "" {
		p.SetID(domain.NewID())
	}
	p.Status, p.State = domain.StatusOK, stateCreating
	err := cluster.Atomically(ctx, d.state.Client, func(tx *cluster.Txn) error {
		if err := d.take(tx, &p); err != nil {
			return err
		}
		var err error
		p, err = d.state.ServerProfiles.CreateIn(tx, p)
		return err
	})
	if err != nil {
		return domain.Task{}, err
	}
	return d.submit(ctx, owner, verbCreate, p)
}

// take gives the profile's server to it, or says who has it.
func (d *Deployer) take(tx *cluster.Txn, p *domain.ServerProfile) error {
	p.SerialNumber, p.ISCSIInitiatorName = "", ""
	if p.ServerHardwareURI == "" {
		return nil
	}
	id, err := domain.IDFromURI(domain.ServerHardwares, p.ServerHardwareURI)
	if err != nil {
		return err
	}
	_, err = d.state.ServerHardware.UpdateIn(tx, id, func(h *domain.ServerHardware) error {
		if h.ServerProfile != "" && h.ServerProfile != p.URI {
			return domain.Errorf(domain.Conflict, "server "+h.Name, "another server profile has it: %s", h.ServerProfile).
				Fix("Unassign or delete that profile first.")
		}
		h.ServerProfile = p.URI
		p.ServerHardwareURI = h.URI // the client may have sent a bare id, or capitals
		p.SerialNumber, p.ISCSIInitiatorName = h.SerialNumber, domain.InitiatorIQN(h.UUID)
		return nil
	})
	return err
}

// free takes the server away from the profile.
func (d *Deployer) free(tx *cluster.Txn, profileURI, serverURI string) error {
	id, err := domain.IDFromURI(domain.ServerHardwares, serverURI)
	if err != nil {
		return nil // a profile without a server
	}
	_, err = d.state.ServerHardware.UpdateIn(tx, id, func(h *domain.ServerHardware) error {
		if h.ServerProfile == profileURI {
			h.ServerProfile = ""
		}
		return nil
	})
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	return err
}

// submit begins the task that makes the world follow the profile. A profile
// with a plan and without a volume is deployed; else it is only assigned.
func (d *Deployer) submit(ctx context.Context, owner, verb string, p domain.ServerProfile) (domain.Task, error) {
	req := task.Request{Kind: "profile.assign", Name: verb, Owner: owner, Associated: profileRef(p), Lock: "profile " + p.ID,
		Data: map[string]string{keyProfile: p.ID}}
	if s := p.OSDeploymentSettings; s != nil && s.OSDeploymentPlanURI != "" && s.OSVolumeURI == "" {
		req.Kind = "profile.deploy"
		req.Data[keyVolume] = domain.NewID()
	}
	t, err := d.tasks.Submit(ctx, req)
	if err != nil {
		return t, err
	}
	_, err = d.state.ServerProfiles.Update(ctx, p.ID, func(p *domain.ServerProfile) error { p.TaskURI = t.URI; return nil })
	return t, err
}

// Recover submits the tasks of profiles that were stored when the daemon died
// before it could. Call it once, before the tasks run.
func (d *Deployer) Recover(ctx context.Context) error {
	profiles, err := d.state.ServerProfiles.List(ctx)
	if err != nil {
		return err
	}
	verbs := map[string]string{stateCreating: verbCreate, stateUpdating: verbUpdate}
	for _, p := range profiles {
		verb, unfinished := verbs[p.State]
		if !unfinished {
			continue
		}
		if t, err := d.openTask(ctx, p.ID); err != nil {
			return err
		} else if t != "" {
			continue
		}
		d.log.Info("server profile was stored without its task: submitted now", "profile", p.Name)
		if _, err := d.submit(ctx, "", verb, p); err != nil {
			return err
		}
	}
	return nil
}

// openTask is the uri of an unfinished task of the profile, "" if there is none.
func (d *Deployer) openTask(ctx context.Context, profileID string) (string, error) {
	tasks, err := d.state.Tasks.List(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range tasks {
		if !t.Ended() && t.Data[keyProfile] == profileID {
			return t.URI, nil
		}
	}
	return "", nil
}

// UpdateProfile changes a profile, when no task of it runs. What would make its volume anew needs
// forceOsDeployment; a change of server keeps the volume.
func (d *Deployer) UpdateProfile(ctx context.Context, owner string, p domain.ServerProfile) (domain.Task, error) {
	old, err := d.state.ServerProfiles.Get(ctx, p.ID)
	if err != nil {
		return domain.Task{}, err
	}
	if err := d.state.ServerProfiles.CheckETag(old, p.ETag); err != nil {
		return domain.Task{}, err
	}
	if t, err := d.openTask(ctx, p.ID); err != nil {
		return domain.Task{}, err
	} else if t != "" {
		return domain.Task{}, domain.Errorf(domain.Conflict, "server profile "+old.Name, "a task still works on it: %s", t).
			Fix("Wait for that task to end, then read the profile and change it.")
	}
	previous := volumeOf(old)
	var now domain.OSDeploymentSettings
	if p.OSDeploymentSettings != nil {
		now = *p.OSDeploymentSettings
	}
	now.OSVolumeURI = "" // ours to say
	if now.OSDeploymentPlanURI != "" {
		if err := d.ready(); err != nil {
			return domain.Task{}, err
		}
		p.OSDeploymentSettings = &now
		if _, err := d.resolve(ctx, p); err != nil {
			return domain.Task{}, err
		}
	}
	again, err := anew(old, now)
	if err != nil {
		return domain.Task{}, err
	}
	if again {
		if err := d.mayClone(); err != nil {
			return domain.Task{}, err
		}
	}
	moved := old.ServerHardwareURI != p.ServerHardwareURI
	if previous != "" && (again || moved) {
		if err := d.quiet(ctx, previous); err != nil {
			return domain.Task{}, err
		}
	}
	if previous != "" && !again {
		now.OSVolumeURI = domain.OSVolumes + "/" + previous
	}
	now.ForceOSDeployment = false // consent is for once
	err = cluster.Atomically(ctx, d.state.Client, func(tx *cluster.Txn) error {
		if moved {
			if err := d.free(tx, old.URI, old.ServerHardwareURI); err != nil {
				return err
			}
		}
		if err := d.take(tx, &p); err != nil {
			return err
		}
		p.OSDeploymentSettings = nil
		if now.OSDeploymentPlanURI != "" {
			p.OSDeploymentSettings = &now
		}
		_, err := d.state.ServerProfiles.UpdateIn(tx, p.ID, func(row *domain.ServerProfile) error {
			if row.ETag != old.ETag { // another request was faster
				return d.state.ServerProfiles.CheckETag(*row, old.ETag)
			}
			meta := row.Resource
			*row = p
			row.URI, row.Category, row.Type = meta.URI, meta.Category, meta.Type
			row.Status, row.State = domain.StatusOK, stateUpdating
			return nil
		})
		return err
	})
	if err != nil {
		return domain.Task{}, err
	}
	p, err = d.state.ServerProfiles.Get(ctx, p.ID)
	if err != nil {
		return domain.Task{}, err
	}
	return d.submit(ctx, owner, verbUpdate, p)
}

// anew says whether the change makes the volume anew, and refuses it without
// consent. A profile whose deployment failed has no volume to lose.
func anew(old domain.ServerProfile, now domain.OSDeploymentSettings) (bool, error) {
	var was domain.OSDeploymentSettings
	if old.OSDeploymentSettings != nil {
		was = *old.OSDeploymentSettings
	}
	same := planID(was.OSDeploymentPlanURI) == planID(now.OSDeploymentPlanURI) && sameValues(was.OSCustomAttributes, now.OSCustomAttributes)
	if same && !now.ForceOSDeployment && was.OSVolumeURI != "" {
		return false, nil
	}
	if was.OSVolumeURI == "" {
		return now.OSDeploymentPlanURI != "", nil
	}
	if !now.ForceOSDeployment {
		return false, domain.Errorf(domain.Conflict, "server profile "+old.Name, "this change makes its OS volume anew; what is on the present one would be gone").
			Fix("Send forceOsDeployment=true if that is meant; the present volume then stays in the trash for a week.")
	}
	return true, nil
}

// planID is the id in a uri of a deployment plan, in either collection.
func planID(uri string) string {
	uri = strings.ToLower(strings.TrimSuffix(uri, "/"))
	return uri[strings.LastIndex(uri, "/")+1:]
}

func sameValues(a, b []domain.Attribute) bool {
	values := func(l []domain.Attribute) map[string]string {
		m := map[string]string{}
		for _, x := range l {
			m[x.Name] = x.Value
		}
		return m
	}
	x, y := values(a), values(b)
	if len(x) != len(y) {
		return false
	}
	for k, v := range x {
		if w, ok := y[k]; !ok || w != v {
			return false
		}
	}
	return true
}

// DeleteProfile deletes a profile; its volume moves to the trash.
func (d *Deployer) DeleteProfile(ctx context.Context, owner, id string) (domain.Task, error) {
	p, err := d.state.ServerProfiles.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	volumes, err := d.volumesOf(ctx, p.URI)
	if err != nil {
		return domain.Task{}, err
	}
	for _, id := range volumes {
		if err := d.quiet(ctx, id); err != nil {
			return domain.Task{}, err
		}
	}
	return d.tasks.Submit(ctx, task.Request{Kind: "profile.delete", Name: task.Delete, Owner: owner, Associated: profileRef(p), Lock: "profile " + p.ID,
		Data: map[string]string{keyProfile: p.ID}})
}

// DeleteVolume moves a volume that no profile uses to the trash, and destroys
// one that lies there already.
func (d *Deployer) DeleteVolume(ctx context.Context, owner, id string) (domain.Task, error) {
	v, err := d.state.OSVolumes.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	if v.State != domain.VolumeTrash && v.ServerProfileURI != "" {
		return domain.Task{}, domain.Errorf(domain.Conflict, "OS volume "+v.Name, "server profile %s uses it", v.ServerProfileName).
			Fix("Delete the server profile, or take the deployment plan from it.")
	}
	if err := d.quiet(ctx, id); err != nil {
		return domain.Task{}, err
	}
	data := map[string]string{keyVolume: id}
	if v.State == domain.VolumeTrash {
		data[keyDestroy] = "yes"
	}
	return d.tasks.Submit(ctx, task.Request{Kind: "volume.delete", Name: task.Delete, Owner: owner, Lock: "volume " + id,
		Associated: domain.AssociatedResource{ResourceCategory: "os-volumes", ResourceName: v.Name, ResourceURI: v.URI},
		Data:       data})
}

// quiet refuses while a server is logged in to the volume.
func (d *Deployer) quiet(ctx context.Context, id string) error {
	if err := d.ready(); err != nil {
		return err
	}
	users, err := d.storage.Sessions(ctx, id)
	if err != nil || len(users) == 0 {
		return err
	}
	v, err := d.state.OSVolumes.Get(ctx, id)
	if err != nil {
		return err
	}
	return domain.Errorf(domain.Conflict, "OS volume "+v.Name, "a server runs from it: %s", strings.Join(users, ", ")).
		Fix("Power that server off first.")
}

// ready refuses work that needs the storage role.
func (d *Deployer) ready() error {
	return d.storage.Ready()
}

// mayClone refuses at once what its task could not do.
func (d *Deployer) mayClone() error {
	if err := d.ready(); err != nil {
		return err
	}
	return d.storage.MayClone()
}

// volumesOf are the volumes that belong to the profile and are not in the
// trash, those that its row does not name (yet) included.
func (d *Deployer) volumesOf(ctx context.Context, profileURI string) ([]string, error) {
	all, err := d.state.OSVolumes.List(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, v := range all {
		if v.ServerProfileURI == profileURI && v.State != domain.VolumeTrash {
			ids = append(ids, v.OEVolumeID)
		}
	}
	return ids, nil
}

func volumeOf(p domain.ServerProfile) string {
	if p.OSDeploymentSettings == nil || p.OSDeploymentSettings.OSVolumeURI == "" {
		return ""
	}
	id, err := domain.IDFromURI(domain.OSVolumes, p.OSDeploymentSettings.OSVolumeURI)
	if err != nil {
		return ""
	}
	return id
}

// VolumeLog is the log of the deployment that made the volume, also when it
// failed and the volume is gone. The key is a volume's id, or the name that it
// has from its profile; then the newest deployment of that name counts.
func (d *Deployer) VolumeLog(ctx context.Context, key string) (io.ReadCloser, error) {
	id := key
	if !domain.ValidUUID(key) {
		var err error
		if id, err = d.volumeNamed(ctx, key); err != nil {
			return nil, err
		}
	}
	f, err := d.openLog(id)
	if os.IsNotExist(err) {
		return nil, domain.Errorf(domain.NotFound, "OS volume "+key, "has no log").Fix("Give the name of a server profile, or the id of an OS volume.")
	}
	return f, err
}

// volumeNamed is the id of the volume that was made last under that name, or
// was to be; "" if there is none.
func (d *Deployer) volumeNamed(ctx context.Context, name string) (string, error) {
	var id, when string
	volumes, err := d.state.OSVolumes.List(ctx)
	if err != nil {
		return "", err
	}
	for _, v := range volumes {
		if strings.EqualFold(v.Name, name) && v.Created >= when {
			id, when = v.OEVolumeID, v.Created
		}
	}
	tasks, err := d.state.Tasks.List(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range tasks {
		failed := t.TaskState == domain.TaskFailed && t.Data[keyVolume] != ""
		if failed && strings.EqualFold(t.AssociatedResource.ResourceName, name) && t.Created >= when {
			id, when = t.Data[keyVolume], t.Created
		}
	}
	return id, nil
}

func (d *Deployer) openLog(id string) (*os.File, error) {
	if !domain.ValidUUID(id) {
		return nil, os.ErrNotExist
	}
	return os.Open(filepath.Join(d.logs, id+".log"))
}

// VolumeStorage tells how the volume is kept.
func (d *Deployer) VolumeStorage(ctx context.Context, id string) (any, error) {
	if err := d.ready(); err != nil {
		return nil, err
	}
	return d.storage.Detail(ctx, id)
}
