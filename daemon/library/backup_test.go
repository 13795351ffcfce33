package library

import (
	"bytes"
	"io"
	"testing"

	"baystream/daemon/domain"
)

// A backup that was downloaded brings all artifacts back to a domain that lost
// them, and changes nothing in one that has them, even where they are in use.
func TestBackupBringsEverythingBack(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	if _, err := b.CreateBackup(ctx, "admin"); domain.KindOf(err) != domain.Conflict {
		t.Errorf("backup of nothing = %v, want Conflict", err)
	}
	b.well(b.UploadBundle(ctx, "admin", "sample.zip", packed(t, sample())))
	row, err := b.cat.ArtifactBundles.ByName(ctx, "sample")
	fatal(t, err)
	b.well(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, false))
	script, err := b.cat.PlanScripts.Create(ctx, domain.PlanScript{Resource: domain.Resource{Name: "lonely"}, PlanType: "general", Content: "echo alone"})
	fatal(t, err)
	for range 2 { // the second takes the place of the first
		b.well(b.CreateBackup(ctx, "admin"))
	}
	backups := func() (out []domain.ArtifactBundle) {
		all, err := b.cat.ArtifactBundles.List(ctx)
		fatal(t, err)
		for _, a := range all {
			if a.BackupService {
				out = append(out, a)
			}
		}
		return out
	}
	made := backups()
	if len(made) != 1 || made[0].ArtifactsCount != 5 {
		t.Fatalf("backups = %+v, want one with 5 artifacts", made)
	}
	f, _, err := b.OpenBundle(ctx, made[0].ArtifactsBundleID)
	fatal(t, err)
	saved, err := io.ReadAll(f)
	fatal(t, err)
	fatal(t, f.Close())

	// In use and unchanged: restoring is allowed and keeps even the password.
	plan, err := b.cat.DeploymentPlans.ByName(ctx, "deploy")
	fatal(t, err)
	image, err := b.cat.GoldenImages.ByName(ctx, "image")
	fatal(t, err)
	profile, err := b.cat.ServerProfiles.Create(ctx, domain.ServerProfile{Resource: domain.Resource{Name: "web"},
		OSDeploymentSettings: &domain.OSDeploymentSettings{OSDeploymentPlanURI: plan.URI}})
	fatal(t, err)
	volume, err := b.cat.OSVolumes.Create(ctx, domain.OSVolume{Resource: domain.Resource{Name: "web"}, GoldenVolumeURI: image.URI})
	fatal(t, err)
	b.well(b.RestoreBackup(ctx, "admin", made[0].ArtifactsBundleID))
	again, err := b.cat.DeploymentPlans.ByName(ctx, "deploy")
	fatal(t, err)
	if got := again.CustomAttributes[0].Value; got != "hidden" || again.ID != plan.ID {
		t.Errorf("after restoring over itself the password is %q, the plan %s; want %q, %s", got, again.ID, "hidden", plan.ID)
	}
	if _, err := b.cat.PlanScripts.Update(ctx, script.ID, func(s *domain.PlanScript) error { s.Content = "echo changed"; return nil }); err != nil {
		t.Fatal(err)
	}

	// All lost, the backup too.
	fatal(t, b.cat.ServerProfiles.Delete(ctx, profile.ID))
	fatal(t, b.cat.OSVolumes.Delete(ctx, volume.OEVolumeID))
	fatal(t, b.cat.DeploymentPlans.Delete(ctx, plan.ID))
	b.well(b.DeleteGoldenImage(ctx, "admin", image.ID))
	b.well(b.DeleteBundle(ctx, "admin", made[0].ArtifactsBundleID))
	b.well(b.UploadBackup(ctx, "admin", "saved.zip", bytes.NewReader(saved)))
	up := backups()
	if len(up) != 1 {
		t.Fatalf("backups = %+v, want the uploaded one", up)
	}
	b.well(b.RestoreBackup(ctx, "admin", up[0].ArtifactsBundleID))
	back, err := b.cat.DeploymentPlans.ByName(ctx, "deploy")
	fatal(t, err)
	img, err := b.cat.GoldenImages.ByName(ctx, "image")
	fatal(t, err)
	lonely, err := b.cat.PlanScripts.Get(ctx, script.ID)
	fatal(t, err)
	if back.ID != plan.ID || back.GoldenImageURI != img.URI || img.CheckSum != image.CheckSum || lonely.Content != "echo alone" {
		t.Errorf("restored plan %+v with image %+v, script %q", back, img, lonely.Content)
	}
}
