package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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
	pair    pairState
	settled chan struct{} // closed when the first attempt to come up has ended
	alone   atomic.Bool   // there is no pair, and servers boot here: the portal address is this appliance's

	mu sync.RWMutex
	st *storage.Storage
	p  *pairing // nil: this appliance is alone
}

func newStorageRole(d *Daemon) *storageRole {
	r := &storageRole{d: d, settled: make(chan struct{})}
	if d.state != nil {
		r.pair = newPairState(d.state)
	}
	return r
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
	g, ctx := errgroup.WithContext(ctx)
	if st, err := r.up(); err == nil {
		g.Go(func() error { return r.pairUp(ctx, st) })
	}
	g.Go(func() error { return r.keep(ctx) })
	return g.Wait()
}

func (r *storageRole) open(ctx context.Context) error {
	if err := errors.Join(loadModules(storageModules), mountConfigfs()); err != nil {
		return err
	}
	disk, err := diskID(r.d.cfg.State)
	if err != nil {
		return err
	}
	pairing, err := r.firstPairing(ctx)
	if err != nil {
		return err
	}
	if r.alone.Store(false); pairing == nil {
		if err := r.serveAlone(ctx); err != nil {
			return err
		}
	}
	st, err := storage.Open(ctx, storage.Config{
		MetaDev: r.d.disk.Meta, DataDev: r.d.disk.Data, Records: newRecords(r.d.state, disk), Pair: pairing, Log: r.d.log.With("part", "storage"),
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
		if r.alone.Load() && ctx.Err() == nil {
			r.holdPortal(ctx)
		}
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

// serveAlone holds the portal address from the start if somebody boots there: a
// blank module must not take it from those that serve.
func (r *storageRole) serveAlone(ctx context.Context) error {
	volumes, err := r.pair.volumes.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.Access != nil {
			r.alone.Store(true)
			r.holdPortal(ctx) // before targets are made there
			return nil
		}
	}
	return nil
}

// holdPortal gives an appliance that is alone the address of the first group,
// if the frame sets one: then a partner can be added without a server noticing.
func (r *storageRole) holdPortal(ctx context.Context) {
	a := r.d.portalAddresses()
	if a.Groups == nil {
		return
	}
	if !a.Held(firstGroup) {
		if err := a.Add(ctx, firstGroup); err != nil {
			r.d.log.Warn("portal address", "err", err)
			return
		}
	}
	if err := a.Announce(ctx, firstGroup); err != nil {
		r.d.log.Debug("announce the portal address", "err", err)
	}
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
	group, err := r.emptiest(ctx)
	if err != nil {
		return 0, err
	}
	v, err := st.CreateVolume(ctx, storage.Spec{ID: spec.ID, Name: spec.Name, GoldenID: spec.Golden, SizeBytes: uint64(spec.Size), Group: group, Draft: true})
	return int64(v.SizeBytes), kinds(err, "OS volume "+spec.Name)
}

// Join implements deploy.Storage.
func (r *storageRole) Join(ctx context.Context, id string) error {
	st, err := r.up()
	if err != nil {
		return err
	}
	v, err := st.Volume(id)
	if err != nil {
		return kinds(err, "OS volume "+id)
	}
	if p := r.paired(); p != nil {
		return kinds(p.join(ctx, v), "OS volume "+id)
	}
	// The pair's record comes first: a partner that is added later has it from there.
	if err := r.pair.volumes.Put(ctx, id, pairVolume{Volume: v, Maker: r.d.mem.ID(), Joined: true}); err != nil {
		return err
	}
	return kinds(st.Settle(ctx, id), "OS volume "+id)
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
	access := storage.Access{InitiatorIQN: a.Initiator, User: a.User, Secret: target.Secret(a.Secret), Portal: netip.AddrPortFrom(r.d.portal(), portalPort)}
	if p := r.paired(); p != nil {
		portal, err := p.export(ctx, id, access)
		return portal, kinds(err, "OS volume "+id)
	}
	if err := r.grant(ctx, id, &access); err != nil {
		return netip.AddrPort{}, err
	}
	if !r.alone.Swap(true) {
		r.holdPortal(ctx)
	}
	_, err = st.Export(ctx, id, access)
	return access.Portal, kinds(err, "OS volume "+id)
}

// grant notes in the pair's record of a volume who may reach it.
func (r *storageRole) grant(ctx context.Context, id string, a *storage.Access) error {
	_, err := r.pair.volumes.Update(ctx, id, func(v *pairVolume) error {
		if v.ID == "" {
			return errGone
		}
		v.Access = a
		return nil
	})
	if errors.Is(err, errGone) {
		return nil // a draft: nobody reaches it
	}
	return err
}

// Unexport implements deploy.Storage.
func (r *storageRole) Unexport(ctx context.Context, id string) error {
	st, err := r.up()
	if err != nil {
		return err
	}
	if p := r.paired(); p != nil {
		return kinds(p.unexport(ctx, id), "OS volume "+id)
	}
	if err := st.Unexport(ctx, id, false); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return kinds(err, "OS volume "+id)
	}
	return r.grant(ctx, id, nil)
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
	if p := r.paired(); p != nil && len(out) == 0 {
		return p.sessionsThere(id)
	}
	return out, nil
}

// Delete implements deploy.Storage.
func (r *storageRole) Delete(ctx context.Context, id string) error {
	st, err := r.up()
	if err != nil {
		return err
	}
	if p := r.paired(); p != nil {
		return kinds(p.delete(ctx, id), "OS volume "+id)
	}
	if err := st.DeleteVolume(ctx, id); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return kinds(err, "OS volume "+id)
	}
	return r.pair.volumes.Delete(ctx, id)
}

// paired is this appliance's part of the pair; nil while it is alone.
func (r *storageRole) paired() *pairing {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.p
}

// emptiest is the group that a new volume goes to: that with fewer volumes.
func (r *storageRole) emptiest(ctx context.Context) (int, error) {
	if r.paired() == nil {
		return firstGroup, nil
	}
	volumes, err := r.pair.volumes.List(ctx)
	if err != nil {
		return 0, err
	}
	count := map[int]int{}
	for _, v := range volumes {
		if !v.Deleting {
			count[v.group()]++
		}
	}
	best := firstGroup
	for _, n := range groups() {
		if count[n] < count[best] {
			best = n
		}
	}
	return best, nil
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

// newRecords are those of one data disk: what is in its pool.
func newRecords(s *cluster.Store, disk string) records {
	return records{cluster.NewKV[storage.Golden](s.Client, "storage/"+disk+"/goldens"), cluster.NewKV[storage.Volume](s.Client, "storage/"+disk+"/volumes")}
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
	st, err := r.up()
	if err != nil {
		return nil, 0, err
	}
	f, size, err := st.OpenVolume(ctx, id)
	if err != nil {
		return nil, 0, kinds(err, "OS volume "+id)
	}
	return wholeVolume{io.NewSectionReader(f, 0, size), f}, size, nil
}

// wholeVolume reads a volume's contents to their end, and nothing behind them.
type wholeVolume struct {
	*io.SectionReader
	io.Closer
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
	src, size, err := r.Disk(ctx, from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, room, err := r.openVolume(to)
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
