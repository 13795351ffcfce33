package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"baystream/daemon/artifact"
	"baystream/daemon/cluster"
	"baystream/daemon/deploy"
	"baystream/daemon/domain"
	"baystream/daemon/library"
	"baystream/daemon/storage"
	"baystream/daemon/target"
)

// portalPort is iSCSI's (RFC 7143 section 13).
const portalPort = 3260

// storageRole is the storage of this appliance behind the interfaces of the
// library and of deploy. Until the storage is up its methods say Unavailable.
type storageRole struct {
	d       *Daemon
	settled chan struct{} // closed when the first attempt to come up has ended

	mu sync.RWMutex
	st *storage.Storage
}

func newStorageRole(d *Daemon) *storageRole {
	return &storageRole{d: d, settled: make(chan struct{})}
}

// run brings storage up, tries again while it fails, and then reconciles now
// and then. When it ends, volumes serve on.
func (r *storageRole) run(ctx context.Context) error {
	if r.d.disk.Data == "" {
		if r.d.onModule() {
			r.d.board.set("storage", domain.StatusCritical, "no data disk: no OS volumes", "See the part data disk.")
		} else {
			r.d.board.set("storage", domain.StatusWarning, "not an appliance module: management only", "")
		}
		close(r.settled)
		return nil
	}
	var once sync.Once
	wait := time.Second
	for {
		err := r.open(ctx)
		once.Do(func() { close(r.settled) })
		if err == nil || ctx.Err() != nil {
			break
		}
		r.d.log.Error("storage", "err", err)
		r.d.board.set("storage", domain.StatusCritical, err.Error(), "The appliance tries again by itself; see bayctl logs.")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, time.Minute)
		}
	}
	return r.keep(ctx)
}

func (r *storageRole) open(ctx context.Context) error {
	if err := loadModules(storageModules); err != nil {
		return err
	}
	st, err := storage.Open(ctx, storage.Config{
		MetaDev: r.d.disk.Meta, DataDev: r.d.disk.Data, Records: newRecords(r.d.state), Log: r.d.log.With("part", "storage"),
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.st = st
	r.d.board.set("storage", domain.StatusOK, "pool and volumes are up", "")
	return nil
}

// keep looks after the storage until ctx ends.
func (r *storageRole) keep(ctx context.Context) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.mu.RLock()
			defer r.mu.RUnlock()
			if r.st == nil {
				return nil
			}
			return r.st.Close()
		case <-tick.C:
			r.look(ctx)
		}
	}
}

func (r *storageRole) look(ctx context.Context) {
	st, err := r.up()
	if err != nil {
		return
	}
	err = st.Reconcile(ctx)
	status, serr := st.Status(ctx)
	switch err = errors.Join(err, serr); {
	case ctx.Err() != nil:
	case err != nil:
		r.d.log.Warn("storage", "err", err)
		r.d.board.set("storage", domain.StatusCritical, err.Error(), "See bayctl storage and bayctl logs.")
	case status.Warning != "":
		r.d.board.set("storage", domain.StatusWarning, status.Warning, "Delete volumes from the trash, or golden images that are not needed.")
	default:
		r.d.board.set("storage", domain.StatusOK, fmt.Sprintf("%d volumes, %d golden images", len(status.Volumes), len(status.Goldens)), "")
	}
}

// up returns the storage, or Unavailable.
func (r *storageRole) up() (*storage.Storage, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.st == nil {
		return nil, domain.Errorf(domain.Unavailable, "storage role", "is not up").
			Fix("See bayctl status for the reason; an appliance needs a data disk and a deployment network.")
	}
	return r.st, nil
}

