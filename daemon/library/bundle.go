package library

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

func (l *Library) registerBundles() {
	l.tasks.Register(task.Kind{Name: "bundle.add", Undo: l.undoBundle, Steps: []task.Step{
		{Name: "Check artifact bundle", Do: l.checkBundle},
	}})
	l.tasks.Register(task.Kind{Name: "bundle.create", Undo: l.undoBundle, Steps: []task.Step{
		{Name: "Pack artifact bundle", Do: l.packBundle},
		{Name: "Check artifact bundle", Do: l.checkBundle},
	}})
	l.tasks.Register(task.Kind{Name: "bundle.extract", Undo: l.undoExtract, Steps: []task.Step{
		{Name: "Check for conflicts", Do: l.beginExtract},
		{Name: "Golden images", Do: l.extractGoldens},
		{Name: "Plan scripts and plans", Do: l.extractPlans},
	}})
	l.tasks.Register(task.Kind{Name: "bundle.rename", Steps: []task.Step{{Name: "Update artifact bundle", Do: l.renameBundle}}})
	l.tasks.Register(task.Kind{Name: "bundle.delete", Steps: []task.Step{{Name: "Delete artifact bundle", Do: l.removeBundle}}})
}

func bundleRef(id, name string) domain.AssociatedResource {
	return domain.AssociatedResource{ResourceCategory: "artifact-bundles", ResourceName: name, ResourceURI: domain.ArtifactBundles + "/" + id}
}

// UploadBundle takes a bundle in: the bytes at once, the checks as a task. The
// bundle is named after its file.
func (l *Library) UploadBundle(ctx context.Context, owner, filename string, r io.Reader) (domain.Task, error) {
	name := baseName(filename)
	if err := domain.CheckName("artifact bundle", name); err != nil {
		return domain.Task{}, err
	}
	if err := freeName(ctx, l.cat.ArtifactBundles.ByName, "artifact bundle", name); err != nil {
		return domain.Task{}, err
	}
	obj, done, err := l.put(ctx, r)
	if err != nil {
		return domain.Task{}, err
	}
	defer done()
	id := domain.NewID()
	return l.tasks.Submit(ctx, task.Request{Kind: "bundle.add", Name: "Add artifact bundle", Owner: owner, Associated: bundleRef(id, name), Lock: "bundle " + name,
		Data: map[string]string{keyID: id, keyName: name, keyFile: path.Base(filename), keyObject: obj.SHA256}})
}

// openBundle reads a stored bundle whole (but for its images) and checks it.
func (l *Library) openBundle(ctx context.Context, sum, name string) (*os.File, *artifact.Bundle, error) {
	f, err := l.store.Open(sum)
	if err != nil {
		return nil, nil, explain(err)
	}
	st, err := f.Stat()
	if err == nil {
		var b *artifact.Bundle
		if b, err = (artifact.BundleReader{File: name}).Read(ctx, f, st.Size()); err == nil {
			return f, b, nil
		}
	}
	f.Close()
	return nil, nil, explain(err)
}

func (l *Library) checkBundle(ctx context.Context, r *task.Run) error {
	f, b, err := l.openBundle(ctx, r.Data(keyObject), r.Data(keyName))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	row := domain.ArtifactBundle{
		Resource:     domain.Resource{Name: r.Data(keyName), Description: r.Data(keyDesc), Status: domain.StatusOK, State: "Ready"},
		ImportBundle: r.Data(keyFile) != "", BackupService: r.Data(keyBackup) == "true", Checksum: r.Data(keyObject), CheckSum: r.Data(keyObject), Size: st.Size(),
	}
	row.SetID(r.Data(keyID))
	members(b, &row)
	for _, e := range b.Ignored {
		r.Logf("entry %s means nothing to this version and stays as it is", e)
	}
	_, err = l.cat.ArtifactBundles.Create(ctx, row)
	if domain.KindOf(err) == domain.Conflict {
		if old, e := l.cat.ArtifactBundles.Get(ctx, row.ArtifactsBundleID); e == nil && old.Name == row.Name {
			return nil // an earlier try wrote it
		}
	}
	return err
}

