package artifact

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteBundle writes b as a zip that ReadBundle, and the appliances that this
// format comes from, can read. Golden images are streamed from their Open.
// Passwords among default values go out in clear, as the format has no other
// way: the caller blanks what must not leave.
func WriteBundle(ctx context.Context, w io.Writer, b *Bundle) error {
	out := &bundleWrite{ctx: ctx, zip: zip.NewWriter(w), bundle: b, seen: map[string]bool{}}
	out.descriptions()
	out.images()
	head := *b
	head.Created = bundleTime(b.Created)
	out.entry(manifestName, strings.NewReader(string(formatManifest(head))))
	sums := strings.Join(out.sums, "")
	out.entry(sha256Name, strings.NewReader(sums))
	if out.err != nil {
		return out.err
	}
	return out.zip.Close()
}

// bundleWrite writes entries until the first error, which it keeps.
type bundleWrite struct {
	ctx    context.Context
	zip    *zip.Writer
	bundle *Bundle
	seen   map[string]bool
	sums   []string
	err    error
}

// common are members that every description has, empty in a bundle.
var common = map[string]any{"uri": nil, "category": nil, "eTag": nil, "status": nil, "created": nil, "modified": nil, "dependentArtifacts": nil}

func (o *bundleWrite) descriptions() {
	for _, v := range o.bundle.PlanScripts {
		o.describe(v.ID, "planscript", v, map[string]any{"type": "PlanScript", "state": nil, "customAttributes": nil})
	}
	for _, v := range o.bundle.BuildPlans {
		o.describe(v.ID, "buildplan", v, map[string]any{"type": "OeBuildPlan"})
	}
	for _, v := range o.bundle.DeploymentPlans {
		extra := map[string]any{"type": "OEDeploymentPlan", "importMetadata": false, "state": nil}
		if v.GoldenImage == "" {
			extra["goldenImageURI"] = nil
		}
		o.describe(v.ID, "deploymentplan", v, extra)
	}
}

func (o *bundleWrite) images() {
	for _, v := range o.bundle.GoldenImages {
		o.describe(v.ID, "goldenimage", v, map[string]any{"type": "GoldenImage", "importedFromBundle": true, "imageCapture": false, "size": 0,
			"checkSum": nil, "state": nil, "bundleName": o.bundle.Name})
		if o.err != nil {
			return
		}
		rc, err := v.Open()
		if err != nil {
			o.err = fmt.Errorf("bundle %s: golden image %s: %w", o.bundle.Name, v.Name, err)
			return
		}
		o.entry(v.Name, rc)
		if err := rc.Close(); o.err == nil {
			o.err = err
		}
	}
}

func (o *bundleWrite) describe(id, kind string, v any, extra map[string]any) {
	if o.err != nil {
		return
	}
	members := map[string]any{}
	own, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(own, &members)
	}
	for k, v := range common {
		members[k] = v
	}
	for k, v := range extra {
		members[k] = v
	}
	data, err2 := json.Marshal(members)
	if err != nil || err2 != nil {
		o.err = fmt.Errorf("bundle %s: %s %s: %w", o.bundle.Name, kind, id, firstErr(err, err2))
		return
	}
	o.entry(id+"_"+kind+".json", strings.NewReader(string(data)))
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// entry streams r into the zip and notes its sum.
func (o *bundleWrite) entry(name string, r io.Reader) {
	if o.err != nil {
		return
	}
	if reason := unsafeEntry(&zip.File{FileHeader: zip.FileHeader{Name: name}}); reason != "" {
		o.err = &Error{Kind: ErrUnsafe, Object: "bundle " + o.bundle.Name, Entry: name, Reason: reason, Remedy: "rename the artifact"}
		return
	}
	if o.seen[name] {
		o.err = &Error{Kind: ErrDuplicate, Object: "bundle " + o.bundle.Name, Entry: name, Reason: "two entries of this name", Remedy: "rename one of the artifacts"}
		return
	}
	o.seen[name] = true
	h := sha256.New()
	w, err := o.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: bundleTime(o.bundle.Created)})
	if err == nil {
		_, err = io.CopyBuffer(io.MultiWriter(w, h), &limitedReader{ctx: o.ctx, r: r, left: 1 << 62}, make([]byte, copyBuffer))
	}
	if err != nil {
		o.err = fmt.Errorf("bundle %s: %s: %w", o.bundle.Name, name, err)
		return
	}
	o.sums = append(o.sums, fmt.Sprintf("%s\t%x\n", name, h.Sum(nil)))
}