// Ready implements deploy.Storage.
func (r *storageRole) Ready() error {
	if _, err := r.up(); err != nil {
		return err
	}
	if !r.d.portal().IsValid() {
		return domain.Errorf(domain.Unavailable, "deployment network", "is not set").Fix("Set it with bayctl net set deployment, or in the frame (deployment setting).")
	}
	if r.d.net != nil && r.d.net.deploymentOnTrial() {
		return domain.Errorf(domain.Unavailable, "deployment network", "is on trial: what is served there now may lose its address").Fix("Confirm the change or wait until it takes itself back; see bayctl net.")
	}
	return nil
}

// MayClone implements deploy.Storage.
func (r *storageRole) MayClone() error {
	st, err := r.up()
	if err != nil {
		return err
	}
	return kinds(st.MayClone(), "OS volume")
}

// kinds gives storage's errors the kind that REST needs.
func kinds(err error, object string) error {
	var de *domain.Error
	switch {
	case err == nil || errors.As(err, &de):
		return err
	case errors.Is(err, storage.ErrPoolFull):
		return (&domain.Error{Kind: domain.Full, Object: object, Err: err}).Fix("Delete volumes from the trash, or golden images that are not needed.")
	case errors.Is(err, storage.ErrInUse):
		return (&domain.Error{Kind: domain.Conflict, Object: object, Err: err}).Fix("Power the server off first.")
	case errors.Is(err, storage.ErrNotFound):
		return &domain.Error{Kind: domain.NotFound, Object: object, Err: err}
	case errors.Is(err, storage.ErrConflict):
		return &domain.Error{Kind: domain.Conflict, Object: object, Err: err}
	}
	return fmt.Errorf("%s: %w", object, err)
}

// ImportGolden implements library.Pool. An image whose size only reading
// tells is read twice: nothing touches the pool before its size is known.
func (r *storageRole) ImportGolden(ctx context.Context, id string, img *artifact.Image, progress func(done, total int64)) (library.Expanded, error) {
	st, err := r.up()
	if err != nil {
		return library.Expanded{}, err
	}
	im := storage.Import{ID: id, SizeBytes: uint64(max(0, img.VirtualSize)), Progress: func(done, total uint64) { progress(int64(done), int64(total)) }}
	if img.VirtualSize < 0 {
		room, err := r.Room(ctx)
		if err != nil {
			return library.Expanded{}, err
		}
		c, err := img.Blocks(ctx, max(1, room), func(int64, []byte) error { return nil }) // 0 would be no limit
		if err != nil {
			return library.Expanded{}, err
		}
		im.SizeBytes, im.AllocatedBytes = uint64(c.Size), uint64(c.Data)
	}
	rc, err := img.Reader()
	if err != nil {
		return library.Expanded{}, err
	}
	defer rc.Close()
	g, err := st.ImportGolden(ctx, im, rc)
	if err != nil {
		return library.Expanded{}, kinds(err, "golden image "+id)
	}
	return library.Expanded{Size: int64(g.SizeBytes), Data: int64(g.AllocatedBytes), Digest: g.Digest}, nil
}

// DeleteGolden implements library.Pool.
func (r *storageRole) DeleteGolden(ctx context.Context, id string) error {
	st, err := r.up()
	if err != nil {
		return err
	}
	err = st.DeleteGolden(ctx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case errors.Is(err, storage.ErrInUse):
		return (&domain.Error{Kind: domain.Conflict, Object: "golden image " + id, Err: err}).Fix("Delete that OS volume first, from the trash too.")
	}
	return kinds(err, "golden image "+id)
}

// Room implements library.Pool: what is free below the guard's limit.
func (r *storageRole) Room(ctx context.Context) (int64, error) {
	st, err := r.up()
	if err != nil {
		return 0, err
	}
	s, err := st.Status(ctx)
	if err != nil {
		return 0, err
	}
	return max(0, int64(s.Pool.DataTotal)*guardPercent/100-int64(s.Pool.DataUsed)), nil
}

// guardPercent is how full the pool may become by new clones and images.
const guardPercent = 85

