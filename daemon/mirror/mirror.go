package mirror

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// A Resource is one volume's DRBD resource, as it should run.
type Resource struct {
	Name        string // "v17"; unique on this appliance
	Minor       uint32 // the device is /dev/drbd<Minor>
	Leg         string // block device below: data and metadata
	DataSectors uint64 // size of /dev/drbd<Minor> in 512-byte sectors
	Fresh       bool   // the metadata was just written: the log need not be applied

	// Fencing freezes I/O when the partner is lost, until the fence handler
	// (SetHelper) has an answer. Off, the volume goes on alone.
	Fencing bool
	// ResyncAfter is the minor whose resync goes first; 0: none. See ResyncAfter.
	ResyncAfter uint32
}

// Device is the node of the volume.
func Device(minor uint32) string { return fmt.Sprintf("/dev/drbd%d", minor) }

// Role is DRBD's role of this side.
type Role uint8

// Roles.
const (
	RoleUnknown Role = iota
	Primary
	Secondary
)

func (r Role) String() string { return [...]string{"Unknown", "Primary", "Secondary"}[r%3] }

// Disk is DRBD's state of a leg.
type Disk uint8

// States of a leg, worst first.
const (
	Diskless Disk = iota
	Attaching
	Failed
	Negotiating
	Inconsistent
	Outdated
	DiskUnknown
	Consistent
	UpToDate
)

var diskNames = [...]string{"Diskless", "Attaching", "Failed", "Negotiating", "Inconsistent", "Outdated", "DUnknown", "Consistent", "UpToDate"}

func (d Disk) String() string {
	if int(d) < len(diskNames) {
		return diskNames[d]
	}
	return "Unknown"
}

// Connection is the state of the link to the partner (enum drbd_conns).
type Connection uint8

// States of the link that somebody asks for; there are more on the way.
const (
	StandAlone   Connection = 0 // nothing is tried
	WFConnection Connection = 8 // the partner does not answer
	Connected    Connection = 10
	SyncSource   Connection = 16
	SyncTarget   Connection = 17
	pausedSyncT  Connection = 21

	startingSyncS Connection = 11
	wfBitMapS     Connection = 13
	pausedSyncS   Connection = 20
)

var connectionNames = [...]string{
	"StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure", "ProtocolError", "TearDown",
	"WFConnection", "WFReportParams", "Connected", "StartingSyncS", "StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID",
	"SyncSource", "SyncTarget", "VerifyS", "VerifyT", "PausedSyncS", "PausedSyncT", "Ahead", "Behind",
}

func (c Connection) String() string {
	if int(c) < len(connectionNames) {
		return connectionNames[c]
	}
	return fmt.Sprintf("state %d", uint8(c))
}

// Up says that the partner answers.
func (c Connection) Up() bool { return c >= Connected }

// Resyncing says that blocks are, or wait to be, copied from one leg to the
// other.
func (c Connection) Resyncing() bool { return c > Connected && c <= pausedSyncT && c != 18 && c != 19 }

// Source says that blocks are, or wait to be, copied from this leg to the
// partner's.
func (c Connection) Source() bool {
	return c == startingSyncS || c == wfBitMapS || c == SyncSource || c == pausedSyncS
}

// State is what DRBD says about one resource.
type State struct {
	Name        string
	Minor       uint32
	Leg         string // as given at attach
	Role        Role
	Disk        Disk
	Connection  Connection
	PeerRole    Role // as last heard
	PeerDisk    Disk // as last heard, or found out by fencing
	Suspended   bool // I/O is frozen, for whatever reason
	Fencing     bool // it is because the fence handler has not said "won"
	DataSectors uint64
	UUIDs       []uint64 // current, bitmap, two of history; nil without a disk
	OutOfSync   uint64   // bytes the partner does not have
	Fences      bool     // as Resource.Fencing; not known without a disk
}

// Control is the way to the kernel's DRBD.
type Control struct {
	family uint16
	log    *slog.Logger
}

// Open finds the kernel's DRBD. The module drbd must be loaded.
func Open(log *slog.Logger) (*Control, error) {
	f, err := resolveFamily()
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	return &Control{family: f, log: log}, nil
}

