package library

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// fakePool keeps golden images in memory.
type fakePool struct {
	mu     sync.Mutex
	images map[string][]byte
	room   int64
	fail   error
	hook   func(ctx context.Context, done bool) error // called before and behind each change
}

func (p *fakePool) change(ctx context.Context, do func()) error {
	if p.hook != nil {
		if err := p.hook(ctx, false); err != nil {
			return err
		}
	}
	p.mu.Lock()
	do()
	p.mu.Unlock()
	if p.hook != nil {
		return p.hook(ctx, true)
	}
	return nil
}

func (p *fakePool) ImportGolden(ctx context.Context, id string, img *artifact.Image, progress func(done, total int64)) (Expanded, error) {
	var b []byte
	c, err := img.Blocks(ctx, max(1, p.room), func(off int64, data []byte) error {
		b = append(b, make([]byte, int(off)+len(data)-len(b))...)
		copy(b[off:], data)
		return nil
	})
	if err == nil {
		err = p.fail
	}
	if err != nil {
		return Expanded{}, err
	}
	return Expanded{Size: c.Size, Data: c.Data, Digest: c.SHA256}, p.change(ctx, func() { p.images[id] = b })
}

func (p *fakePool) DeleteGolden(ctx context.Context, id string) error {
	return p.change(ctx, func() { delete(p.images, id) })
}

func (p *fakePool) Room(context.Context) (int64, error) { return p.room, nil }

type bench struct {
	*Library
	t    *testing.T
	pool *fakePool

	stop  func()
	again func() // ends the process and starts the next one
}

func newBench(t *testing.T) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	node, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Name: "a", Log: log})
	fatal(t, err)
	store, err := artifact.OpenStore(t.TempDir(), 0)
	fatal(t, err)
	b := &bench{t: t, pool: &fakePool{images: map[string][]byte{}, room: 1 << 30}}
	b.run(node, store)
	t.Cleanup(func() {
		b.stop()
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// run starts a Library and its engine, as a new process would.
func (b *bench) run(node *cluster.Node, store *artifact.Store) {
	log := slog.New(slog.DiscardHandler)
	state := cluster.NewStore(node.Client())
	engine := task.New(state.Tasks, log)
	b.Library = New(Config{State: state, Store: store, Pool: b.pool, Tasks: engine, Attributes: func(string) string { return "[]" }, Appliance: "F, appliance 1", Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	b.again = func() {
		b.stop()
		b.run(node, store)
	}
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait returns the task when it has ended.
func (b *bench) wait(task domain.Task, err error) domain.Task {
	b.t.Helper()
	fatal(b.t, err)
	for !task.Ended() {
		time.Sleep(5 * time.Millisecond) // the engine works in real time; the test's deadline bounds this
		task, err = b.cat.Tasks.Get(b.t.Context(), task.ID)
		fatal(b.t, err)
	}
	return task
}

// well is wait for a task that must end well.
func (b *bench) well(task domain.Task, err error) domain.Task {
	b.t.Helper()
	t := b.wait(task, err)
	if t.TaskState != domain.TaskCompleted {
		b.t.Fatalf("task %s = %s: %v", t.Name, t.TaskState, t.TaskErrors)
	}
	return t
}

func (b *bench) objects() int {
	b.t.Helper()
	all, err := b.store.List()
	fatal(b.t, err)
	return len(all)
}

var disk = bytes.Repeat([]byte("golden image. \n\n"), 8192) // 128 KiB

// sample is a small bundle with one of each.
func sample() *artifact.Bundle {
	return &artifact.Bundle{
		Name:        "sample",
		PlanScripts: []artifact.PlanScript{{ID: domain.NewID(), Name: "script", PlanType: "deploy", Content: "echo hello"}},
		BuildPlans: []artifact.BuildPlan{{ID: domain.NewID(), Name: "build", Type: "deploy",
			Steps: []artifact.BuildStep{{SerialNumber: "1", PlanScriptName: "script"}}}},
		DeploymentPlans: []artifact.DeploymentPlan{{ID: domain.NewID(), Name: "deploy", BuildPlan: "build", GoldenImage: "image",
			CustomAttributes: []artifact.CustomAttribute{{Name: "Secret", Type: "password", Value: "hidden", Constraints: "{}", Editable: true, Visible: true}}}},
		GoldenImages: []artifact.GoldenImage{{ID: domain.NewID(), Name: "image", PayloadSize: int64(len(disk)),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(disk)), nil }}},
	}
}

func packed(t *testing.T, b *artifact.Bundle) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	fatal(t, artifact.WriteBundle(t.Context(), &buf, b))
	return &buf
}

func TestBundleIsExtractedWithItsLinks(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	up := b.well(b.UploadBundle(ctx, "admin", "sample.zip", packed(t, sample())))
	row, err := b.cat.ArtifactBundles.ByName(ctx, "sample")
	fatal(t, err)
	if row.URI != up.AssociatedResource.ResourceURI || row.ArtifactsCount != 4 || row.Status != domain.StatusOK {
		t.Errorf("bundle = %s %d artifacts %s", row.URI, row.ArtifactsCount, row.Status)
	}
	b.well(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, false))
	plan, err := b.cat.DeploymentPlans.ByName(ctx, "deploy")
	fatal(t, err)
	build, err := b.cat.BuildPlans.ByName(ctx, "build")
	fatal(t, err)
	script, err := b.cat.PlanScripts.ByName(ctx, "script")
	fatal(t, err)
	image, err := b.cat.GoldenImages.ByName(ctx, "image")
	fatal(t, err)
	if plan.OEBuildPlanURI != build.URI || plan.GoldenImageURI != image.URI || build.BuildStep[0].PlanScriptURI != script.URI {
		t.Errorf("links: %s %s %s", plan.OEBuildPlanURI, plan.GoldenImageURI, build.BuildStep[0].PlanScriptURI)
	}
	if !bytes.Equal(b.pool.images[image.ID], disk) || image.SizeBytes != int64(len(disk)) {
		t.Errorf("the pool has %d bytes, the row says %d; want %d", len(b.pool.images[image.ID]), image.SizeBytes, len(disk))
	}

	// A second time the names are taken; with force the same ids stay.
	again := b.wait(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, false))
	if again.TaskState != domain.TaskFailed || !strings.Contains(again.TaskErrors[0].Message, "plan script script") {
		t.Errorf("second extraction = %s %v, want a conflict that names the script", again.TaskState, again.TaskErrors)
	}
	b.well(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, true))
	forced, err := b.cat.DeploymentPlans.ByName(ctx, "deploy")
	fatal(t, err)
	if forced.ID != plan.ID || len(b.pool.images) != 1 {
		t.Errorf("forced extraction: plan %s, %d images; want %s, 1", forced.ID, len(b.pool.images), plan.ID)
	}
}