// Create implements deploy.Storage.
func (r *storageRole) Create(ctx context.Context, spec deploy.VolumeSpec) (int64, error) {
	st, err := r.up()
	if err != nil {
		return 0, err
	}
	v, err := st.CreateVolume(ctx, storage.Spec{ID: spec.ID, Name: spec.Name, GoldenID: spec.Golden, SizeBytes: uint64(spec.Size)})
	return int64(v.SizeBytes), kinds(err, "OS volume "+spec.Name)
}

// Export implements deploy.Storage.
func (r *storageRole) Export(ctx context.Context, id string, a deploy.Access) (netip.AddrPort, error) {
	if err := r.Ready(); err != nil {
		return netip.AddrPort{}, err
	}
	st, err := r.up()
	if err != nil {
		return netip.AddrPort{}, err
	}
	portal := netip.AddrPortFrom(r.d.portal(), portalPort)
	_, err = st.Export(ctx, id, storage.Access{InitiatorIQN: a.Initiator, User: a.User, Secret: target.Secret(a.Secret), Portal: portal})
	return portal, kinds(err, "OS volume "+id)
}

// Unexport implements deploy.Storage.
func (r *storageRole) Unexport(ctx context.Context, id string) error {
	st, err := r.up()
	if err != nil {
		return err
	}
	if err := st.Unexport(ctx, id, false); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return kinds(err, "OS volume "+id)
	}
	return nil
}

// Sessions implements deploy.Storage.
func (r *storageRole) Sessions(ctx context.Context, id string) ([]string, error) {
	st, err := r.up()
	if err != nil {
		return nil, err
	}
	sessions, err := st.Sessions(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, kinds(err, "OS volume "+id)
	}
	var out []string
	for _, s := range sessions {
		out = append(out, s.Initiator)
	}
	return out, nil
}

// Delete implements deploy.Storage.
func (r *storageRole) Delete(ctx context.Context, id string) error {
	st, err := r.up()
	if err != nil {
		return err
	}
	if err := st.DeleteVolume(ctx, id); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return kinds(err, "OS volume "+id)
	}
	return nil
}

// volume returns how one volume is.
func (r *storageRole) volume(ctx context.Context, id string) (domain.StorageVolume, error) {
	st, err := r.up()
	if err != nil {
		return domain.StorageVolume{}, err
	}
	s, err := st.Status(ctx)
	if err != nil {
		return domain.StorageVolume{}, err
	}
	for _, v := range s.Volumes {
		if v.ID == id {
			return volumeReport(v), nil
		}
	}
	return domain.StorageVolume{}, domain.Errorf(domain.NotFound, "OS volume "+id, "is not in this appliance's pool")
}

// Used implements deploy.Storage.
func (r *storageRole) Used(ctx context.Context, id string) (int64, error) {
	v, err := r.volume(ctx, id)
	return v.Used, err
}

// Detail implements deploy.Storage.
func (r *storageRole) Detail(ctx context.Context, id string) (any, error) { return r.volume(ctx, id) }

func volumeReport(v storage.VolumeStatus) domain.StorageVolume {
	out := domain.StorageVolume{
		ID: v.ID, Name: v.Name, Bytes: int64(v.SizeBytes), Used: int64(v.Used), Device: v.Device(),
		Role: fmt.Sprint(v.Mirror.Role), Disk: fmt.Sprint(v.Mirror.Disk), Peer: fmt.Sprint(v.Mirror.Connection), Sessions: []string{},
	}
	if v.Exported {
		out.IQN = storage.IQN(v.ID)
	}
	for _, s := range v.Sessions {
		out.Sessions = append(out.Sessions, s.Initiator)
	}
	return out
}

