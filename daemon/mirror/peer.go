package mirror

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Peer is the link of one resource to its partner.
type Peer struct {
	Local, Remote netip.AddrPort // own to the resource on both sides
	Secret        string         // shared by both, at most 63 bytes
}

// How the link and the resync behave. Times are long enough for a slow module
// under load and short enough that servers do not notice: what is lost is known
// after pingEvery and pingWait: takeovers rest on that (daemon/pair, LossBound).
const (
	protocolC  = 3       // a write is done when both legs have it
	timeout    = 9       // tenths of a second; below pingEvery
	pingEvery  = 1       // seconds; with pingWait the LossBound of daemon/pair
	pingWait   = 5       // tenths of a second
	reconnect  = 1       // seconds
	maxBuffers = 512     // pages: thirty resyncs of DRBD's default fill 240 MiB
	resyncRate = 100_000 // KiB/s for a resync, at most
	resyncMin  = 4096    // KiB/s that it is left beside servers' I/O
)

const (
	metaFlexInternal   = -3 // meta_dev_idx: at the end of the backing device
	fencingNone        = 0
	fencingStonith     = 2 // resource-and-stonith
	parallelResyncs    = 2
	detachPoll         = 10 * time.Millisecond
	fenceThread        = "drbd_async_h" // the kernel's thread that waits for a fence handler
	fencePatience      = 5 * time.Second
	helperParameter    = "/sys/module/drbd/parameters/usermode_helper"
	sharedSecretMax    = 63
	resyncAfterNothing = -1
)

// diskConf builds disk_conf; what names the leg is for attach only.
func diskConf(r Resource, attach bool) []byte {
	var f [][]byte
	if attach {
		idx := int32(metaFlexInternal)
		f = append(f, strField(1, r.Leg), strField(2, r.Leg), u32Field(3, uint32(idx)), u32Field(10, alExtents))
	}
	fencing, after := uint32(fencingNone), int32(resyncAfterNothing)
	if r.Fencing {
		fencing = fencingStonith
	}
	if r.ResyncAfter != 0 {
		after = int32(r.ResyncAfter)
	}
	return nest(nlaDiskConf, append(f,
		u32Field(7, fencing), u32Field(8, resyncRate), u32Field(9, uint32(after)),
		u32Field(11, 0), // no planning ahead: the rate is fixed
		u32Field(15, resyncMin))...)
}

// Reconfigure sets the options of an attached resource that may change: Fencing
// and ResyncAfter.
func (c *Control) Reconfigure(ctx context.Context, r Resource) error {
	if _, err := c.call(ctx, cmdDiskOptions, r.Minor, diskConf(r, false)); err != nil {
		return fmt.Errorf("mirror: resource %s: change options: %w", r.Name, err)
	}
	return nil
}

// ResyncAfter bounds how many of an appliance's resources are resynced at once:
// it says which of the resources with these minors goes before m. The kernel
// holds a resync while the one before it runs. Both sides have the same minors,
// so they agree.
func ResyncAfter(minors []uint32, m uint32) uint32 {
	sorted := slices.Sorted(slices.Values(minors))
	i, found := slices.BinarySearch(sorted, m)
	if !found || i < parallelResyncs {
		return 0
	}
	return sorted[i-parallelResyncs]
}

func (p Peer) context(fields ...[]byte) []byte {
	return nest(nlaContext, append(fields, binField(3, sockaddr(p.Local)), binField(4, sockaddr(p.Remote)))...)
}

// sockaddr is the kernel's form of an address and port.
func sockaddr(a netip.AddrPort) []byte {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		b := make([]byte, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], a.Port())
		copy(b[4:], ip.AsSlice())
		return b
	}
	b := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	copy(b[8:], ip.AsSlice())
	return b
}

// Connect lets a resource look for its partner, until Disconnect. A link that
// is there is no error.
func (c *Control) Connect(ctx context.Context, name string, minor uint32, p Peer) error {
	if p.Secret == "" || len(p.Secret) > sharedSecretMax {
		return fmt.Errorf("mirror: resource %s: connect: secret of %d bytes, want 1 to %d", name, len(p.Secret), sharedSecretMax)
	}
	st, _, err := c.State(ctx, minor)
	if err != nil || st.Connection != StandAlone {
		return err
	}
	_, err = c.call(ctx, cmdConnect, noMinor, p.context(strField(2, name)), nest(nlaNetConf,
		strField(1, p.Secret), strField(2, "sha1"),
		u32Field(6, protocolC), u32Field(7, reconnect), u32Field(8, timeout), u32Field(9, pingEvery), u32Field(10, pingWait),
		u32Field(14, maxBuffers)))
	if err != nil {
		return fmt.Errorf("mirror: resource %s: connect %s to %s: %w", name, p.Local, p.Remote, err)
	}
	return nil
}

