package pool

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Guard's limits, in percent of the pool's data or metadata space.
const (
	WarnPercent = 70 // a warning is due
	FullPercent = 85 // no new clone
)

// ErrPoolFull says that the pool is too full for another clone or image.
var ErrPoolFull = errors.New("thin pool is too full")

// Status is what the pool says about itself, in bytes.
type Status struct {
	DataUsed, DataTotal uint64
	MetaUsed, MetaTotal uint64
	ReadOnly            bool // metadata cannot be changed
	OutOfSpace          bool
	Failed              bool // no I/O at all
	NeedsCheck          bool // must be repaired before the next activation
}

// DataPercent is the used share of the data space.
func (s Status) DataPercent() float64 { return percent(s.DataUsed, s.DataTotal) }

// MetaPercent is the used share of the metadata space.
func (s Status) MetaPercent() float64 { return percent(s.MetaUsed, s.MetaTotal) }

// Warning is a sentence for the operator when the pool fills up or is damaged,
// empty while all is well.
func (s Status) Warning() string {
	switch {
	case s.Failed:
		return "the thin pool has failed: no volume can be read; see the kernel's log"
	case s.NeedsCheck:
		return "the thin pool's metadata needs a check: restart the appliance, repair with thin_repair"
	case s.ReadOnly:
		return "the thin pool is read-only; see the kernel's log"
	case s.OutOfSpace:
		return "the thin pool is out of space: writes fail; delete OS volumes"
	case s.DataPercent() > WarnPercent || s.MetaPercent() > WarnPercent:
		return fmt.Sprintf("the thin pool is filling up: data %.0f %%, metadata %.0f %%; above %d %% no OS volume can be made",
			s.DataPercent(), s.MetaPercent(), FullPercent)
	}
	return ""
}

// Guard decides whether a pool in this state may take a new clone or, with
// need > 0, that many bytes more. The error is ErrPoolFull with the figures
// and the remedy.
func (s Status) Guard(need uint64) error {
	switch {
	case s.Failed || s.NeedsCheck || s.ReadOnly:
		return fmt.Errorf("%s", s.Warning())
	case s.DataPercent() > FullPercent || s.MetaPercent() > FullPercent || s.OutOfSpace:
		return fmt.Errorf("%w: data %.1f %% of %s, metadata %.1f %% of %s used, limit %d %%: delete OS volumes or golden images, or enlarge the data disk",
			ErrPoolFull, s.DataPercent(), size(s.DataTotal), s.MetaPercent(), size(s.MetaTotal), FullPercent)
	case need > s.Free():
		return fmt.Errorf("%w: %s needed, %s of %s free below the limit of %d %%: delete OS volumes or golden images, or enlarge the data disk",
			ErrPoolFull, size(need), size(s.Free()), size(s.DataTotal), FullPercent)
	}
	return nil
}

// Free is the data space in bytes that can be used before Guard refuses.
func (s Status) Free() uint64 {
	limit := s.DataTotal / 100 * FullPercent
	if s.DataUsed >= limit {
		return 0
	}
	return limit - s.DataUsed
}

func percent(used, total uint64) float64 {
	if total == 0 {
		return 0
	}
	return 100 * float64(used) / float64(total)
}

func size(n uint64) string {
	const unit = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(unit)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, unit[i])
}

// lowWater is the number of free blocks below which the kernel raises an
// event: 15 % of the pool, where Guard begins to refuse.
func lowWater(sectors uint64) uint64 { return sectors / BlockSectors * (100 - FullPercent) / 100 }

// parseStatus reads the thin-pool target's status line:
//
//	<transaction> <used>/<total meta> <used>/<total data> <held root> ro|rw|out_of_data_space
//	[no_]discard_passdown error_if_no_space|queue_if_no_space needs_check|- <meta low water>
func parseStatus(line string) (Status, error) {
	f := strings.Fields(line)
	if len(f) >= 1 && (f[0] == "Fail" || f[0] == "Error") {
		return Status{Failed: true}, nil
	}
	if len(f) < 5 {
		return Status{}, fmt.Errorf("status %q: want at least 5 words", line)
	}
	var s Status
	var err1, err2 error
	s.MetaUsed, s.MetaTotal, err1 = ratio(f[1], 4096) // metadata blocks are 4 KiB
	s.DataUsed, s.DataTotal, err2 = ratio(f[2], BlockSize)
	if err := errors.Join(err1, err2); err != nil {
		return Status{}, fmt.Errorf("status %q: %w", line, err)
	}
	for _, w := range f[4:] {
		switch w {
		case "ro":
			s.ReadOnly = true
		case "out_of_data_space":
			s.OutOfSpace = true
		case "needs_check":
			s.NeedsCheck = true
		}
	}
	return s, nil
}

func ratio(s string, unit uint64) (used, total uint64, err error) {
	a, b, ok := strings.Cut(s, "/")
	if !ok {
		return 0, 0, fmt.Errorf("%q is not used/total", s)
	}
	used, err1 := strconv.ParseUint(a, 10, 48)
	total, err2 := strconv.ParseUint(b, 10, 48)
	return used * unit, total * unit, errors.Join(err1, err2)
}