// report is the storage role as it is.
func (r *storageRole) report(ctx context.Context) domain.StorageReport {
	rep := domain.StorageReport{Status: domain.StatusOK, Goldens: []domain.StorageGolden{}, Volumes: []domain.StorageVolume{}}
	st, err := r.up()
	if err == nil {
		var s storage.Status
		if s, err = st.Status(ctx); err == nil {
			rep.DataBytes, rep.DataUsed = int64(s.Pool.DataTotal), int64(s.Pool.DataUsed)
			rep.MetaBytes, rep.MetaUsed = int64(s.Pool.MetaTotal), int64(s.Pool.MetaUsed)
			if s.Warning != "" {
				rep.Status, rep.Detail = domain.StatusWarning, s.Warning
			}
			clones := map[string]int{}
			for _, v := range s.Volumes {
				clones[v.GoldenID]++
				rep.Volumes = append(rep.Volumes, volumeReport(v))
			}
			for _, g := range s.Goldens {
				rep.Goldens = append(rep.Goldens, domain.StorageGolden{ID: g.ID, Bytes: int64(g.SizeBytes), Digest: g.Digest, Clones: clones[g.ID]})
			}
			return rep
		}
	}
	rep.Status, rep.Detail = domain.StatusCritical, err.Error()
	return rep
}

// records keep what storage should have in the domain state.
type records struct {
	goldens *cluster.KV[storage.Golden]
	volumes *cluster.KV[storage.Volume]
}

func newRecords(s *cluster.Store) records {
	return records{cluster.NewKV[storage.Golden](s.Client, "storage/goldens"), cluster.NewKV[storage.Volume](s.Client, "storage/volumes")}
}

// Load implements storage.Records.
func (r records) Load(ctx context.Context) (storage.State, error) {
	var s storage.State
	goldens, err := r.goldens.List(ctx)
	if err != nil {
		return s, err
	}
	volumes, err := r.volumes.List(ctx)
	if err != nil {
		return s, err
	}
	for _, g := range goldens {
		s.Goldens = append(s.Goldens, g)
	}
	for _, v := range volumes {
		s.Volumes = append(s.Volumes, v)
	}
	return s, nil
}

// PutGolden implements storage.Records.
func (r records) PutGolden(ctx context.Context, g storage.Golden) error {
	return r.goldens.Put(ctx, g.ID, g)
}

// DeleteGolden implements storage.Records.
func (r records) DeleteGolden(ctx context.Context, id string) error { return r.goldens.Delete(ctx, id) }

// PutVolume implements storage.Records.
func (r records) PutVolume(ctx context.Context, v storage.Volume) error {
	return r.volumes.Put(ctx, v.ID, v)
}

// DeleteVolume implements storage.Records.
func (r records) DeleteVolume(ctx context.Context, id string) error { return r.volumes.Delete(ctx, id) }

// Disk implements deploy.Personaliser: it reads a volume that nobody uses.
func (r *storageRole) Disk(ctx context.Context, id string) (io.ReadCloser, int64, error) {
	f, size, err := r.openVolume(id, false)
	return f, size, err
}

// roomToCopy refuses what would fill the pool beyond the guard's limit: below it
// run servers.
func (r *storageRole) roomToCopy(ctx context.Context, id string) error {
	used, err := r.Used(ctx, id)
	if err != nil {
		return err
	}
	room, err := r.Room(ctx)
	if err != nil {
		return err
	}
	if used > room {
		return domain.Errorf(domain.Full, "OS volume "+id, "a copy needs up to %d bytes, the pool has room for %d", used, room).
			Fix("Delete volumes from the trash, or golden images that are not needed.")
	}
	return nil
}

// Copy implements deploy.Personaliser.
func (r *storageRole) Copy(ctx context.Context, from, to string) error {
	src, size, err := r.openVolume(from, false)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, room, err := r.openVolume(to, true)
	if err != nil {
		return err
	}
	defer dst.Close()
	if room < size {
		return domain.Errorf(domain.Internal, "OS volume "+to, "has %d bytes, %d are to be copied", room, size)
	}
	if err := r.roomToCopy(ctx, from); err != nil {
		return err
	}
	if err := copySparse(ctx, dst, src); err != nil {
		return fmt.Errorf("copy OS volume %s: %w", from, err)
	}
	return dst.Sync()
}
