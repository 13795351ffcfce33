package boot

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"

	"baystream/netcfg"
)

// ErrPoolFull says that each address of the pool has an owner.
var ErrPoolFull = errors.New("no address is left: enlarge the pool or forget servers that are gone")

// Allocate returns the address of key in pool. Taken says who has which; if key
// has one in the pool already, it keeps it. Else the search begins at a place
// that follows from key, so that servers get their old addresses again even
// after the record was lost. The caller records the answer; Allocate does not
// change taken.
func Allocate(pool netcfg.Pool, taken map[netip.Addr]string, key string) (netip.Addr, error) {
	size := pool.Size()
	if size == 0 {
		return netip.Addr{}, fmt.Errorf("boot: pool of the deployment network is empty: %w", ErrPoolFull)
	}
	var own netip.Addr // the lowest, should there be several
	for a, k := range taken {
		if k == key && pool.Contains(a) && (!own.IsValid() || a.Less(own)) {
			own = a
		}
	}
	if own.IsValid() {
		return own, nil
	}
	h := fnv.New32a()
	h.Write([]byte(key))
	start := int(h.Sum32() % uint32(size))
	for i := range size {
		a := pool.At((start + i) % size)
		if _, ok := taken[a]; !ok {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("boot: pool %v: %w", pool, ErrPoolFull)
}
