// Package pool keeps thin volumes: it brings a dm-thin pool up from two
// partitions and makes, clones, activates and deletes the thin devices in it.
//
// A Pool is one live thin pool. A thin device is known by its 24-bit ID inside
// the pool and costs nothing until it is activated under a name, when it gets
// a node /dev/dm-N. Golden images stay inactive, so a clone needs no suspend.
//
// Decisions (Guard, parsing of status, table text) are pure functions in
// status.go; the rest is ioctls through package dm. Block zeroing stays on:
// the part of a block that nobody wrote reads as zeros, on both appliances
// alike. A full pool answers errors at once instead of queueing
// (error_if_no_space).
//
// All methods are safe for concurrent use; the kernel serialises the pool's
// own changes. The other side is described in the kernel's
// Documentation/admin-guide/device-mapper/thin-provisioning.rst.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"baystream/daemon/pool/dm"
)

// BlockSectors is the pool's block size in 512-byte sectors: 64 KiB.
const BlockSectors = 128

// BlockSize is the pool's block size in bytes.
const BlockSize = BlockSectors * 512

// MaxThinID is the largest ID of a thin device.
const MaxThinID = 1<<24 - 1

// ErrExists says that the pool has a thin device of that ID already.
var ErrExists = errors.New("thin device exists")

// Config says where a pool lives.
type Config struct {
	Name    string // device-mapper name, "bay-pool"
	MetaDev string // path of the metadata partition
	DataDev string // path of the data partition

	// Check verifies the metadata before the pool is activated (thin_check);
	// nil skips it. It is not called for a pool that is live already or new.
	Check func(ctx context.Context, metaDev string) error
	Log   *slog.Logger
}

// Pool is a live thin pool.
type Pool struct {
	dm   *dm.Control
	name string
	num  string // major:minor of the pool device, as thin tables name it
	log  *slog.Logger
}

// Format makes the kernel take the metadata partition as a new, empty pool at
// the next Open, by zeroing its first 4 KiB. Everything in an older pool there
// is lost.
func Format(metaDev string) error {
	f, err := os.OpenFile(metaDev, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("pool: format: %w", err)
	}
	_, err = f.WriteAt(make([]byte, 4096), 0)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("pool: format %s: %w", metaDev, err)
	}
	return nil
}

// Fresh tells whether the metadata partition holds no pool yet.
func Fresh(metaDev string) (bool, error) {
	f, err := os.Open(metaDev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, 4096)
	if _, err := f.ReadAt(b, 0); err != nil {
		return false, fmt.Errorf("read %s: %w", metaDev, err)
	}
	for _, c := range b {
		if c != 0 {
			return false, nil
		}
	}
	return true, nil
}

// Open brings the pool up, or adopts it when it is live already (after a
// restart of the daemon, with volumes in use).
func Open(ctx context.Context, cfg Config) (*Pool, error) {
	c, err := dm.Open()
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", cfg.Name, err)
	}
	p := &Pool{dm: c, name: cfg.Name, log: cfg.Log}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := p.up(ctx, cfg); err != nil {
		c.Close()
		return nil, fmt.Errorf("pool %s: %w", cfg.Name, err)
	}
	return p, nil
}

func (p *Pool) up(ctx context.Context, cfg Config) error {
	meta, err := dm.Number(cfg.MetaDev)
	if err != nil {
		return err
	}
	data, err := dm.Number(cfg.DataDev)
	if err != nil {
		return err
	}
	sectors, err := Sectors(cfg.DataDev)
	if err != nil {
		return err
	}
	sectors -= sectors % BlockSectors

	have, err := p.dm.Info(p.name)
	live := err == nil && have.Active
	if err != nil && !errors.Is(err, dm.ErrNotFound) {
		return err
	}
	if !live && cfg.Check != nil {
		fresh, err := Fresh(cfg.MetaDev)
		if err != nil {
			return err
		}
		if !fresh {
			if err := cfg.Check(ctx, cfg.MetaDev); err != nil {
				return fmt.Errorf("metadata on %s is damaged; repair it with thin_repair before use: %w", cfg.MetaDev, err)
			}
		}
	}
	i, err := p.dm.Ensure(ctx, p.name, "BAYSTREAM-"+p.name, dm.Target{
		Length: sectors, Type: "thin-pool",
		Params: fmt.Sprintf("%s %s %d %d 1 error_if_no_space", meta, data, BlockSectors, lowWater(sectors)),
	})
	if err != nil {
		return err
	}
	if p.num, err = dm.Number(i.Node()); err != nil {
		return err
	}
	p.log.Info("pool ready", "pool", p.name, "node", i.Node(), "bytes", sectors*512, "adopted", live)
	return nil
}

