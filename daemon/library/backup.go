package library

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// A backup is one bundle with all artifacts of the domain; there is at most one.
// A new one takes the place of the old only when it is whole. As in all
// bundles, passwords stay here.

func (l *Library) registerBackups() {
	retire := task.Step{Name: "Remove the previous backup", Do: l.retireBackups}
	l.tasks.Register(task.Kind{Name: "backup.create", Undo: l.undoBundle, Steps: []task.Step{
		{Name: "Pack all artifacts", Do: l.packBackup},
		{Name: "Check backup", Do: l.checkBundle},
		retire,
	}})
	l.tasks.Register(task.Kind{Name: "backup.add", Undo: l.undoBundle, Steps: []task.Step{
		{Name: "Check backup", Do: l.checkBundle},
		retire,
	}})
	l.tasks.Register(task.Kind{Name: "backup.restore", Undo: l.undoExtract, Steps: []task.Step{
		{Name: "Check for conflicts", Do: l.beginExtract},
		{Name: "Golden images", Do: l.extractGoldens},
		{Name: "Plan scripts and plans", Do: l.extractPlans},
	}})
}

func backupRef(id, name string) domain.AssociatedResource {
	ref := bundleRef(id, name)
	ref.ResourceURI = domain.ArtifactBundles + "/backups/" + id
	return ref
}

// backupData is what the tasks of a new backup begin with.
func backupData(id string) map[string]string {
	return map[string]string{keyID: id, keyName: "Backup " + time.Now().UTC().Format("2006-01-02 15:04:05 ") + id[:8], keyBackup: "true"}
}

// CreateBackup packs all artifacts.
func (l *Library) CreateBackup(ctx context.Context, owner string) (domain.Task, error) {
	if req, err := l.everything(ctx); err != nil {
		return domain.Task{}, err
	} else if len(req.PlanScripts)+len(req.BuildPlans)+len(req.DeploymentPlans)+len(req.GoldenImages) == 0 {
		return domain.Task{}, domain.Errorf(domain.Conflict, "backup", "there is no artifact to back up").Fix("Upload or create artifacts first.")
	}
	id := domain.NewID()
	data := backupData(id)
	return l.tasks.Submit(ctx, task.Request{Kind: "backup.create", Name: "Create backup", Owner: owner, Associated: backupRef(id, data[keyName]), Lock: "backup", Data: data})
}

// UploadBackup takes in a backup that was downloaded before; any artifact
// bundle is good for one.
func (l *Library) UploadBackup(ctx context.Context, owner, filename string, r io.Reader) (domain.Task, error) {
	obj, done, err := l.put(ctx, r)
	if err != nil {
		return domain.Task{}, err
	}
	defer done()
	id := domain.NewID()
	data := backupData(id)
	data[keyDesc], data[keyObject] = "Uploaded as "+baseName(filename), obj.SHA256
	return l.tasks.Submit(ctx, task.Request{Kind: "backup.add", Name: "Add backup", Owner: owner, Associated: backupRef(id, data[keyName]), Lock: "backup", Data: data})
}

// RestoreBackup brings the artifacts of the backup back as they were. Artifacts
// that it does not have stay; those that a server profile uses must not differ.
func (l *Library) RestoreBackup(ctx context.Context, owner, id string) (domain.Task, error) {
	b, err := l.cat.ArtifactBundles.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	return l.tasks.Submit(ctx, task.Request{Kind: "backup.restore", Name: "Restore backup", Owner: owner, Associated: backupRef(id, b.Name),
		Lock: "extract", Data: map[string]string{keyID: id, keyForce: "true"}})
}

// everything names all artifacts.
func (l *Library) everything(ctx context.Context) (domain.CreateBundleRequest, error) {
	var req domain.CreateBundleRequest
	have, err := l.present(ctx)
	if err != nil {
		return req, err
	}
	for _, p := range have.plans {
		req.DeploymentPlans = append(req.DeploymentPlans, domain.BundleRef{ResourceURI: p.URI})
	}
	for _, p := range have.builds {
		req.BuildPlans = append(req.BuildPlans, domain.BundleRef{ResourceURI: p.URI})
	}
	for _, s := range have.scripts {
		req.PlanScripts = append(req.PlanScripts, domain.BundleRef{ResourceURI: s.URI})
	}
	for _, g := range have.goldens {
		req.GoldenImages = append(req.GoldenImages, domain.BundleRef{ResourceURI: g.URI})
	}
	return req, nil
}

func (l *Library) packBackup(ctx context.Context, r *task.Run) error {
	req, err := l.everything(ctx)
	if err != nil {
		return err
	}
	req.Name, req.Description = r.Data(keyName), "All artifacts of "+l.appliance
	if err := l.pack(ctx, r, req); err != nil {
		return err
	}
	r.Logf("%d plan scripts, %d build plans, %d deployment plans, %d golden images",
		len(req.PlanScripts), len(req.BuildPlans), len(req.DeploymentPlans), len(req.GoldenImages))
	return nil
}

func (l *Library) retireBackups(ctx context.Context, r *task.Run) error {
	all, err := l.cat.ArtifactBundles.List(ctx)
	if err != nil {
		return err
	}
	for _, b := range all {
		if !b.BackupService || b.ArtifactsBundleID == r.Data(keyID) {
			continue
		}
		if err := l.cat.ArtifactBundles.Delete(ctx, b.ArtifactsBundleID); err != nil && domain.KindOf(err) != domain.NotFound {
			return err
		}
	}
	return l.sweepStore(ctx, r.ID())
}

// mayReplace refuses to replace the bytes of an image that has clones, unless
// the new ones are the same.
func (l *Library) mayReplace(ctx context.Context, old domain.GoldenImage, by artifact.GoldenImage) error {
	refusal := l.goldenWithoutVolumes(ctx, old)
	if domain.KindOf(refusal) != domain.Conflict {
		return refusal
	}
	rc, err := by.Open()
	if err != nil {
		return explain(err)
	}
	defer rc.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, rc); err != nil {
		return fmt.Errorf("golden image %s: %w", by.Name, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) == old.CheckSum {
		return nil
	}
	return refusal
}