// NewUUID makes the random initial UUID of one incarnation of a volume. Bit 0
// is zero (DRBD keeps the role there) and the value is never one of DRBD's
// small special numbers.
func NewUUID() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:])
		if u := binary.BigEndian.Uint64(b[:]) &^ 1; u > 1<<16 {
			return u
		}
	}
}

// Initialize writes complete metadata onto a fresh leg, flushed to the disk.
// When the leg carries metadata for that size already (a creation that was
// interrupted), it is left alone, as it may have been used since, and written
// is false.
func Initialize(leg string, dataSectors, uuid uint64) (written bool, err error) {
	f, err := openLeg(leg)
	if err != nil {
		return false, fmt.Errorf("mirror: %w", err)
	}
	defer f.Close()
	switch _, err := ReadSuperblock(f, dataSectors); {
	case err == nil:
		return false, nil
	case !errors.Is(err, ErrNoMetadata):
		return false, fmt.Errorf("mirror: leg %s: read metadata: %w", leg, err)
	}
	if err := WriteMetadata(f, dataSectors, uuid); err != nil {
		return false, fmt.Errorf("mirror: leg %s: write metadata: %w", leg, err)
	}
	if err := f.Sync(); err != nil {
		return false, fmt.Errorf("mirror: leg %s: write metadata: %w", leg, err)
	}
	return true, nil
}

func openLeg(leg string) (*os.File, error) {
	return os.OpenFile(leg, os.O_RDWR|unix.O_DIRECT, 0)
}

// Up brings a resource to Primary with its leg attached. What runs already
// stays untouched, so that a restarted daemon adopts volumes in use.
func (c *Control) Up(ctx context.Context, r Resource) error {
	st, err := c.Attach(ctx, r)
	if err != nil || st.Role == Primary {
		return err
	}
	return c.Promote(ctx, r.Name, r.Minor)
}

// Attach makes a resource with its leg attached, and leaves its role. What runs
// already stays untouched. It returns the state that it found.
func (c *Control) Attach(ctx context.Context, r Resource) (State, error) {
	st, found, err := c.State(ctx, r.Minor)
	if err != nil {
		return st, err
	}
	if found && st.Name != r.Name {
		return st, fmt.Errorf("mirror: resource %s: minor %d belongs to resource %s", r.Name, r.Minor, st.Name)
	}
	if found && st.Disk != Diskless && st.Leg != r.Leg {
		return st, fmt.Errorf("mirror: resource %s: runs on leg %s, want %s", r.Name, st.Leg, r.Leg)
	}
	if !found {
		context := nest(nlaContext, u32Field(1, 0), strField(2, r.Name))
		if _, err := c.call(ctx, cmdNewResource, noMinor, context); err != nil {
			return st, fmt.Errorf("mirror: new resource %s: %w", r.Name, err)
		}
		if _, err := c.call(ctx, cmdNewMinor, r.Minor, context); err != nil {
			return st, fmt.Errorf("mirror: resource %s: new minor %d: %w", r.Name, r.Minor, err)
		}
	}
	if !found || st.Disk == Diskless {
		if err := c.attach(ctx, r); err != nil {
			return st, fmt.Errorf("mirror: resource %s: %w", r.Name, err)
		}
	}
	return st, nil
}

// Promote makes a resource primary. While DRBD believes that the partner is
// there and primary it refuses (ErrPartnerPrimary); with fencing and without a
// connection it asks the fence handler, and fails unless that says "won".
func (c *Control) Promote(ctx context.Context, name string, minor uint32) error {
	if _, err := c.call(ctx, cmdPrimary, minor, nest(nlaSetRole)); err != nil {
		return fmt.Errorf("mirror: resource %s: primary: %w", name, err)
	}
	return nil
}

// Demote makes a resource secondary. One whose device is open answers ErrInUse.
func (c *Control) Demote(ctx context.Context, name string, minor uint32) error {
	if _, err := c.call(ctx, cmdSecondary, minor, nest(nlaSetRole)); err != nil {
		return fmt.Errorf("mirror: resource %s: secondary: %w", name, err)
	}
	return nil
}