// Live is the pool of that name as it runs, for looking at it and taking it
// down; devices cannot be made in it. It answers os.ErrNotExist when there is no
// such pool, or no device-mapper.
func Live(name string, log *slog.Logger) (*Pool, error) {
	c, err := dm.Open()
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	if _, err := c.Info(name); err != nil {
		c.Close()
		if errors.Is(err, dm.ErrNotFound) {
			err = os.ErrNotExist
		}
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	return &Pool{dm: c, name: name, log: log}, nil
}

// Name is the pool's name.
func (p *Pool) Name() string { return p.name }

// Commit makes the kernel write the pool's metadata, which it does by itself
// only once a second or when a device is flushed.
func (p *Pool) Commit() error {
	_, err := p.dm.Status(p.name, false)
	return err
}

// Close lets go of the control node. The pool and its devices stay live.
func (p *Pool) Close() error { return p.dm.Close() }

// Down removes the pool device; every thin device must be deactivated before.
func (p *Pool) Down(ctx context.Context) error { return p.dm.Remove(ctx, p.name) }

// CreateThin makes an empty thin device. It answers ErrExists when the ID is
// taken.
func (p *Pool) CreateThin(id uint32) error {
	return p.message(fmt.Sprintf("create_thin %d", id))
}

// CreateSnap makes thin device id as a clone of origin, which must not be
// active (golden images never are): then the clone is consistent without a
// suspend. It answers ErrExists when the ID is taken.
func (p *Pool) CreateSnap(id, origin uint32) error {
	return p.message(fmt.Sprintf("create_snap %d %d", id, origin))
}

// Delete gives a thin device and the blocks only it uses back. It must be
// inactive. An ID that is not there is no error, so Delete can be repeated.
func (p *Pool) Delete(id uint32) error {
	err := p.message(fmt.Sprintf("delete %d", id))
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}

func (p *Pool) message(msg string) error {
	_, err := p.dm.Message(p.name, msg)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("pool %s: %s: %w", p.name, msg, ErrExists)
	}
	return err
}

// Activate gives thin device id a name and a node; sectors is the size it
// shows, which may be larger than what its origin had. Repeating it with the
// same arguments changes nothing.
func (p *Pool) Activate(ctx context.Context, name string, id uint32, sectors uint64) (string, error) {
	i, err := p.dm.Ensure(ctx, name, "BAYSTREAM-"+name, dm.Target{
		Length: sectors, Type: "thin", Params: fmt.Sprintf("%s %d", p.num, id),
	})
	if err != nil {
		return "", fmt.Errorf("pool %s: activate thin %d: %w", p.name, id, err)
	}
	return i.Node(), nil
}

// Linear maps sectors of a block device under a name of its own and returns
// the node: how partitions of a volume get nodes without a kernel rescan.
func (p *Pool) Linear(ctx context.Context, name, dev string, start, sectors uint64) (string, error) {
	num, err := dm.Number(dev)
	if err != nil {
		return "", err
	}
	i, err := p.dm.Ensure(ctx, name, "BAYSTREAM-"+name, dm.Target{
		Length: sectors, Type: "linear", Params: fmt.Sprintf("%s %d", num, start),
	})
	if err != nil {
		return "", err
	}
	return i.Node(), nil
}

// Deactivate takes the node of a thin or linear device away. A name that is
// not active is no error; one that is open answers dm.ErrBusy after retries.
func (p *Pool) Deactivate(ctx context.Context, name string) error {
	return p.dm.Remove(ctx, name)
}

// Active lists the names of the mapped devices that begin with prefix.
func (p *Pool) Active(prefix string) ([]string, error) {
	all, err := p.dm.List()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range all {
		if strings.HasPrefix(n.Name, prefix) {
			out = append(out, n.Name)
		}
	}
	return out, nil
}

// Status reads the pool's figures without making it commit.
func (p *Pool) Status() (Status, error) {
	t, err := p.dm.Status(p.name, true)
	if err != nil {
		return Status{}, err
	}
	if len(t) != 1 {
		return Status{}, fmt.Errorf("pool %s: status has %d targets, want 1", p.name, len(t))
	}
	s, err := parseStatus(t[0].Params)
	if err != nil {
		return Status{}, fmt.Errorf("pool %s: %w", p.name, err)
	}
	return s, nil
}

// Mapped tells how many bytes of an active thin device are mapped, blocks that
// it shares with its origin included.
func (p *Pool) Mapped(name string) (uint64, error) {
	t, err := p.dm.Status(name, true)
	if err != nil {
		return 0, err
	}
	if len(t) != 1 {
		return 0, fmt.Errorf("thin device %s: status has %d targets, want 1", name, len(t))
	}
	word, _, _ := strings.Cut(t[0].Params, " ")
	n, err := strconv.ParseUint(word, 10, 48)
	if err != nil {
		return 0, fmt.Errorf("thin device %s: status %q: %w", name, t[0].Params, err)
	}
	return n * 512, nil
}

// Sectors tells the size of a block device in 512-byte sectors.
func Sectors(dev string) (uint64, error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", dev, err)
	}
	return uint64(n) / 512, nil
}