func TestFailedExtractionLeavesNothing(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.well(b.UploadBundle(ctx, "admin", "sample.zip", packed(t, sample())))
	row, err := b.cat.ArtifactBundles.ByName(ctx, "sample")
	fatal(t, err)
	b.pool.fail = errors.New("disk on fire")
	if got := b.wait(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, false)); got.TaskState != domain.TaskFailed {
		t.Fatalf("task = %s, want Error", got.TaskState)
	}
	scripts, err := b.cat.PlanScripts.List(ctx)
	fatal(t, err)
	images, err := b.cat.GoldenImages.List(ctx)
	fatal(t, err)
	if len(scripts)+len(images)+len(b.pool.images) != 0 || b.objects() != 1 {
		t.Errorf("left: %d scripts, %d images, %d in the pool, %d objects; want only the bundle's object", len(scripts), len(images), len(b.pool.images), b.objects())
	}
}

func TestCorruptBundleIsRefusedAndForgotten(t *testing.T) {
	b := newBench(t)
	zip := packed(t, sample()).Bytes()
	copy(zip[len(zip)/2:], "this is not what was packed")
	got := b.wait(b.UploadBundle(t.Context(), "admin", "broken.zip", bytes.NewReader(zip)))
	if got.TaskState != domain.TaskFailed || len(got.TaskErrors[0].RecommendedActions) == 0 {
		t.Errorf("task = %s %v, want Error with a remedy", got.TaskState, got.TaskErrors)
	}
	if strings.Contains(got.TaskErrors[0].Message, "/objects/") {
		t.Errorf("message shows where the store keeps things: %s", got.TaskErrors[0].Message)
	}
	if _, err := b.cat.ArtifactBundles.ByName(t.Context(), "broken"); domain.KindOf(err) != domain.NotFound || b.objects() != 0 {
		t.Errorf("broken bundle: %v, %d objects left", err, b.objects())
	}
}

