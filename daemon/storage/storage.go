package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"

	"baystream/daemon/mirror"
	"baystream/daemon/pool"
	"baystream/daemon/target"
)

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("no such object in storage")
	ErrInUse    = errors.New("in use")
	ErrConflict = errors.New("exists with other properties")
	ErrPoolFull = pool.ErrPoolFull
)

// IQNPrefix begins the IQN of every volume's target.
const IQNPrefix = "iqn.2026-11.org.baystream:"

// Identity of every LUN, beside its volume's uuid.
const (
	vendorID  = "BAYSTRM"
	productID = "OS volume"
)

// parallel bounds how many volumes are worked on at once when many are asked
// for: more gains nothing on small machines and costs memory.
const parallel = 8

// Config says where storage lives.
type Config struct {
	PoolName string // default "bay-pool"
	MetaDev  string // partition baystream-pool-meta
	DataDev  string // partition baystream-pool-data
	Records  Records
	Run      Runner   // thin_check; nil runs the program itself
	Pair     *Pairing // nil: this appliance is alone
	Log      *slog.Logger
}

// Runner runs a program to its end and returns an error that names what it
// printed when it fails.
type Runner func(ctx context.Context, name string, args ...string) error

// Exec is the Runner that starts real programs.
func Exec(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Spec asks for a volume.
type Spec struct {
	ID        string // uuid, chosen by the caller; a repeat with it resumes
	Name      string // for people
	GoldenID  string // clone of this image; empty: an empty volume
	SizeBytes uint64 // at least the image's size, a multiple of 4 KiB; 0: the image's size
	Group     int    // storage group of a pair
	Draft     bool   // see Volume.Draft
}

// Storage is the storage of one appliance.
type Storage struct {
	pool   *pool.Pool
	mirror *mirror.Control
	target *target.Reconciler
	paired atomic.Pointer[Pairing] // nil: alone
	book   *ledger
	gate   chan struct{} // parallel tokens
	log    *slog.Logger
}

// Open brings the pool up and then every volume of the records, exports
// included; what runs already is adopted untouched. Trouble with single
// volumes is logged and shows in Status; Reconcile tries again.
func Open(ctx context.Context, cfg Config) (*Storage, error) {
	if cfg.PoolName == "" {
		cfg.PoolName = "bay-pool"
	}
	if cfg.Run == nil {
		cfg.Run = Exec
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Storage{log: cfg.Log, gate: make(chan struct{}, parallel)}
	s.paired.Store(cfg.Pair)
	var err error
	if s.book, err = loadLedger(ctx, cfg.Records); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	if s.mirror, err = mirror.Open(cfg.Log); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	if s.target, err = target.New(cfg.Log, IQNPrefix); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	s.pool, err = pool.Open(ctx, pool.Config{
		Name: cfg.PoolName, MetaDev: cfg.MetaDev, DataDev: cfg.DataDev, Log: cfg.Log,
		Check: func(ctx context.Context, dev string) error {
			return cfg.Run(ctx, "/usr/sbin/thin_check", "-q", dev)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	if err := s.Reconcile(ctx); err != nil {
		s.log.Warn("volumes not all ready", "err", err)
	}
	return s, nil
}

// Close lets go of the kernel's control nodes. Pool, volumes and targets stay
// as they are and serve on.
func (s *Storage) Close() error { return s.pool.Close() }

// Shutdown takes everything down, see TakeDown.
func (s *Storage) Shutdown(ctx context.Context) error {
	return errors.Join(TakeDown(ctx, TakeDownConfig{PoolName: s.pool.Name(), Log: s.log}), s.pool.Close())
}

// Reconcile makes the kernel's state follow the records: it adopts what runs,
// brings up what is missing, finishes deletions, and removes targets that no
// record knows. It can be repeated at any time.
func (s *Storage) Reconcile(ctx context.Context) error {
	state := s.book.all()
	var errs []error
	for _, g := range state.Goldens {
		if !g.Ready {
			errs = append(errs, s.forgetImport(ctx, g.ID))
		}
	}
	iqns, err := s.target.Targets()
	errs = append(errs, err)
	for _, i := range iqns {
		errs = append(errs, s.removeStray(ctx, i))
	}
	errs = append(errs, s.each(ctx, state.Volumes, s.reconcileVolume))
	return errors.Join(errs...)
}

// removeStray removes a target that no record wants.
func (s *Storage) removeStray(ctx context.Context, iqn string) error {
	id := strings.TrimPrefix(iqn, IQNPrefix)
	unlock, err := s.book.lock(ctx, id) // else an Export under way would look like a stray
	if err != nil {
		return err
	}
	defer unlock()
	if v, ok := s.book.volume(id); ok && (v.Access != nil || s.inPair(v)) {
		return nil
	}
	return s.target.Remove(ctx, iqn, "", false)
}

func (s *Storage) reconcileVolume(ctx context.Context, v Volume) error {
	unlock, err := s.book.lock(ctx, v.ID)
	if err != nil {
		return err
	}
	defer unlock()
	v, ok := s.book.volume(v.ID) // may have changed while we waited
	switch {
	case !ok:
		return nil
	case v.Deleting:
		err = s.destroy(ctx, v)
	case !v.Made:
		return nil // its creation is repeated, or it is deleted
	case s.inPair(v):
		return nil // the pair decides
	default:
		if err = s.up(ctx, v, false); err == nil && v.Access != nil {
			err = s.export(ctx, v)
		}
	}
	if err != nil {
		return fmt.Errorf("OS volume %s (%s): %w", v.Name, v.ID, err)
	}
	return nil
}

// each calls f for all volumes, a few at a time, and joins the errors.
func (s *Storage) each(ctx context.Context, vols []Volume, f func(context.Context, Volume) error) error {
	return inParallel(vols, func(v Volume) error { return f(ctx, v) })
}

// CreateVolume makes an OS volume, usable at Volume.Device when it returns. A
// repeat with the same ID finishes an interrupted creation or returns the
// volume that is there; with other properties it is ErrConflict. When it
// fails, nothing is left, except that a volume which cannot be cleaned away
// stays recorded and can be deleted.
func (s *Storage) CreateVolume(ctx context.Context, spec Spec) (Volume, error) {
	v, err := s.createVolume(ctx, spec)
	if err != nil {
		return Volume{}, fmt.Errorf("OS volume %s (%s): %w", spec.Name, spec.ID, err)
	}
	return v, nil
}

func (s *Storage) createVolume(ctx context.Context, spec Spec) (Volume, error) {
	if err := s.complete(&spec); err != nil {
		return Volume{}, err
	}
	unlock, err := s.book.lock(ctx, spec.ID)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	select {
	case s.gate <- struct{}{}:
		defer func() { <-s.gate }()
	case <-ctx.Done():
		return Volume{}, ctx.Err()
	}

	v, found := s.book.volume(spec.ID)
	switch {
	case found && v.Deleting:
		return Volume{}, fmt.Errorf("%w: is being deleted", ErrConflict)
	case found && (v.GoldenID != spec.GoldenID || v.SizeBytes != spec.SizeBytes):
		return Volume{}, fmt.Errorf("%w: golden image %q, %d bytes", ErrConflict, v.GoldenID, v.SizeBytes)
	case found && v.Made && s.inPair(v):
		return v, nil // the pair decides
	case found && v.Made:
		return v, s.up(ctx, v, false)
	case !found:
		if err := s.MayClone(); err != nil {
			return Volume{}, err
		}
		if v, err = s.book.addVolume(ctx, spec); err != nil {
			return Volume{}, err
		}
	}
	v, err = s.make(ctx, v, !found)
	if err != nil {
		clean := context.WithoutCancel(ctx)
		if cerr := s.destroy(clean, v); cerr != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", cerr))
		}
		return Volume{}, err
	}
	s.log.Info("OS volume made", "volume", v.ID, "name", v.Name, "golden", v.GoldenID, "bytes", v.SizeBytes, "device", v.Device())
	return v, nil
}

// MayClone says whether the pool takes another volume; else it is ErrPoolFull.
func (s *Storage) MayClone() error { return s.room(0) }

// complete checks a Spec and fills the size in.
func (s *Storage) complete(spec *Spec) error {
	if id, err := uuid.Parse(spec.ID); err != nil || id.String() != spec.ID {
		return fmt.Errorf("ID %q: want a uuid in lower case", spec.ID)
	}
	if spec.GoldenID != "" && spec.SizeBytes == 0 {
		g, ok := s.book.golden(spec.GoldenID)
		if !ok {
			return fmt.Errorf("golden image %s: %w", spec.GoldenID, ErrNotFound)
		}
		spec.SizeBytes = (g.SizeBytes + 4095) &^ 4095
	}
	if spec.SizeBytes == 0 || spec.SizeBytes%4096 != 0 {
		return fmt.Errorf("size %d: want a positive multiple of 4096", spec.SizeBytes)
	}
	return nil
}

// make makes the leg and everything above it. New says that the record was
// made just now: then a thin device under its ID belongs to nobody we know and
// another ID is taken.
func (s *Storage) make(ctx context.Context, v Volume, isNew bool) (Volume, error) {
	return s.makeLeg(ctx, v, isNew, func(v Volume) error { return s.up(ctx, v, true) })
}

// makeLeg makes the leg, lets up bring up what is above it, and records that.
func (s *Storage) makeLeg(ctx context.Context, v Volume, isNew bool, up func(Volume) error) (Volume, error) {
	for {
		err := s.thin(v)
		if err == nil || errors.Is(err, pool.ErrExists) && !isNew {
			break
		}
		if !errors.Is(err, pool.ErrExists) {
			return v, err
		}
		s.log.Warn("thin device without a record", "thin", v.ThinID)
		if v, err = s.book.moveThin(ctx, v); err != nil {
			return v, err
		}
	}
	if err := up(v); err != nil {
		return v, err
	}
	v.Made = true
	return v, s.book.putVolume(ctx, v)
}

func (s *Storage) thin(v Volume) error {
	if v.GoldenID == "" {
		return s.pool.CreateThin(v.ThinID)
	}
	g, ok := s.book.golden(v.GoldenID)
	if !ok {
		return fmt.Errorf("golden image %s: %w", v.GoldenID, ErrNotFound)
	}
	return s.pool.CreateSnap(v.ThinID, g.ThinID)
}

// up activates the leg and brings DRBD up on it, primary. Fresh writes the
// metadata first, if the leg has none.
func (s *Storage) up(ctx context.Context, v Volume, fresh bool) error {
	leg, written, err := s.activateLeg(ctx, v, fresh)
	if err != nil {
		return err
	}
	return s.mirror.Up(ctx, mirror.Resource{
		Name: v.resource(), Minor: v.Minor, Leg: leg, DataSectors: v.sectors(), Fresh: written,
	})
}

// activateLeg gives the leg its node. Fresh writes the metadata, if there is
// none; written says that it did.
func (s *Storage) activateLeg(ctx context.Context, v Volume, fresh bool) (leg string, written bool, err error) {
	sectors, err := mirror.LegSectors(v.sectors())
	if err != nil {
		return "", false, err
	}
	if leg, err = s.pool.Activate(ctx, v.leg(), v.ThinID, sectors); err != nil || !fresh {
		return leg, false, err
	}
	written, err = mirror.Initialize(leg, v.sectors(), v.UUID)
	return leg, written, err
}

// down takes DRBD and the leg's node away.
func (s *Storage) down(ctx context.Context, v Volume) error {
	if err := s.releasePartitions(ctx, v); err != nil {
		return err
	}
	if err := s.mirror.Down(ctx, v.resource(), v.Minor); err != nil {
		if errors.Is(err, mirror.ErrInUse) {
			return fmt.Errorf("%w: %w", ErrInUse, err)
		}
		return err
	}
	return s.pool.Deactivate(ctx, v.leg())
}

// destroy takes a volume away down to its record. Every step may be repeated.
func (s *Storage) destroy(ctx context.Context, v Volume) error {
	if err := s.down(ctx, v); err != nil {
		return err
	}
	if err := s.pool.Delete(v.ThinID); err != nil {
		return err
	}
	return s.book.dropVolume(ctx, v.ID)
}

// DeleteVolume destroys an OS volume and its data. While a server is logged in
// it answers ErrInUse and changes nothing. A volume that is gone is no error.
func (s *Storage) DeleteVolume(ctx context.Context, id string) error {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	v, ok := s.book.volume(id)
	if !ok {
		return nil
	}
	if err := s.delete(ctx, v); err != nil {
		return fmt.Errorf("delete OS volume %s (%s): %w", v.Name, v.ID, err)
	}
	s.log.Info("OS volume deleted", "volume", v.ID, "name", v.Name)
	return nil
}

func (s *Storage) delete(ctx context.Context, v Volume) error {
	if err := s.unexport(ctx, v, false); err != nil {
		return err
	}
	// Until here all can be undone: whoever holds the device open is found
	// before the record says that the volume is on its way out.
	if err := s.down(ctx, v); err != nil {
		return err
	}
	v.Deleting, v.Access = true, nil
	if err := s.book.putVolume(ctx, v); err != nil {
		return err
	}
	return s.destroy(ctx, v)
}

// Volume tells about one volume, or ErrNotFound.
func (s *Storage) Volume(id string) (Volume, error) {
	v, ok := s.book.volume(id)
	if !ok {
		return Volume{}, fmt.Errorf("OS volume %s: %w", id, ErrNotFound)
	}
	return v, nil
}

// IQN is the name of a volume's target.
func IQN(volumeID string) string { return IQNPrefix + volumeID }

func iqn(v Volume) string { return IQN(v.ID) }

// Export makes a volume reachable for one initiator, and returns the target's
// IQN. It ends ReleasePartitions' work first. A repeat changes nothing; other
// access data replace the old ones.
func (s *Storage) Export(ctx context.Context, id string, a Access) (string, error) {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	v, ok := s.book.volume(id)
	if !ok || !v.Made || v.Deleting {
		return "", fmt.Errorf("export OS volume %s: %w", id, ErrNotFound)
	}
	old := v.Access
	v.Access = &a
	err = s.export(ctx, v)
	if err == nil && (old == nil || *old != a) {
		err = s.book.putVolume(ctx, v)
	}
	if err != nil {
		if old == nil { // nothing half-made
			err = errors.Join(err, s.target.Remove(context.WithoutCancel(ctx), iqn(v), v.ID, true))
		}
		return "", fmt.Errorf("export OS volume %s (%s): %w", v.Name, id, err)
	}
	return iqn(v), nil
}

func (s *Storage) export(ctx context.Context, v Volume) error {
	if v.Access == nil {
		return nil
	}
	if err := s.releasePartitions(ctx, v); err != nil {
		return err
	}
	return s.target.Apply(ctx, target.Target{
		Name: v.ID, IQN: iqn(v), Device: v.Device(),
		Serial: v.ID, Vendor: vendorID, Product: productID,
		Unmap:  canDiscard(v.Minor),
		Portal: v.Access.Portal,
		ACL:    target.ACL{Initiator: v.Access.InitiatorIQN, User: v.Access.User, Secret: v.Access.Secret},
	})
}

// canDiscard asks the kernel whether the volume's device takes discards.
func canDiscard(minor uint32) bool {
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/drbd%d/queue/discard_max_bytes", minor))
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return err == nil && n > 0
}

// Unexport takes a volume's target away. While a server is logged in it
// answers ErrInUse, unless force is set, which ends the session.
func (s *Storage) Unexport(ctx context.Context, id string, force bool) error {
	unlock, err := s.book.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	v, ok := s.book.volume(id)
	if !ok {
		return fmt.Errorf("unexport OS volume %s: %w", id, ErrNotFound)
	}
	if err = s.unexport(ctx, v, force); err == nil && v.Access != nil {
		v.Access = nil
		err = s.book.putVolume(ctx, v)
	}
	if err != nil {
		return fmt.Errorf("unexport OS volume %s (%s): %w", v.Name, id, err)
	}
	return nil
}

func (s *Storage) unexport(ctx context.Context, v Volume, force bool) error {
	err := s.target.Remove(ctx, iqn(v), v.ID, force)
	if errors.Is(err, target.ErrInUse) {
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return err
}

// Sessions tells which servers are logged in, to one volume or, with an empty
// ID, to all.
func (s *Storage) Sessions(ctx context.Context, id string) ([]target.Session, error) {
	if id == "" {
		return s.target.Sessions(ctx, "")
	}
	return s.target.Sessions(ctx, IQN(id))
}

var goodID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
