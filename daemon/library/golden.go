package library

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

func (l *Library) registerGoldens() {
	l.tasks.Register(task.Kind{Name: "golden.add", Undo: l.undoGolden, Steps: []task.Step{
		{Name: "Inspect image", Do: l.inspectGolden},
		{Name: "Expand into the pool", Do: l.expandGolden},
		{Name: "Register golden image", Do: l.registerGolden},
	}})
	l.tasks.Register(task.Kind{Name: "golden.capture", Undo: l.undoGolden, Steps: []task.Step{
		{Name: "Capture OS volume", Do: l.captureVolume},
		{Name: "Expand into the pool", Do: l.expandGolden},
		{Name: "Register golden image", Do: l.registerGolden},
	}})
	l.tasks.Register(task.Kind{Name: "golden.update", Steps: []task.Step{{Name: "Update golden image", Do: l.updateGolden}}})
	l.tasks.Register(task.Kind{Name: "golden.delete", Steps: []task.Step{{Name: "Delete golden image", Do: l.removeGolden}}})
}

func goldenRef(id, name string) domain.AssociatedResource {
	return domain.AssociatedResource{ResourceCategory: "golden-images", ResourceName: name, ResourceURI: domain.GoldenImages + "/" + id}
}

// UploadGoldenImage takes an image in: the bytes at once, the rest as a task.
func (l *Library) UploadGoldenImage(ctx context.Context, owner, name, description, filename string, r io.Reader) (domain.Task, error) {
	if name == "" {
		name = baseName(filename)
	}
	if err := domain.CheckName("golden image", name); err != nil {
		return domain.Task{}, err
	}
	if err := freeName(ctx, l.cat.GoldenImages.ByName, "golden image", name); err != nil {
		return domain.Task{}, err
	}
	obj, done, err := l.put(ctx, r)
	if err != nil {
		return domain.Task{}, err
	}
	defer done()
	id := domain.NewID()
	return l.tasks.Submit(ctx, task.Request{Kind: "golden.add", Name: "Add golden image", Owner: owner, Associated: goldenRef(id, name), Lock: "golden " + name,
		Data: map[string]string{keyID: id, keyName: name, keyDesc: description, keyObject: obj.SHA256, keySize: strconv.FormatInt(obj.Size, 10)}})
}

// CaptureGoldenImage makes a golden image from an OS volume.
func (l *Library) CaptureGoldenImage(ctx context.Context, owner string, req domain.CaptureRequest) (domain.Task, error) {
	if err := domain.CheckName("golden image", req.Name); err != nil {
		return domain.Task{}, err
	}
	volume, err := domain.IDFromURI(domain.OSVolumes, req.OSVolumeURI)
	if err != nil {
		return domain.Task{}, err
	}
	if _, err := l.cat.OSVolumes.Get(ctx, volume); err != nil {
		return domain.Task{}, err
	}
	if req.BuildPlanURI != "" {
		id, err := domain.IDFromURI(domain.BuildPlans, req.BuildPlanURI)
		if err != nil {
			return domain.Task{}, err
		}
		bp, err := l.cat.BuildPlans.Get(ctx, id)
		if err != nil {
			return domain.Task{}, err
		}
		if bp.OEBuildPlanType != "capture" {
			return domain.Task{}, domain.Errorf(domain.Invalid, "build plan "+bp.Name, "is a %s plan", bp.OEBuildPlanType).Fix("Choose a build plan of type capture.")
		}
	}
	if err := freeName(ctx, l.cat.GoldenImages.ByName, "golden image", req.Name); err != nil {
		return domain.Task{}, err
	}
	id := domain.NewID()
	return l.tasks.Submit(ctx, task.Request{Kind: "golden.capture", Name: "Capture golden image", Owner: owner, Associated: goldenRef(id, req.Name),
		Lock: "golden " + req.Name, Data: map[string]string{keyID: id, keyName: req.Name, keyDesc: req.Description, keyReq: encode(req)}})
}