func TestGoldenImageLargerThanThePoolIsRefused(t *testing.T) {
	b := newBench(t)
	b.pool.room = int64(len(disk)) - 512
	got := b.wait(b.UploadGoldenImage(t.Context(), "admin", "big", "", "big.raw", bytes.NewReader(disk)))
	if got.TaskState != domain.TaskFailed || !strings.Contains(got.TaskErrors[0].Message, "big") || b.objects() != 0 {
		t.Errorf("task = %s %v, %d objects; want Error naming it, 0", got.TaskState, got.TaskErrors, b.objects())
	}
}

func TestGoldenImageLivesUntilNothingUsesIt(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	up := b.well(b.UploadGoldenImage(ctx, "admin", "one", "", "one.raw", bytes.NewReader(disk)))
	id := strings.TrimPrefix(up.AssociatedResource.ResourceURI, domain.GoldenImages+"/")
	g, err := b.cat.GoldenImages.Get(ctx, id)
	fatal(t, err)
	if _, err := b.UploadGoldenImage(ctx, "admin", "ONE", "", "x.raw", bytes.NewReader(disk)); domain.KindOf(err) != domain.Conflict {
		t.Errorf("second image of the name = %v, want Conflict", err)
	}
	v, err := b.cat.OSVolumes.Create(ctx, domain.OSVolume{Resource: domain.Resource{Name: "v"}, GoldenVolumeURI: g.URI})
	fatal(t, err)
	if _, err := b.DeleteGoldenImage(ctx, "admin", id); domain.KindOf(err) != domain.Conflict {
		t.Errorf("delete of a used image = %v, want Conflict", err)
	}
	fatal(t, b.cat.OSVolumes.Delete(ctx, v.OEVolumeID))
	rc, name, err := b.OpenGoldenImage(ctx, id)
	fatal(t, err)
	zip, err := io.ReadAll(rc)
	fatal(t, errors.Join(err, rc.Close()))
	img, err := artifact.OpenImage(bytes.NewReader(zip), int64(len(zip)))
	fatal(t, err)
	if img.Format != artifact.Zip || img.VirtualSize != int64(len(disk)) || name != "one.zip" {
		t.Errorf("download %s = %s of %d bytes", name, img.Format, img.VirtualSize)
	}
	b.well(b.DeleteGoldenImage(ctx, "admin", id))
	if len(b.pool.images) != 0 || b.objects() != 0 {
		t.Errorf("left: %d in the pool, %d objects", len(b.pool.images), b.objects())
	}
}

func TestCreatedBundleHoldsWhatItNeedsButNoPassword(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.well(b.UploadBundle(ctx, "admin", "sample.zip", packed(t, sample())))
	row, err := b.cat.ArtifactBundles.ByName(ctx, "sample")
	fatal(t, err)
	b.well(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, false))
	plan, err := b.cat.DeploymentPlans.ByName(ctx, "deploy")
	fatal(t, err)
	b.well(b.CreateBundle(ctx, "admin", domain.CreateBundleRequest{Name: "copy", DeploymentPlans: []domain.BundleRef{{ResourceURI: plan.URI}}}))
	made, err := b.cat.ArtifactBundles.ByName(ctx, "copy")
	fatal(t, err)
	if made.ArtifactsCount != 4 {
		t.Errorf("the new bundle has %d artifacts, want plan, build plan, script and image", made.ArtifactsCount)
	}
	f, copied, err := b.openBundle(ctx, made.Checksum, "copy")
	fatal(t, err)
	defer f.Close()
	if got := copied.DeploymentPlans[0].CustomAttributes[0].Value; got != "" {
		t.Errorf("the bundle carries the password %q", got)
	}
	if _, err := b.CreateBundle(ctx, "admin", domain.CreateBundleRequest{Name: "empty"}); domain.KindOf(err) != domain.Invalid {
		t.Errorf("bundle of nothing = %v, want Invalid", err)
	}
}