// Disconnect ends the link of a resource. Force does not wait for a partner
// that may be dead: it makes room for Promote at once. A link that is not there
// is no error.
func (c *Control) Disconnect(ctx context.Context, name string, p Peer, force bool) error {
	attrs := [][]byte{p.context()}
	if force {
		attrs = append(attrs, nest(nlaLeave, flag(1)))
	}
	_, err := c.call(ctx, cmdDisconnect, noMinor, attrs...)
	var r refusal
	if errors.As(err, &r) && r.code == retNoSuchLink {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mirror: resource %s: disconnect: %w", name, err)
	}
	return nil
}

// DetachForce drops the leg without waiting for its I/O, and returns when DRBD
// shows it Diskless. While it is Failed, somebody still holds it, and resuming
// I/O would write a new generation to it: then the partner's would be a split
// brain. It waits for that until ctx ends.
func (c *Control) DetachForce(ctx context.Context, name string, minor uint32) error {
	if _, err := c.call(ctx, cmdDetach, minor, nest(nlaDetach, flag(1))); err != nil {
		return fmt.Errorf("mirror: resource %s: detach: %w", name, err)
	}
	for {
		st, found, err := c.State(ctx, minor)
		if err != nil {
			return err
		}
		if !found || st.Disk == Diskless {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("mirror: resource %s: detach: the leg is still %s: %w", name, st.Disk, ctx.Err())
		case <-time.After(detachPoll):
		}
	}
}

// ResumeIO thaws a frozen resource. On an attached leg that means to go on
// alone, as the winner, in a new generation of the data; after DetachForce,
// that what hangs ends in errors.
func (c *Control) ResumeIO(ctx context.Context, name string, minor uint32) error {
	return c.simple(ctx, cmdResumeIO, "resume I/O", name, minor)
}

// Outdate marks an attached leg as older than the partner's: it cannot become
// primary before it was resynced.
func (c *Control) Outdate(ctx context.Context, name string, minor uint32) error {
	return c.simple(ctx, cmdOutdate, "outdate", name, minor)
}

// NewCurrentUUID begins a new generation of the volume's data. ClearBitmap says
// that both connected legs are known to be equal.
func (c *Control) NewCurrentUUID(ctx context.Context, name string, minor uint32, clearBitmap bool) error {
	var attrs [][]byte
	if clearBitmap {
		attrs = append(attrs, nest(nlaNewUUID, flag(1)))
	}
	return c.simple(ctx, cmdNewUUID, "new current UUID", name, minor, attrs...)
}

func (c *Control) simple(ctx context.Context, cmd uint8, what, name string, minor uint32, attrs ...[]byte) error {
	if _, err := c.call(ctx, cmd, minor, attrs...); err != nil {
		return fmt.Errorf("mirror: resource %s: %s: %w", name, what, err)
	}
	return nil
}

// SetHelper makes the kernel call the program at path as its fence handler, and
// for other events, with the event's and the resource's name as arguments.
func SetHelper(path string) error {
	// A newline would become part of the path.
	if err := os.WriteFile(helperParameter, []byte(path), 0); err != nil {
		return fmt.Errorf("mirror: fence handler: %w", err)
	}
	return nil
}

// fencesEnded waits until no fence handler is under way any more. A resource
// that is taken down under one leaves the kernel with a thread that fell over,
// holding a lock (seen with Linux 6.1).
func fencesEnded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	for fencing() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("a fence handler is still under way: %w", ctx.Err())
		case <-time.After(detachPoll):
		}
	}
	return nil
}

func fencing() bool {
	procs, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(b)) == fenceThread {
			return true
		}
	}
	return false
}

// Disown marks a leg that is not attached Inconsistent, so that DRBD can make
// it nothing but the target of a resync, whatever its activity log claims: for
// a copy that may lack what its module had not flushed when it died.
func Disown(leg string, dataSectors uint64) error {
	f, err := openLeg(leg)
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	err = disown(f, dataSectors)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("mirror: leg %s: disown: %w", leg, err)
	}
	return nil
}

func disown(leg Leg, dataSectors uint64) error {
	if _, err := ApplyLog(leg, dataSectors); err != nil {
		return err
	}
	sectors, err := LegSectors(dataSectors)
	if err != nil {
		return err
	}
	b, at := alignedBlock(4096), int64(sectors-superSectors)*512
	if _, err := leg.ReadAt(b, at); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[0x38:])
	binary.BigEndian.PutUint32(b[0x38:], flags&^(flagConsistent|flagWasUpToDate|flagPrimary|flagCrashed))
	if _, err := leg.WriteAt(b, at); err != nil {
		return err
	}
	return leg.Sync()
}