// UpdateGoldenImage changes name and description.
func (l *Library) UpdateGoldenImage(ctx context.Context, owner string, g domain.GoldenImage) (domain.Task, error) {
	if err := domain.CheckName("golden image", g.Name); err != nil {
		return domain.Task{}, err
	}
	old, err := l.cat.GoldenImages.Get(ctx, g.ID)
	if err != nil {
		return domain.Task{}, err
	}
	if err := l.cat.GoldenImages.CheckETag(old, g.ETag); err != nil {
		return domain.Task{}, err
	}
	if old.Name != g.Name {
		if err := freeName(ctx, l.cat.GoldenImages.ByName, "golden image", g.Name); err != nil {
			return domain.Task{}, err
		}
	}
	return l.tasks.Submit(ctx, task.Request{Kind: "golden.update", Name: "Update golden image", Owner: owner, Associated: goldenRef(g.ID, g.Name),
		Data: map[string]string{keyID: g.ID, keyName: g.Name, keyDesc: g.Description}})
}

// DeleteGoldenImage removes an image that nothing uses.
func (l *Library) DeleteGoldenImage(ctx context.Context, owner, id string) (domain.Task, error) {
	g, err := l.cat.GoldenImages.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	if err := l.goldenUnused(ctx, g); err != nil {
		return domain.Task{}, err
	}
	return l.tasks.Submit(ctx, task.Request{Kind: "golden.delete", Name: task.Delete, Owner: owner, Associated: goldenRef(id, g.Name),
		Lock: "golden " + g.Name, Data: map[string]string{keyID: id}})
}

// goldenUnused returns Conflict if a plan or a volume stands on the image.
func (l *Library) goldenUnused(ctx context.Context, g domain.GoldenImage) error {
	plans, err := l.cat.DeploymentPlans.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range plans {
		if p.GoldenImageURI == g.URI {
			return domain.Errorf(domain.Conflict, "golden image "+g.Name, "is used by deployment plan %s", p.Name).Fix("Delete or change that deployment plan first.")
		}
	}
	return l.goldenWithoutVolumes(ctx, g)
}

func (l *Library) goldenWithoutVolumes(ctx context.Context, g domain.GoldenImage) error {
	volumes, err := l.cat.OSVolumes.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.GoldenVolumeURI == g.URI {
			return domain.Errorf(domain.Conflict, "golden image "+g.Name, "OS volume %s is a clone of it", v.Name).
				Fix("Delete the server profile and the OS volume first.")
		}
	}
	return nil
}

// OpenGoldenImage returns the image as a zip with one raw disk inside, the
// form that clients and bundles know.
func (l *Library) OpenGoldenImage(ctx context.Context, id string) (io.ReadCloser, string, error) {
	g, err := l.cat.GoldenImages.Get(ctx, id)
	if err != nil {
		return nil, "", err
	}
	f, img, err := l.openImage(g.CheckSum)
	if err != nil {
		return nil, "", err
	}
	name := g.Name + ".zip"
	if img.Format == artifact.Zip {
		return f, name, nil
	}
	pr, pw := io.Pipe()
	go func() {
		defer f.Close()
		pw.CloseWithError(img.WriteZip(ctx, pw, g.ID))
	}()
	return pr, name, nil
}

// openImage opens a stored object as an image; the caller closes the file.
func (l *Library) openImage(sum string) (*os.File, *artifact.Image, error) {
	f, err := l.store.Open(sum)
	if err != nil {
		return nil, nil, explain(err)
	}
	st, err := f.Stat()
	if err == nil {
		var img *artifact.Image
		if img, err = artifact.OpenImage(f, st.Size()); err == nil {
			return f, img, nil
		}
	}
	f.Close()
	return nil, nil, explain(err)
}

// inspectGolden refuses what cannot be expanded before the pool is touched.
func (l *Library) inspectGolden(ctx context.Context, r *task.Run) error {
	f, img, err := l.openImage(r.Data(keyObject))
	if err != nil {
		return err
	}
	defer f.Close()
	room, err := l.pool.Room(ctx)
	if err != nil {
		return err
	}
	r.Logf("format %s, disk of %d bytes; the pool has room for %d", img.Format, img.VirtualSize, room)
	if img.VirtualSize > room {
		return domain.Errorf(domain.TooLarge, "golden image "+r.Data(keyName), "its disk has %d bytes, the pool has room for %d", img.VirtualSize, room).
			Fix("Delete OS volumes or golden images that are not needed.", "Make the image's disk smaller.")
	}
	return nil
}

// expandGolden writes the image into the pool.
func (l *Library) expandGolden(ctx context.Context, r *task.Run) error {
	_, err := l.expand(ctx, r, r.Data(keyID), r.Data(keyObject))
	return err
}