func TestReadOnlyBundleRefusesItsNewName(t *testing.T) {
	b := newBench(t)
	s := sample()
	s.ReadOnly = true
	b.well(b.UploadBundle(t.Context(), "admin", "fixed.zip", packed(t, s)))
	row, err := b.cat.ArtifactBundles.ByName(t.Context(), "fixed")
	fatal(t, err)
	_, err = b.RenameBundle(t.Context(), "admin", row.ArtifactsBundleID, "other", "")
	if err == nil || !strings.Contains(err.Error(), "the artifact bundle is not allowed to be modified") {
		t.Errorf("rename = %v", err)
	}
}

func TestForcedExtractionLeavesWhatAProfileUses(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	one := sample()
	b.well(b.UploadBundle(ctx, "admin", "one.zip", packed(t, one)))
	first, err := b.cat.ArtifactBundles.ByName(ctx, "one")
	fatal(t, err)
	b.well(b.ExtractBundle(ctx, "admin", first.ArtifactsBundleID, false))
	plan, err := b.cat.DeploymentPlans.ByName(ctx, "deploy")
	fatal(t, err)
	_, err = b.cat.ServerProfiles.Create(ctx, domain.ServerProfile{Resource: domain.Resource{Name: "web"},
		OSDeploymentSettings: &domain.OSDeploymentSettings{OSDeploymentPlanURI: domain.OSDeploymentPlans + "/" + strings.ToUpper(plan.ID)}})
	fatal(t, err)

	script := func(content string) *artifact.Bundle {
		return &artifact.Bundle{Name: "s", PlanScripts: []artifact.PlanScript{{ID: domain.NewID(), Name: "script", PlanType: "deploy", Content: content}}}
	}
	build := script("echo hello")
	build.BuildPlans = []artifact.BuildPlan{{ID: domain.NewID(), Name: "build", Type: "deploy"}} // without its step
	for name, c := range map[string]struct {
		bundle *artifact.Bundle
		want   string // in the error; empty: passes
	}{
		"plan":   {sample(), "deployment plan"},
		"build":  {build, "OS build plan"},
		"script": {script("echo other"), "plan script"},
		"same":   {script("echo hello"), ""},
	} {
		b.well(b.UploadBundle(ctx, "admin", name+".zip", packed(t, c.bundle)))
		row, err := b.cat.ArtifactBundles.ByName(ctx, name)
		fatal(t, err)
		end := b.wait(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, true))
		switch {
		case c.want == "" && end.TaskState != domain.TaskCompleted:
			t.Errorf("%s: task = %s %v, want Completed", name, end.TaskState, end.TaskErrors)
		case c.want != "" && (end.TaskState != domain.TaskFailed || !strings.Contains(end.TaskErrors[0].Message, c.want) || !strings.Contains(end.TaskErrors[0].Message, "web")):
			t.Errorf("%s: task = %s %v, want an error with %q that names the profile", name, end.TaskState, end.TaskErrors, c.want)
		}
	}
}

func TestReplacingAnImageByOneThatDoesNotFitKeepsTheOld(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.well(b.UploadGoldenImage(ctx, "admin", "image", "", "image.raw", bytes.NewReader(disk)))
	old, err := b.cat.GoldenImages.ByName(ctx, "image")
	fatal(t, err)
	large := append(bytes.Clone(disk), disk...)
	bundle := &artifact.Bundle{Name: "l", GoldenImages: []artifact.GoldenImage{{ID: domain.NewID(), Name: "image", PayloadSize: int64(len(large)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(large)), nil }}}}
	b.well(b.UploadBundle(ctx, "admin", "large.zip", packed(t, bundle)))
	row, err := b.cat.ArtifactBundles.ByName(ctx, "large")
	fatal(t, err)
	for _, room := range []int64{int64(len(large)) - 512, 0} {
		b.pool.room = room
		if end := b.wait(b.ExtractBundle(ctx, "admin", row.ArtifactsBundleID, true)); end.TaskState != domain.TaskFailed {
			t.Fatalf("room %d: task = %s, want Error", room, end.TaskState)
		}
		now, err := b.cat.GoldenImages.Get(ctx, old.ID)
		fatal(t, err)
		if now.CheckSum != old.CheckSum || !bytes.Equal(b.pool.images[old.ID], disk) {
			t.Errorf("room %d: the old image is damaged", room)
		}
	}
}