func (l *Library) undoBundle(ctx context.Context, r *task.Run, _ error) error {
	if _, err := l.cat.ArtifactBundles.Get(ctx, r.Data(keyID)); err == nil {
		if err := l.cat.ArtifactBundles.Delete(ctx, r.Data(keyID)); err != nil {
			return err
		}
	}
	return l.sweepStore(ctx, r.ID())
}

// OpenBundle returns the bundle's zip.
func (l *Library) OpenBundle(ctx context.Context, id string) (io.ReadSeekCloser, string, error) {
	b, err := l.cat.ArtifactBundles.Get(ctx, id)
	if err != nil {
		return nil, "", err
	}
	f, err := l.store.Open(b.Checksum)
	return f, b.Name + ".zip", explain(err)
}

// RenameBundle changes name and description; a read-only bundle refuses.
func (l *Library) RenameBundle(ctx context.Context, owner, id, name, description string) (domain.Task, error) {
	b, err := l.cat.ArtifactBundles.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	if b.ReadOnly {
		return domain.Task{}, domain.Errorf(domain.Forbidden, "artifact bundle "+b.Name, "is read-only: the artifact bundle is not allowed to be modified").
			Fix("Upload it under another file name.")
	}
	if err := domain.CheckName("artifact bundle", name); err != nil {
		return domain.Task{}, err
	}
	if !strings.EqualFold(name, b.Name) {
		if err := freeName(ctx, l.cat.ArtifactBundles.ByName, "artifact bundle", name); err != nil {
			return domain.Task{}, err
		}
	}
	return l.tasks.Submit(ctx, task.Request{Kind: "bundle.rename", Name: "Update artifact bundle", Owner: owner, Associated: bundleRef(id, name),
		Data: map[string]string{keyID: id, keyName: name, keyDesc: description}})
}

func (l *Library) renameBundle(ctx context.Context, r *task.Run) error {
	_, err := l.cat.ArtifactBundles.Update(ctx, r.Data(keyID), func(b *domain.ArtifactBundle) error {
		b.Name = r.Data(keyName)
		if d := r.Data(keyDesc); d != "" {
			b.Description = d
		}
		return nil
	})
	return err
}

// DeleteBundle removes a bundle; what was extracted from it stays.
func (l *Library) DeleteBundle(ctx context.Context, owner, id string) (domain.Task, error) {
	b, err := l.cat.ArtifactBundles.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	return l.tasks.Submit(ctx, task.Request{Kind: "bundle.delete", Name: task.Delete, Owner: owner, Associated: bundleRef(id, b.Name),
		Lock: "bundle " + b.Name, Data: map[string]string{keyID: id}})
}

func (l *Library) removeBundle(ctx context.Context, r *task.Run) error {
	b, err := l.cat.ArtifactBundles.Get(ctx, r.Data(keyID))
	if domain.KindOf(err) == domain.NotFound {
		return nil // an earlier try got here
	}
	if err != nil {
		return err
	}
	if err := l.cat.ArtifactBundles.Delete(ctx, b.ArtifactsBundleID); err != nil {
		return err
	}
	return l.sweepStore(ctx, r.ID())
}

// ExtractBundle makes the artifacts of a bundle usable; with force they
// replace those of the same names.
func (l *Library) ExtractBundle(ctx context.Context, owner, id string, force bool) (domain.Task, error) {
	b, err := l.cat.ArtifactBundles.Get(ctx, id)
	if err != nil {
		return domain.Task{}, err
	}
	return l.tasks.Submit(ctx, task.Request{Kind: "bundle.extract", Name: "Extract artifact bundle", Owner: owner, Associated: bundleRef(id, b.Name),
		Lock: "extract", Data: map[string]string{keyID: id, keyForce: fmt.Sprint(force)}})
}

// planned is what a running extraction has decided; it is stored by the task's
// id, so that a resumed step uses the same ids.
type planned struct {
	Scripts []domain.PlanScript     `json:"scripts"`
	Builds  []domain.BuildPlan      `json:"builds"`
	Plans   []domain.DeploymentPlan `json:"plans"`
	Goldens []domain.GoldenImage    `json:"goldens"` // in the order of the bundle
	New     []string                `json:"new"`     // ids of golden images that did not exist before
	Swaps   map[string]swap         `json:"swaps"`   // of the others, by id
}

