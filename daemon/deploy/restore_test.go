package deploy

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"baystream/daemon/domain"
)

// again asks for the profile's volume anew and returns the ended task.
func (b *bench) again(p domain.ServerProfile, host string) domain.Task {
	b.t.Helper()
	p.OSDeploymentSettings = b.settings(host)
	p.OSDeploymentSettings.ForceOSDeployment = true
	return b.wait(b.UpdateProfile(b.t.Context(), "admin", p))
}

func (b *bench) hostOf(p domain.ServerProfile) string {
	if p.OSDeploymentSettings == nil || len(p.OSDeploymentSettings.OSCustomAttributes) == 0 {
		return ""
	}
	return p.OSDeploymentSettings.OSCustomAttributes[0].Value
}

// brokenStorage fails when a volume but the kept one is exported.
type brokenStorage struct {
	Storage
	keep string
}

func (s brokenStorage) Export(ctx context.Context, id string, a Access) (netip.AddrPort, error) {
	if id != s.keep {
		return netip.AddrPort{}, errors.New("no portal")
	}
	return s.Storage.Export(ctx, id, a)
}

func TestFailedRedeploymentGivesThePreviousVolumeBack(t *testing.T) {
	for name, spoil := range map[string]func(b *bench, first string) (host string){
		"script fails": func(*bench, string) string { return "fail" },
		"export fails": func(b *bench, first string) string {
			b.Deployer.storage = brokenStorage{b.storage, first}
			return "web2"
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "hello @HostName@")
			p := b.deploy("web1")
			first := volumeOf(p)
			secret := b.storage.exported[first].Secret
			if end := b.again(p, spoil(b, first)); end.TaskState != domain.TaskFailed {
				t.Fatalf("task = %s, want Error", end.TaskState)
			}
			p, err := b.state.ServerProfiles.Get(t.Context(), p.ID)
			fatal(t, err)
			v, err := b.state.OSVolumes.Get(t.Context(), first)
			fatal(t, err)
			if volumeOf(p) != first || p.State != "Normal" || b.hostOf(p) != "web1" || v.State != domain.VolumeExported || v.Expires != "" {
				t.Errorf("profile %s has volume %s of host %q, the old one is %s; want Normal, the old, web1, Exported", p.State, volumeOf(p), b.hostOf(p), v.State)
			}
			if len(b.storage.volumes) != 1 || b.storage.exported[first].Secret != secret {
				t.Errorf("%d volumes, served with its secret %v; want 1, true", len(b.storage.volumes), b.storage.exported[first].Secret == secret)
			}
		})
	}
}

func TestServerGetsNoOldVolumeWhileTheNewOneIsMade(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	p := b.deploy("web1")
	first := volumeOf(p)
	begun, goOn := b.slow()
	p.OSDeploymentSettings = b.settings("web2")
	p.OSDeploymentSettings.ForceOSDeployment = true
	made, err := b.UpdateProfile(t.Context(), "admin", p)
	fatal(t, err)
	<-begun
	v, err := b.state.OSVolumes.Get(t.Context(), first)
	fatal(t, err)
	b.storage.mu.Lock()
	served := len(b.storage.exported)
	b.storage.mu.Unlock()
	if served != 0 || v.State != domain.VolumeUnassigned {
		t.Errorf("%d exports, the old volume is %s; want none, Unassigned", served, v.State)
	}
	goOn()
	b.wait(made, nil)
	if v, err = b.state.OSVolumes.Get(t.Context(), first); err != nil || v.State != domain.VolumeTrash {
		t.Errorf("the old volume is %s (%v), want Trash", v.State, err)
	}
}

func TestVolumeComesBackFromTheTrash(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	ctx := t.Context()
	p := b.deploy("web1")
	first := volumeOf(p)
	if _, err := b.RestoreVolume(ctx, "admin", first, p.URI, true); domain.KindOf(err) != domain.Conflict {
		t.Errorf("restore of a volume in use = %v, want Conflict", err)
	}
	if end := b.again(p, "web2"); end.TaskState != domain.TaskCompleted {
		t.Fatalf("task = %s %v", end.TaskState, end.TaskErrors)
	}
	p, err := b.state.ServerProfiles.Get(ctx, p.ID)
	fatal(t, err)
	second := volumeOf(p)
	if _, err := b.RestoreVolume(ctx, "admin", first, p.URI, false); domain.KindOf(err) != domain.Conflict || !strings.Contains(err.Error(), "has an OS volume") {
		t.Errorf("restore without force = %v, want Conflict", err)
	}
	b.storage.sessions[second] = []string{"iqn.x"}
	if _, err := b.RestoreVolume(ctx, "admin", first, p.URI, true); domain.KindOf(err) != domain.Conflict || !strings.Contains(err.Error(), "runs from it") {
		t.Errorf("restore below a running server = %v, want Conflict", err)
	}
	delete(b.storage.sessions, second)

	if end := b.wait(b.RestoreVolume(ctx, "admin", first, p.URI, true)); end.TaskState != domain.TaskCompleted {
		t.Fatalf("restore = %s %v", end.TaskState, end.TaskErrors)
	}
	p, err = b.state.ServerProfiles.Get(ctx, p.ID)
	fatal(t, err)
	other, err := b.state.OSVolumes.Get(ctx, second)
	fatal(t, err)
	if _, served := b.storage.exported[first]; volumeOf(p) != first || b.hostOf(p) != "web1" || !served || other.State != domain.VolumeTrash {
		t.Errorf("profile has %s of host %q, served %v, the other is %s; want the restored, web1, true, Trash", volumeOf(p), b.hostOf(p), served, other.State)
	}

	// Without a profile it is nobody's, and its time in the trash begins anew.
	fatal(t, b.EmptyTrash(ctx, trashTick))
	fatal(t, b.EmptyTrash(ctx, trashTick))
	if end := b.wait(b.RestoreVolume(ctx, "admin", second, "", false)); end.TaskState != domain.TaskCompleted {
		t.Fatalf("restore = %s %v", end.TaskState, end.TaskErrors)
	}
	other, err = b.state.OSVolumes.Get(ctx, second)
	fatal(t, err)
	left, _, err := b.trash.Get(ctx)
	fatal(t, err)
	if _, counted := left[second]; other.State != domain.VolumeUnassigned || other.ServerProfileURI != "" || counted {
		t.Errorf("volume %s of profile %q, counted %v; want Unassigned, none, false", other.State, other.ServerProfileURI, counted)
	}
}

func TestFailedRestoreLeavesThePresentVolume(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	ctx := t.Context()
	p := b.deploy("web1")
	first := volumeOf(p)
	b.again(p, "web2")
	p, err := b.state.ServerProfiles.Get(ctx, p.ID)
	fatal(t, err)
	second := volumeOf(p)
	b.Deployer.storage = brokenStorage{b.storage, second}
	if end := b.wait(b.RestoreVolume(ctx, "admin", first, p.URI, true)); end.TaskState != domain.TaskFailed {
		t.Fatalf("restore = %s, want Error", end.TaskState)
	}
	p, err = b.state.ServerProfiles.Get(ctx, p.ID)
	fatal(t, err)
	v, err := b.state.OSVolumes.Get(ctx, first)
	fatal(t, err)
	if _, served := b.storage.exported[second]; volumeOf(p) != second || b.hostOf(p) != "web2" || !served || v.State != domain.VolumeTrash {
		t.Errorf("profile has %s of host %q, served %v, the other is %s; want the present, web2, true, Trash", volumeOf(p), b.hostOf(p), served, v.State)
	}
}
