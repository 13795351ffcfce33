package deploy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/domain"
)

func TestCountDown(t *testing.T) {
	const h = time.Hour
	type left = map[string]time.Duration
	for _, c := range []struct {
		name    string
		left    left
		in      []string
		elapsed time.Duration
		want    left
		over    []string
	}{
		{"new in the trash", nil, []string{"a"}, trashTick, left{"a": TrashTime}, nil},
		{"counted", left{"a": h}, []string{"a"}, trashTick, left{"a": h - trashTick}, nil},
		{"over", left{"a": trashTick, "b": h}, []string{"a", "b"}, trashTick, left{"a": 0, "b": h - trashTick}, []string{"a"}},
		{"restored", left{"a": h}, nil, trashTick, left{}, nil},
		{"clock ten years ahead", left{"a": h}, []string{"a"}, 10 * 365 * 24 * h, left{"a": h - trashStep}, nil},
		{"clock set back", left{"a": h}, []string{"a"}, -24 * h, left{"a": h}, nil},
	} {
		next, over := countDown(c.left, c.in, c.elapsed)
		if d := cmp.Diff(c.want, next); d != "" {
			t.Errorf("%s: left (-want +got):\n%s", c.name, d)
		}
		if d := cmp.Diff(c.over, over); d != "" {
			t.Errorf("%s: over (-want +got):\n%s", c.name, d)
		}
	}
}

func TestTrashIsEmptiedAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var left map[string]time.Duration
		begun := time.Now()
		if err := ticks(ctx, trashTick, func(elapsed time.Duration) {
			var over []string
			if left, over = countDown(left, []string{"a"}, elapsed); len(over) > 0 {
				cancel()
			}
		}); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < TrashTime || took > TrashTime+trashStep {
			t.Errorf("emptied after %v, want %v", took, TrashTime)
		}
	})
}

func TestVolumeTakenFromTheTrashIsNotDestroyed(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	id := volumeOf(b.deploy("web1"))
	if err := b.destroyTrashed(t.Context(), id); domain.KindOf(err) != domain.Conflict || b.storage.volumes[id] == nil {
		t.Errorf("destroy = %v, kept %v; want Conflict, true", err, b.storage.volumes[id] != nil)
	}
}

func TestExpiryFollowsTheClock(t *testing.T) {
	b := newBench(t, "hello @HostName@")
	ctx := t.Context()
	id := volumeOf(b.deploy("web1"))
	fatal(t, b.toTrash(ctx, id))
	_, err := b.state.OSVolumes.Update(ctx, id, func(v *domain.OSVolume) error {
		v.Expires = domain.Stamp(time.Now().Add(-10 * 365 * 24 * time.Hour)) // the clock was wrong then
		return nil
	})
	fatal(t, err)
	fatal(t, b.EmptyTrash(ctx, trashTick))
	v, err := b.state.OSVolumes.Get(ctx, id)
	fatal(t, err)
	at, err := time.Parse(domain.TimeFormat, v.Expires)
	if err != nil || time.Until(at) < TrashTime-time.Hour || b.storage.volumes[id] == nil {
		t.Errorf("expires %s (%v), kept %v; want in a week, true", v.Expires, err, b.storage.volumes[id] != nil)
	}
}