// A swap is the exchange of a golden image's contents. The new ones are in the
// pool beside the old, until the image's row, in one write, names them instead.
type swap struct {
	Old string `json:"old"` // names in the pool
	New string `json:"new"`
}

// begun says whether the row already names the new contents.
func (s swap) begun(row domain.GoldenImage) bool { return row.InPool() == s.New }

// beginExtract decides what the extraction writes, and refuses conflicts.
func (l *Library) beginExtract(ctx context.Context, r *task.Run) error {
	row, err := l.cat.ArtifactBundles.Get(ctx, r.Data(keyID))
	if err != nil {
		return err
	}
	f, b, err := l.openBundle(ctx, row.Checksum, row.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := l.present(ctx)
	if err != nil {
		return err
	}
	x, err := planExtraction(b, row, have, r.Data(keyForce) == "true", l.attrs)
	if err != nil {
		return err
	}
	p := planned{Scripts: x.scripts, Builds: x.builds, Plans: x.plans, Swaps: map[string]swap{}}
	for _, g := range x.goldens {
		p.Goldens = append(p.Goldens, g.row)
		old, err := l.cat.GoldenImages.Get(ctx, g.row.ID)
		if domain.KindOf(err) == domain.NotFound {
			p.New = append(p.New, g.row.ID)
			continue
		}
		if err != nil {
			return err
		}
		if err := l.mayReplace(ctx, old, g.from); err != nil {
			return err
		}
		p.Swaps[old.ID] = swap{Old: old.InPool(), New: domain.NewID()}
	}
	r.Logf("%d plan scripts, %d build plans, %d deployment plans, %d golden images", len(x.scripts), len(x.builds), len(x.plans), len(x.goldens))
	return l.plans.Put(ctx, r.ID(), p)
}

func (l *Library) present(ctx context.Context) (p present, err error) {
	if p.scripts, err = l.cat.PlanScripts.List(ctx); err != nil {
		return p, err
	}
	if p.builds, err = l.cat.BuildPlans.List(ctx); err != nil {
		return p, err
	}
	if p.plans, err = l.cat.DeploymentPlans.List(ctx); err != nil {
		return p, err
	}
	if p.goldens, err = l.cat.GoldenImages.List(ctx); err != nil {
		return p, err
	}
	p.profiles, err = l.cat.ServerProfiles.List(ctx)
	return p, err
}

// plan is what beginExtract decided; ok is false if it did not get that far.
func (l *Library) plan(ctx context.Context, r *task.Run) (p planned, ok bool, err error) {
	return l.plans.Get(ctx, r.ID())
}

// extractGoldens brings each image of the bundle into the store and the pool.
func (l *Library) extractGoldens(ctx context.Context, r *task.Run) error {
	p, _, err := l.plan(ctx, r)
	if err != nil || len(p.Goldens) == 0 {
		return err
	}
	row, err := l.cat.ArtifactBundles.Get(ctx, r.Data(keyID))
	if err != nil {
		return err
	}
	f, b, err := l.openBundle(ctx, row.Checksum, row.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(b.GoldenImages) != len(p.Goldens) {
		return fmt.Errorf("artifact bundle %s: %d golden images, %d were planned", row.Name, len(b.GoldenImages), len(p.Goldens))
	}
	var fresh []domain.GoldenImage // rows to write
	for i, g := range p.Goldens {
		row, done, err := l.unpackGolden(ctx, r, b.GoldenImages[i], g, p.Swaps[g.ID].New)
		if err != nil {
			return fmt.Errorf("golden image %s: %w", g.Name, err)
		}
		defer done()
		if row.CheckSum != "" {
			fresh = append(fresh, row)
		}
	}
	// All are whole and in the pool: from here on the new ones count.
	for _, g := range fresh {
		if err := l.showGolden(ctx, g); err != nil {
			return fmt.Errorf("golden image %s: %w", g.Name, err)
		}
	}
	return l.endSwaps(ctx, p)
}

// unpackGolden brings an image of the bundle into the store and the pool, under
// its id or, if that is in use, the other name. It returns the row that shows
// it, empty if the same bytes are there already; the caller calls done when
// that is written.
func (l *Library) unpackGolden(ctx context.Context, r *task.Run, from artifact.GoldenImage, row domain.GoldenImage, other string) (_ domain.GoldenImage, done func(), err error) {
	rc, err := from.Open()
	if err != nil {
		return row, nil, explain(err)
	}
	defer rc.Close()
	obj, done, err := l.put(ctx, rc)
	if err != nil {
		return row, nil, err
	}
	unpin := done
	defer func() {
		if err != nil {
			unpin()
		}
	}()
	old, err := l.cat.GoldenImages.Get(ctx, row.ID)
	switch {
	case err == nil && old.CheckSum == obj.SHA256:
		r.Logf("golden image %s: the same bytes are there already", row.Name)
		return domain.GoldenImage{}, done, nil
	case err != nil && domain.KindOf(err) != domain.NotFound:
		return row, nil, err
	case err == nil:
		// Somebody may have made a volume since the extraction began.
		if err := l.goldenWithoutVolumes(ctx, old); err != nil {
			return row, nil, err
		}
	}
	row.PoolID = other
	c, err := l.expand(ctx, r, row.InPool(), obj.SHA256)
	if err != nil {
		return row, nil, err
	}
	row, err = l.goldenRow(row.ID, row, c, obj.SHA256)
	return row, done, err
}

// endSwaps removes the contents of images that their rows no longer name: the
// old ones of swaps that were made, the new ones of those that were not.
func (l *Library) endSwaps(ctx context.Context, p planned) error {
	for id, s := range p.Swaps {
		row, err := l.cat.GoldenImages.Get(ctx, id)
		if err != nil && domain.KindOf(err) != domain.NotFound {
			return err
		}
		unnamed := s.New
		if s.begun(row) {
			unnamed = s.Old
		}
		switch err := l.pool.DeleteGolden(ctx, unnamed); {
		case domain.KindOf(err) == domain.Conflict: // cloned in the moment before the swap
			l.log.Warn("replaced contents of a golden image stay in the pool", "golden", id, "err", err)
		case err != nil:
			return err
		}
	}
	return nil
}

// extractPlans writes scripts and plans. Each row is created or replaced under
// the id that was decided before, so repeating it changes nothing.
func (l *Library) extractPlans(ctx context.Context, r *task.Run) error {
	p, ok, err := l.plan(ctx, r)
	if err != nil || !ok {
		return err
	}
	for _, s := range p.Scripts {
		if err := upsert(ctx, l.cat.PlanScripts, s.ID, s); err != nil {
			return err
		}
	}
	for _, b := range p.Builds {
		if err := upsert(ctx, l.cat.BuildPlans, b.BuildPlanID, b); err != nil {
			return err
		}
	}
	for _, d := range p.Plans {
		if err := upsert(ctx, l.cat.DeploymentPlans, d.ID, d); err != nil {
			return err
		}
	}
	if err := l.sweepStore(ctx, r.ID()); err != nil { // of images that were replaced
		return err
	}
	return l.plans.Delete(ctx, r.ID())
}

// table is the part of a cluster.Table that upsert needs.
type table[T any] interface {
	Create(context.Context, T) (T, error)
	Update(context.Context, string, func(*T) error) (T, error)
}

func upsert[T any](ctx context.Context, t table[T], id string, v T) error {
	_, err := t.Update(ctx, id, func(old *T) error { *old = v; return nil })
	if domain.KindOf(err) == domain.NotFound {
		_, err = t.Create(ctx, v)
	}
	return err
}

// undoExtract removes the images that a failed extraction brought, and leaves
// those that were there; scripts and plans are written last and all
// replaceable, so there is nothing else.
func (l *Library) undoExtract(ctx context.Context, r *task.Run, _ error) error {
	p, _, err := l.plan(ctx, r)
	if err != nil {
		return err
	}
	for _, id := range p.New {
		if err := l.cat.GoldenImages.Delete(ctx, id); err != nil && domain.KindOf(err) != domain.NotFound {
			return err
		}
		if err := l.pool.DeleteGolden(ctx, id); err != nil {
			return err
		}
	}
	if err := l.endSwaps(ctx, p); err != nil {
		return err
	}
	if err := l.sweepStore(ctx, r.ID()); err != nil {
		return err
	}
	return l.plans.Delete(ctx, r.ID())
}

// CreateBundle packs artifacts of the domain into a new bundle.
func (l *Library) CreateBundle(ctx context.Context, owner string, req domain.CreateBundleRequest) (domain.Task, error) {
	if err := domain.CheckName("artifact bundle", req.Name); err != nil {
		return domain.Task{}, err
	}
	if err := freeName(ctx, l.cat.ArtifactBundles.ByName, "artifact bundle", req.Name); err != nil {
		return domain.Task{}, err
	}
	if _, err := l.collect(ctx, req); err != nil { // unknown uris are refused at once
		return domain.Task{}, err
	}
	id := domain.NewID()
	return l.tasks.Submit(ctx, task.Request{Kind: "bundle.create", Name: "Create artifact bundle", Owner: owner, Associated: bundleRef(id, req.Name), Lock: "bundle " + req.Name,
		Data: map[string]string{keyID: id, keyName: req.Name, keyDesc: req.Description, keyReq: encode(req)}})
}

func (l *Library) packBundle(ctx context.Context, r *task.Run) error {
	var req domain.CreateBundleRequest
	if err := json.Unmarshal([]byte(r.Data(keyReq)), &req); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return l.pack(ctx, r, req)
}

// pack writes a bundle into the store and notes where it is.
func (l *Library) pack(ctx context.Context, r *task.Run, req domain.CreateBundleRequest) error {
	b, err := l.collect(ctx, req)
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(artifact.WriteBundle(ctx, pw, b)) }()
	obj, done, err := l.put(ctx, pr)
	pr.CloseWithError(err)
	if err != nil {
		return err
	}
	defer done()
	return r.Set(ctx, keyObject, obj.SHA256)
}

// collect gathers the named artifacts and what they need.
func (l *Library) collect(ctx context.Context, req domain.CreateBundleRequest) (*artifact.Bundle, error) {
	b := &artifact.Bundle{Name: req.Name, Description: req.Description, Created: time.Now()}
	c := collector{l: l, b: b, seen: map[string]bool{}}
	for _, ref := range req.DeploymentPlans {
		if err := c.plan(ctx, ref); err != nil {
			return nil, err
		}
	}
	for _, ref := range req.BuildPlans {
		if err := c.build(ctx, ref); err != nil {
			return nil, err
		}
	}
	for _, ref := range req.PlanScripts {
		if err := c.script(ctx, ref); err != nil {
			return nil, err
		}
	}
	for _, ref := range req.GoldenImages {
		if err := c.golden(ctx, ref); err != nil {
			return nil, err
		}
	}
	if len(c.seen) == 0 {
		return nil, domain.Errorf(domain.Invalid, "artifact bundle "+req.Name, "names no artifact").Fix("Give planScripts, buildPlans, deploymentPlans or goldenImages.")
	}
	return b, nil
}

type collector struct {
	l    *Library
	b    *artifact.Bundle
	seen map[string]bool
}

// once says whether uri is new to the bundle.
func (c *collector) once(uri string) bool {
	fresh := !c.seen[uri]
	c.seen[uri] = true
	return fresh
}

func (c *collector) script(ctx context.Context, ref domain.BundleRef) error {
	id, err := domain.IDFromURI(domain.PlanScripts, ref.ResourceURI)
	if err != nil || !c.once(ref.ResourceURI) {
		return err
	}
	s, err := c.l.cat.PlanScripts.Get(ctx, id)
	if err != nil {
		return err
	}
	c.b.PlanScripts = append(c.b.PlanScripts, artifact.PlanScript{ID: s.ID, Name: s.Name, Description: s.Description, PlanType: s.PlanType,
		HPProvided: s.HPProvided || ref.ReadOnly, Content: s.Content})
	return nil
}

func (c *collector) build(ctx context.Context, ref domain.BundleRef) error {
	id, err := domain.IDFromURI(domain.BuildPlans, ref.ResourceURI)
	if err != nil || !c.once(ref.ResourceURI) {
		return err
	}
	p, err := c.l.cat.BuildPlans.Get(ctx, id)
	if err != nil {
		return err
	}
	out := artifact.BuildPlan{ID: p.BuildPlanID, Name: p.Name, Description: p.Description, Type: p.OEBuildPlanType, HPProvided: p.HPProvided || ref.ReadOnly}
	for _, s := range p.BuildStep {
		if err := c.script(ctx, domain.BundleRef{ResourceURI: s.PlanScriptURI, ReadOnly: ref.ReadOnly}); err != nil {
			return err
		}
		out.Steps = append(out.Steps, artifact.BuildStep{SerialNumber: s.SerialNumber, PlanScriptName: s.PlanScriptName, PlanScriptURI: s.PlanScriptURI})
	}
	out.CustomAttributes = exported(p.CustomAttributes)
	c.b.BuildPlans = append(c.b.BuildPlans, out)
	return nil
}

func (c *collector) plan(ctx context.Context, ref domain.BundleRef) error {
	id, err := domain.IDFromURI(domain.DeploymentPlans, ref.ResourceURI)
	if err != nil || !c.once(ref.ResourceURI) {
		return err
	}
	p, err := c.l.cat.DeploymentPlans.Get(ctx, id)
	if err != nil {
		return err
	}
	out := artifact.DeploymentPlan{ID: p.ID, Name: p.Name, Description: p.Description, HPProvided: p.HPProvided || ref.ReadOnly, CustomAttributes: exported(p.CustomAttributes)}
	if p.OEBuildPlanURI != "" {
		if err := c.build(ctx, domain.BundleRef{ResourceURI: p.OEBuildPlanURI, ReadOnly: ref.ReadOnly}); err != nil {
			return err
		}
		id, err := domain.IDFromURI(domain.BuildPlans, p.OEBuildPlanURI)
		if err != nil {
			return err
		}
		bp, err := c.l.cat.BuildPlans.Get(ctx, id)
		if err != nil {
			return err
		}
		out.BuildPlan = bp.Name
	}
	if p.GoldenImageURI != "" {
		if err := c.golden(ctx, domain.BundleRef{ResourceURI: p.GoldenImageURI, ReadOnly: ref.ReadOnly}); err != nil {
			return err
		}
		id, err := domain.IDFromURI(domain.GoldenImages, p.GoldenImageURI)
		if err != nil {
			return err
		}
		g, err := c.l.cat.GoldenImages.Get(ctx, id)
		if err != nil {
			return err
		}
		out.GoldenImage = g.Name
	}
	c.b.DeploymentPlans = append(c.b.DeploymentPlans, out)
	return nil
}

func (c *collector) golden(ctx context.Context, ref domain.BundleRef) error {
	id, err := domain.IDFromURI(domain.GoldenImages, ref.ResourceURI)
	if err != nil || !c.once(ref.ResourceURI) {
		return err
	}
	g, err := c.l.cat.GoldenImages.Get(ctx, id)
	if err != nil {
		return err
	}
	c.b.GoldenImages = append(c.b.GoldenImages, artifact.GoldenImage{ID: g.ID, Name: g.Name, Description: g.Description, BundleName: c.b.Name,
		ReadOnly: g.ReadOnly || ref.ReadOnly, PayloadSize: g.ObjectBytes,
		Open: func() (io.ReadCloser, error) { return c.l.store.Open(g.CheckSum) }})
	return nil
}

// exported are attributes as they leave the appliance: no password does.
func exported(in []domain.Attribute) []artifact.CustomAttribute {
	var out []artifact.CustomAttribute
	for _, a := range in {
		e := artifact.CustomAttribute{ID: a.ID, Name: a.Name, Description: a.Description, Type: a.Type, Value: a.Value, Constraints: a.Constraints,
			Editable: a.Editable == nil || *a.Editable, Visible: a.Visible == nil || *a.Visible}
		if strings.EqualFold(a.Type, "password") {
			e.Value = ""
		}
		out = append(out, e)
	}
	return out
}
