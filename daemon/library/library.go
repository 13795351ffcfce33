// Package library keeps the artifacts of a domain: bundles, golden images and
// the plans and scripts that bundles bring.
//
// Short changes of plans and scripts are plain table writes and live in rest.
// Here is the long work: taking a bundle or an image in, checking it,
// expanding images into the pool, making bundles, removing them. Each is a
// kind of task, so it survives a restart; what a failed one began is removed.
//
// Bytes lie in the content-addressed store (artifact.Store); the tables say
// which object belongs to whom. An object that no table names any more is
// deleted. A bundle's golden image becomes an object of its own, so bundle and
// image live and die apart.
package library

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/cluster"
	"baystream/daemon/domain"
	"baystream/daemon/task"
)

// Pool is where golden images are expanded, and volumes captured from.
type Pool interface {
	// ImportGolden writes the image into the pool under the id, or fails and
	// leaves nothing. Repeating it for an id that is there whole does nothing.
	ImportGolden(ctx context.Context, id string, img *artifact.Image, progress func(done, total int64)) (Expanded, error)
	// DeleteGolden removes it; one that is not there is no error.
	DeleteGolden(ctx context.Context, id string) error
	// Room is how many bytes a new image may have.
	Room(ctx context.Context) (int64, error)
}

// Expanded is what an image came to in the pool.
type Expanded struct {
	Size   int64  // bytes of the disk
	Data   int64  // bytes in blocks that are not zero
	Digest string // of the contents (storage.Digest)
}

// Capturer reads the contents of an OS volume that no server uses, after the
// capture build plan has generalised a copy of it.
type Capturer interface {
	Capture(ctx context.Context, r *task.Run, volumeID, buildPlanID string, use func(disk io.Reader, size int64) error) error
}

// Library does the long work on artifacts.
type Library struct {
	cat       *cluster.Store
	store     *artifact.Store
	pool      Pool
	capture   Capturer
	tasks     *task.Engine
	attrs     func(script string) string // custom attributes of a plan script, as JSON
	appliance string                     // name of this appliance, for presence
	log       *slog.Logger
	plans     *cluster.KV[planned] // of running extractions, by task

	pins  pins
	sweep sync.Mutex // held by sweepStore
}

// Config is what a Library works with.
type Config struct {
	State      *cluster.Store
	Store      *artifact.Store
	Pool       Pool
	Capture    Capturer
	Tasks      *task.Engine
	Attributes func(script string) string
	Appliance  string
	Log        *slog.Logger
}

// New makes a Library and registers its kinds of tasks.
func New(c Config) *Library {
	l := &Library{cat: c.State, store: c.Store, pool: c.Pool, capture: c.Capture, tasks: c.Tasks, attrs: c.Attributes, appliance: c.Appliance, log: c.Log,
		plans: cluster.NewKV[planned](c.State.Client, "library/extract")}
	l.registerBundles()
	l.registerGoldens()
	l.registerBackups()
	return l
}

// The data that steps hand on.
const (
	keyID     = "id"
	keyName   = "name"
	keyDesc   = "description"
	keyFile   = "file"   // name of the uploaded file
	keyObject = "object" // SHA-256 in the store
	keySize   = "size"
	keyForce  = "force"
	keyReq    = "request" // JSON
	keyBackup = "backup"  // the bundle is one
)

// put takes an upload into the store. The caller calls done when a row or task
// names the object, or will not; until then it stays.
func (l *Library) put(ctx context.Context, r io.Reader) (obj artifact.Object, done func(), err error) {
	var pinned string
	obj, err = l.store.Put(ctx, r, artifact.PutLimits{Name: func(sum string) {
		l.pins.pin(sum)
		pinned = sum
	}})
	done = func() {
		if pinned != "" {
			l.pins.unpin(pinned)
		}
	}
	if err != nil {
		done()
		return artifact.Object{}, nil, explain(err)
	}
	return obj, done, nil
}

// sweepStore deletes the objects that nothing names: no bundle, no golden
// image, and no unfinished task but the given one, which is about to end.
func (l *Library) sweepStore(ctx context.Context, except string) error {
	l.sweep.Lock()
	defer l.sweep.Unlock()
	defer l.pins.begin()()
	named, err := l.namedObjects(ctx, except)
	if err != nil {
		return err
	}
	objects, err := l.store.List()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if named[o.SHA256] {
			continue
		}
		err := l.pins.unlessPinned(o.SHA256, func() error { return l.store.Delete(o.SHA256) })
		if err != nil && !errors.Is(err, artifact.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (l *Library) namedObjects(ctx context.Context, except string) (map[string]bool, error) {
	named := map[string]bool{}
	bundles, err := l.cat.ArtifactBundles.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range bundles {
		named[b.Checksum] = true
	}
	goldens, err := l.cat.GoldenImages.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range goldens {
		named[g.CheckSum] = true
	}
	tasks, err := l.cat.Tasks.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		if !t.Ended() && t.ID != except {
			named[t.Data[keyObject]] = true
		}
	}
	return named, nil
}

// explain gives an artifact's error the kind that REST needs.
func explain(err error) error {
	var e *artifact.Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	kind := domain.Invalid
	switch {
	case errors.Is(err, artifact.ErrTooLarge):
		kind = domain.TooLarge
	case errors.Is(err, artifact.ErrNoSpace):
		kind = domain.Full
	case errors.Is(err, artifact.ErrNotFound):
		kind = domain.NotFound
	}
	object := e.Object
	if e.Entry != "" {
		object += ": " + e.Entry
	}
	d := &domain.Error{Kind: kind, Object: object, Message: e.Reason}
	var path *fs.PathError // says where the store keeps things, which is nobody's business
	if !errors.As(e.Err, &path) {
		d.Err = e.Err
	}
	if e.Remedy != "" {
		d.Remedy = []string{strings.ToUpper(e.Remedy[:1]) + e.Remedy[1:] + "."}
	}
	return d
}

// baseName is an uploaded file's name without directories and ending.
func baseName(file string) string {
	base := path.Base(strings.ReplaceAll(file, `\`, "/"))
	for _, ending := range []string{".zip", ".raw", ".img", ".gz", ".zst", ".qcow2"} {
		base = strings.TrimSuffix(base, ending)
	}
	if base == "." || base == "/" || base == "" {
		return "unnamed"
	}
	return base
}

// freeName checks that no row of the table has the name yet.
func freeName[T any](ctx context.Context, find func(context.Context, string) (T, error), kind, name string) error {
	_, err := find(ctx, name)
	switch {
	case domain.KindOf(err) == domain.NotFound:
		return nil
	case err != nil:
		return err
	}
	return domain.Errorf(domain.Conflict, kind+" "+name, "there is one of this name already").
		Fix("Choose another name, or delete the existing one first.")
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("library: %T does not marshal: %v", v, err)) // plain structs only
	}
	return string(b)
}

func stamp() string { return domain.Stamp(time.Now()) }
