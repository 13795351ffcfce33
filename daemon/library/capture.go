package library

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"baystream/daemon/artifact"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// captureVolume generalises a copy of the volume by the capture build plan and
// stores what it then holds, compressed.
func (l *Library) captureVolume(ctx context.Context, r *task.Run) error {
	if l.capture == nil {
		return domain.Errorf(domain.Unavailable, "golden image "+r.Data(keyName), "this appliance serves no OS volumes").Fix("Add a data disk.")
	}
	var req domain.CaptureRequest
	if err := json.Unmarshal([]byte(r.Data(keyReq)), &req); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	volume, err := domain.IDFromURI(domain.OSVolumes, req.OSVolumeURI)
	if err != nil {
		return err
	}
	var plan string
	if req.BuildPlanURI != "" {
		if plan, err = domain.IDFromURI(domain.BuildPlans, req.BuildPlanURI); err != nil {
			return err
		}
	}
	return l.capture.Capture(ctx, r, volume, plan, func(disk io.Reader, size int64) error {
		pr, pw := io.Pipe()
		go func() {
			_, err := artifact.CompressImage(ctx, pw, progressReader{disk, func(done int64) { r.Progress(ctx, done, size) }, new(int64)}, size)
			pw.CloseWithError(err)
		}()
		obj, done, err := l.put(ctx, pr)
		pr.CloseWithError(err)
		if err != nil {
			return err
		}
		defer done()
		return r.Set(ctx, keyObject, obj.SHA256)
	})
}

// fromCapture notes where a captured image came from.
func (l *Library) fromCapture(ctx context.Context, request string, g *domain.GoldenImage) error {
	var req domain.CaptureRequest
	if err := json.Unmarshal([]byte(request), &req); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	g.ImageCapture = true
	g.OSVolumeURI, g.OSVolumeCategory = req.OSVolumeURI, "os-volumes"
	if id, err := domain.IDFromURI(domain.OSVolumes, req.OSVolumeURI); err == nil {
		if v, err := l.cat.OSVolumes.Get(ctx, id); err == nil {
			g.OSVolumeName = v.Name
		}
	}
	if req.BuildPlanURI == "" {
		return nil
	}
	g.BuildPlanURI, g.BuildPlanCategory = req.BuildPlanURI, "build-plans"
	id, err := domain.IDFromURI(domain.BuildPlans, req.BuildPlanURI)
	if err != nil {
		return err
	}
	bp, err := l.cat.BuildPlans.Get(ctx, id)
	if err != nil {
		return err
	}
	g.BuildPlanName = bp.Name
	return nil
}

// progressReader tells how many bytes have been read.
type progressReader struct {
	io.Reader
	tell func(done int64)
	done *int64
}

func (p progressReader) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	*p.done += int64(n)
	p.tell(*p.done)
	return n, err
}