func (c *Control) attach(ctx context.Context, r Resource) error {
	if !r.Fresh {
		f, err := openLeg(r.Leg)
		if err != nil {
			return err
		}
		hot, err := ApplyLog(f, r.DataSectors)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("leg %s: apply activity log: %w", r.Leg, err)
		}
		if hot > 0 {
			c.log.Info("volume was in use when the appliance stopped", "resource", r.Name, "hot_extents", hot)
		}
	}
	if _, err := c.call(ctx, cmdAttach, r.Minor, diskConf(r, true)); err != nil {
		return fmt.Errorf("attach %s: %w", r.Leg, err)
	}
	return nil
}

// Down demotes and removes a resource. One that is gone is no error; one whose
// device is open answers ErrInUse and stays as it is.
func (c *Control) Down(ctx context.Context, name string, minor uint32) error {
	st, found, err := c.State(ctx, minor)
	if err != nil {
		return err
	}
	if found && st.Name != name {
		return fmt.Errorf("mirror: resource %s: minor %d belongs to resource %s", name, minor, st.Name)
	}
	if found && st.Role == Primary {
		if err := c.Demote(ctx, name, minor); err != nil {
			return err
		}
	}
	if found && (st.Fences || st.Disk == Diskless) {
		if err := fencesEnded(ctx); err != nil {
			return fmt.Errorf("mirror: resource %s: down: %w", name, err)
		}
	}
	_, err = c.call(ctx, cmdDown, noMinor, nest(nlaContext, strField(2, name)))
	var r refusal
	if errors.As(err, &r) && r.code == retNoSuchResource {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mirror: resource %s: down: %w", name, err)
	}
	return nil
}

// State reads one minor's state; found is false when there is no such minor.
func (c *Control) State(ctx context.Context, minor uint32) (st State, found bool, err error) {
	msgs, err := c.call(ctx, cmdGetStatus, minor)
	var r refusal
	if errors.As(err, &r) && r.code == retNoSuchMinor {
		return State{}, false, nil
	}
	if err != nil {
		return State{}, false, fmt.Errorf("mirror: state of minor %d: %w", minor, err)
	}
	return parseState(msgs[0]), true, nil
}

// States reads the state of every resource.
func (c *Control) States(ctx context.Context) ([]State, error) {
	msgs, err := c.call(ctx, cmdGetStatus, noMinor)
	if err != nil {
		return nil, fmt.Errorf("mirror: states: %w", err)
	}
	var out []State
	for _, m := range msgs {
		if m.minor != noMinor && m.attrs[nlaContext] != nil {
			out = append(out, parseState(m))
		}
	}
	return out, nil
}

// parseState reads the status of one minor. Field numbers are those of
// drbd_cfg_context, disk_conf and state_info; the state word is union
// drbd_state, lowest bits first: role 2, peer 2, conn 5, disk 4, pdsk 4, susp 1,
// aftr_isp 1, peer_isp 1, user_isp 1, susp_nod 1, susp_fen 1.
func parseState(m message) State {
	ne := binary.NativeEndian
	ctx, disk, info := parseAttrs(m.attrs[nlaContext]), parseAttrs(m.attrs[nlaDiskConf]), parseAttrs(m.attrs[nlaStateInfo])
	st := State{Minor: m.minor, Name: cstring(ctx[2]), Leg: cstring(disk[1])}
	if w := info[2]; len(w) >= 4 {
		s := ne.Uint32(w)
		st.Role, st.PeerRole = Role(s&3), Role(s>>2&3)
		st.Connection = Connection(s >> 4 & 31)
		st.Disk, st.PeerDisk = Disk(s>>9&15), Disk(s>>13&15)
		st.Fencing = s>>22&1 != 0
		st.Suspended = s>>17&1 != 0 || s>>21&3 != 0
	}
	if w := disk[7]; len(w) >= 4 {
		st.Fences = ne.Uint32(w) != fencingNone
	}
	if w := info[3]; len(w) >= 8 {
		st.DataSectors = ne.Uint64(w)
	}
	if w := info[7]; len(w) >= 32 {
		for i := range 4 {
			st.UUIDs = append(st.UUIDs, ne.Uint64(w[8*i:]))
		}
	}
	if w := info[10]; len(w) >= 8 {
		st.OutOfSync = ne.Uint64(w) * 4096
	}
	return st
}
