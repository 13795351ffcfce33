package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baystream/daemon/domain"
)

// slow makes the next personalising wait until go on is called.
func (b *bench) slow() (begun <-chan struct{}, goOn func()) {
	at, on := make(chan struct{}), make(chan struct{})
	b.plans.pause = func() { close(at); <-on }
	return at, func() { b.plans.pause = nil; close(on) }
}

func TestProfileDeletedDuringItsDeploymentLeavesItsServerNothing(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	begun, goOn := b.slow()
	made, err := b.CreateProfile(t.Context(), "admin", domain.ServerProfile{Resource: domain.Resource{Name: "p"}, ServerHardwareURI: b.server, OSDeploymentSettings: b.settings("web1")})
	fatal(t, err)
	<-begun
	p, err := b.state.ServerProfiles.ByName(t.Context(), "p")
	fatal(t, err)
	deleted, err := b.DeleteProfile(t.Context(), "admin", p.ID)
	fatal(t, err)
	goOn()
	if end := b.wait(made, nil); end.TaskState != domain.TaskCompleted {
		t.Fatalf("deployment = %s %v", end.TaskState, end.TaskErrors)
	}
	if end := b.wait(deleted, nil); end.TaskState != domain.TaskCompleted {
		t.Fatalf("deletion = %s %v", end.TaskState, end.TaskErrors)
	}
	v, err := b.state.OSVolumes.Get(t.Context(), made.Data[keyVolume])
	fatal(t, err)
	if v.State != domain.VolumeTrash || len(b.storage.exported) != 0 {
		t.Errorf("volume is %s, %d exports; want Trash, none", v.State, len(b.storage.exported))
	}
	h, err := b.state.ServerHardware.Get(t.Context(), planID(b.server))
	fatal(t, err)
	if h.ServerProfile != "" {
		t.Errorf("server still has profile %s", h.ServerProfile)
	}
}

func TestProfileIsNotChangedWhileATaskWorksOnIt(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	begun, goOn := b.slow()
	made, err := b.CreateProfile(t.Context(), "admin", domain.ServerProfile{Resource: domain.Resource{Name: "p"}, ServerHardwareURI: b.server, OSDeploymentSettings: b.settings("web1")})
	fatal(t, err)
	<-begun
	p, err := b.state.ServerProfiles.ByName(t.Context(), "p")
	fatal(t, err)
	p.OSDeploymentSettings = b.settings("web2")
	if _, err := b.UpdateProfile(t.Context(), "admin", p); domain.KindOf(err) != domain.Conflict || !strings.Contains(err.Error(), made.URI) {
		t.Errorf("update = %v, want Conflict that names %s", err, made.URI)
	}
	goOn()
	b.wait(made, nil)
}

func TestStoredProfileWithoutATaskIsDeployedAtTheNextStart(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := domain.ServerProfile{Resource: domain.Resource{Name: "p", State: stateCreating}, ServerHardwareURI: b.server, OSDeploymentSettings: b.settings("web1")}
	p.SetID(domain.NewID())
	p, err := b.state.ServerProfiles.Create(t.Context(), p)
	fatal(t, err)
	b.stop() // the daemon died between the profile and its task
	b.run()
	fatal(t, b.Recover(t.Context()))
	fatal(t, b.Recover(t.Context())) // finds the task
	tasks, err := b.state.Tasks.List(t.Context())
	fatal(t, err)
	if len(tasks) != 1 {
		t.Fatalf("%d tasks, want 1", len(tasks))
	}
	if end := b.wait(tasks[0], nil); end.TaskState != domain.TaskCompleted {
		t.Fatalf("task = %s %v", end.TaskState, end.TaskErrors)
	}
	p, err = b.state.ServerProfiles.Get(t.Context(), p.ID)
	fatal(t, err)
	if p.State != "Normal" || volumeOf(p) == "" {
		t.Errorf("profile is %s with volume %q", p.State, volumeOf(p))
	}
}

func TestPlanTakenAwayTrashesTheVolumeInTheTask(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	id := volumeOf(p)
	// A refused change leaves the volume served.
	other := p
	other.ServerHardwareURI = domain.ServerHardwares + "/" + domain.NewID()
	other.OSDeploymentSettings = &domain.OSDeploymentSettings{ForceOSDeployment: true}
	if _, err := b.UpdateProfile(t.Context(), "admin", other); domain.KindOf(err) != domain.NotFound {
		t.Errorf("update = %v, want NotFound", err)
	}
	if _, served := b.storage.exported[id]; !served {
		t.Error("a refused change withdrew the volume")
	}
	p.OSDeploymentSettings = &domain.OSDeploymentSettings{ForceOSDeployment: true}
	if end := b.wait(b.UpdateProfile(t.Context(), "admin", p)); end.TaskState != domain.TaskCompleted {
		t.Fatalf("task = %s %v", end.TaskState, end.TaskErrors)
	}
	v, err := b.state.OSVolumes.Get(t.Context(), id)
	fatal(t, err)
	if _, served := b.storage.exported[id]; served || v.State != domain.VolumeTrash {
		t.Errorf("volume is %s, served %v; want Trash, false", v.State, served)
	}
}

func TestADeletionSentTwiceOnlyTrashesTheVolume(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	id := volumeOf(p)
	_, err := b.state.OSVolumes.Update(t.Context(), id, func(v *domain.OSVolume) error { v.State, v.ServerProfileURI = domain.VolumeUnassigned, ""; return nil })
	fatal(t, err)
	b.stop() // nothing runs until both are there
	first, err := b.DeleteVolume(t.Context(), "admin", id)
	fatal(t, err)
	second, err := b.DeleteVolume(t.Context(), "admin", id)
	fatal(t, err)
	b.run()
	b.wait(first, nil)
	if end := b.wait(second, nil); end.TaskState != domain.TaskCompleted || b.storage.volumes[id] == nil {
		t.Errorf("task %s, volume kept %v; want it in the trash", end.TaskState, b.storage.volumes[id] != nil)
	}
}

func TestLogsOfLongGoneVolumesGo(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	var ids []string
	for i := range keepLogs + 2 {
		id := domain.NewID()
		fatal(t, os.WriteFile(filepath.Join(b.dir, id+".log"), []byte("x"), 0o600))
		at := time.Unix(int64(2_000_000_000+i), 0)
		fatal(t, os.Chtimes(filepath.Join(b.dir, id+".log"), at, at))
		ids = append(ids, id)
	}
	old := time.Unix(1, 0)
	fatal(t, os.Chtimes(filepath.Join(b.dir, volumeOf(p)+".log"), old, old))
	fatal(t, b.EmptyTrash(t.Context(), 0))
	for i, id := range append(ids, volumeOf(p)) {
		_, err := os.Stat(filepath.Join(b.dir, id+".log"))
		if gone := os.IsNotExist(err); gone != (i < 2) {
			t.Errorf("log %d is gone: %v (%v)", i, gone, err)
		}
	}
}
