package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"baystream/image"
	"baystream/qemu"
)

const smallPoolBytes = 48 << 20

// smallPool gives the appliance a data disk that it finds partitioned, with a
// pool that is soon full.
func smallPool(t testing.TB) qemu.Option {
	t.Helper()
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, nil, 0o600))
	part := func(name string, size int64) image.Partition {
		return image.Partition{Name: name, Type: image.TypeLinux, Image: empty, Size: size}
	}
	return func(c *qemu.Config) {
		must(t, image.WriteDisk(filepath.Join(c.Dir, "appliance1.data.raw"), image.Disk{Name: "small pool", Partitions: []image.Partition{
			part("baystream-local", 1<<30), part("baystream-pool-meta", 16<<20), part("baystream-pool-data", smallPoolBytes),
		}}))
	}
}

// fullPool fills the pool of an appliance with a smallPool beyond its limit: it
// takes no further server, and says so in figures, with what to do.
func (s *site) fullPool(t *testing.T) {
	ctx := qemu.Context(t, time.Minute)
	s.waitHealth(t, ctx)
	var pool struct {
		Total int64 `json:"dataBytes"`
		Used  int64 `json:"dataUsed"`
	}
	must(t, s.REST().Get(ctx, "/rest/baystream/storage", &pool))
	const block = 64 << 10 // the pool's
	size := (pool.Total*85/100/block-2)*block - pool.Used
	file := filepath.Join(t.TempDir(), "big.raw.zst")
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed)
	must(t, err)
	for chunk := bytes.Repeat([]byte{0xa5}, block); size > 0; size -= block {
		_, err := w.Write(chunk)
		must(t, err)
	}
	must(t, w.Close())
	must(t, os.WriteFile(file, packed.Bytes(), 0o600))
	golden, err := s.upload(t, "/rest/golden-images", "big", file)
	must(t, err)
	plan := s.scriptPlan(t, "big", "# nothing\n", golden.Resource.URI)

	const enough = 20 // each clone takes its share for DRBD's metadata
	for n := 1; n <= enough; n++ {
		_, err = s.REST().Run(ctx, "POST", "/rest/server-profiles", profile(fmt.Sprintf("big-%d", n), s.registerAbsent(t, n), plan, nil), nil)
		if err != nil {
			break
		}
	}
	var refused *qemu.RESTError
	if !errors.As(err, &refused) {
		must(t, s.REST().Get(ctx, "/rest/baystream/storage", &pool))
		t.Fatalf("a pool of %d bytes with %d used: %v, want a refusal", pool.Total, pool.Used, err)
	}
	if refused.Status != http.StatusInsufficientStorage || refused.Code != "BAYSTREAM_NO_ROOM" ||
		!strings.Contains(refused.Message, "limit 85 %") || len(refused.Recommended) == 0 {
		t.Errorf("refused with %v, want the figures and what to do", refused)
	}
}