func (l *Library) expand(ctx context.Context, r *task.Run, id, object string) (Expanded, error) {
	f, img, err := l.openImage(object)
	if err != nil {
		return Expanded{}, err
	}
	defer f.Close()
	c, err := l.pool.ImportGolden(ctx, id, img, func(done, total int64) { r.Progress(ctx, done, total) })
	if err != nil {
		return c, explain(err)
	}
	r.Logf("expanded: %d bytes, %d of them not zero, digest %s", c.Size, c.Data, c.Digest)
	if err := r.Set(ctx, "digest", c.Digest); err != nil {
		return c, err
	}
	return c, r.Set(ctx, "bytes", strconv.FormatInt(c.Size, 10))
}

func (l *Library) registerGolden(ctx context.Context, r *task.Run) error {
	bytes, err := strconv.ParseInt(r.Data("bytes"), 10, 64)
	if err != nil {
		return fmt.Errorf("size of the image: %w", err)
	}
	g := domain.GoldenImage{Resource: domain.Resource{Name: r.Data(keyName), Description: r.Data(keyDesc)}}
	if req := r.Data(keyReq); req != "" {
		if err := l.fromCapture(ctx, req, &g); err != nil {
			return err
		}
	}
	return l.saveGolden(ctx, r.Data(keyID), g, Expanded{Size: bytes, Digest: r.Data("digest")}, r.Data(keyObject))
}

// saveGolden writes the row of an image that is in the store and in the pool.
// Repeating it changes nothing.
func (l *Library) saveGolden(ctx context.Context, id string, g domain.GoldenImage, c Expanded, object string) error {
	g, err := l.goldenRow(id, g, c, object)
	if err != nil {
		return err
	}
	return l.showGolden(ctx, g)
}

// goldenRow completes the row of an image that is in the store and in the pool.
func (l *Library) goldenRow(id string, g domain.GoldenImage, c Expanded, object string) (domain.GoldenImage, error) {
	obj, err := l.store.Stat(object)
	if err != nil {
		return g, explain(err)
	}
	f, img, err := l.openImage(object)
	if err != nil {
		return g, err
	}
	f.Close()
	g.SetID(id)
	g.Status, g.State = domain.StatusOK, "Ready"
	g.Size, g.SizeBytes = (c.Size+1023)/1024, c.Size
	g.CheckSum, g.ContentDigest, g.ObjectBytes, g.Format = object, c.Digest, obj.Size, string(img.Format)
	g.Presence = []domain.Presence{{Appliance: l.appliance, Verified: stamp(), InPool: true}}
	if g.DependentArtifacts == nil {
		g.DependentArtifacts = []domain.Dependent{}
	}
	return g, nil
}

// showGolden writes the row of an image.
func (l *Library) showGolden(ctx context.Context, g domain.GoldenImage) error {
	_, err := l.cat.GoldenImages.Get(ctx, g.ID)
	switch {
	case err == nil:
		_, err = l.cat.GoldenImages.Replace(ctx, g, "*")
	case domain.KindOf(err) == domain.NotFound:
		_, err = l.cat.GoldenImages.Create(ctx, g)
	}
	return err
}

func (l *Library) undoGolden(ctx context.Context, r *task.Run, _ error) error {
	if _, err := l.cat.GoldenImages.Get(ctx, r.Data(keyID)); err == nil {
		if err := l.cat.GoldenImages.Delete(ctx, r.Data(keyID)); err != nil {
			return err
		}
	}
	if err := l.pool.DeleteGolden(ctx, r.Data(keyID)); err != nil {
		return err
	}
	return l.sweepStore(ctx, r.ID())
}

func (l *Library) updateGolden(ctx context.Context, r *task.Run) error {
	_, err := l.cat.GoldenImages.Update(ctx, r.Data(keyID), func(g *domain.GoldenImage) error {
		g.Name, g.Description = r.Data(keyName), r.Data(keyDesc)
		return nil
	})
	return err
}

func (l *Library) removeGolden(ctx context.Context, r *task.Run) error {
	g, err := l.cat.GoldenImages.Get(ctx, r.Data(keyID))
	if domain.KindOf(err) == domain.NotFound {
		return nil // an earlier try got here
	}
	if err != nil {
		return err
	}
	if err := l.goldenUnused(ctx, g); err != nil {
		return err
	}
	if err := l.pool.DeleteGolden(ctx, g.InPool()); err != nil {
		return err
	}
	if err := l.cat.GoldenImages.Delete(ctx, g.ID); err != nil {
		return err
	}
	return l.sweepStore(ctx, r.ID())
}
