package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeSystem writes down what a shutdown does to it.
type fakeSystem struct {
	trace    []string
	began    time.Time
	procs    int            // others alive
	stubborn syscall.Signal // they die of this one only; 0: of any
	busy     map[string]bool
}

func (f *fakeSystem) note(s string) {
	f.trace = append(f.trace, fmt.Sprintf("%g %s", time.Since(f.began).Seconds(), s))
}

func (f *fakeSystem) killAll(sig syscall.Signal) {
	f.note("kill " + sig.String())
	if f.stubborn == 0 || f.stubborn == sig {
		f.procs = 0
	}
}
func (f *fakeSystem) processes() int            { return f.procs }
func (f *fakeSystem) sync()                     { f.note("sync") }
func (f *fakeSystem) mounts() ([]string, error) { return []string{"/data", "/data/etcd", "/mnt"}, nil }
func (f *fakeSystem) readOnly(d string) error   { f.note("readonly " + d); return nil }
func (f *fakeSystem) reboot(h how) error        { f.note(string(h)); return errors.New("refused") }
func (f *fakeSystem) unmount(d string) error {
	f.note("unmount " + d)
	if f.busy[d] {
		return syscall.EBUSY
	}
	return nil
}

func TestShutdownIsOrderedAndCannotHang(t *testing.T) {
	lim := shutdownLimits{
		services: 60 * time.Second, term: 3 * time.Second, kill: 2 * time.Second,
		sync: 30 * time.Second, unmount: 20 * time.Second, poll: 100 * time.Millisecond,
	}
	for _, tc := range []struct {
		name     string
		sys      fakeSystem
		services time.Duration // that the services take; 0: none
		want     []string
	}{
		{"quiet", fakeSystem{}, 0, []string{"0 down", "0 sync", "0 unmount /mnt", "0 unmount /data/etcd", "0 unmount /data", "0 poweroff"}},
		{
			"left over", fakeSystem{procs: 3}, 2 * time.Second,
			[]string{"2 down", "2 kill terminated", "2 sync", "2 unmount /mnt", "2 unmount /data/etcd", "2 unmount /data", "2 poweroff"},
		},
		{
			"stubborn", fakeSystem{procs: 3, stubborn: syscall.SIGKILL, busy: map[string]bool{"/data": true}}, 0,
			[]string{"0 down", "0 kill terminated", "3 kill killed", "3 sync", "3 unmount /mnt", "3 unmount /data/etcd", "3 unmount /data", "3 readonly /data", "3 poweroff"},
		},
		{
			"immortal", fakeSystem{procs: 3, stubborn: 99}, 0,
			[]string{"0 down", "0 kill terminated", "3 kill killed", "5 sync", "5 unmount /mnt", "5 unmount /data/etcd", "5 unmount /data", "5 poweroff"},
		},
		{
			"services hang", fakeSystem{}, time.Hour,
			[]string{"60 down", "60 sync", "60 unmount /mnt", "60 unmount /data/etcd", "60 unmount /data", "60 poweroff"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.sys.began = time.Now()
				err := shutdown(quiet, &tc.sys, func(ctx context.Context) error {
					select {
					case <-time.After(tc.services):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}, func() { tc.sys.note("down") }, poweroff, lim)
				if err == nil || err.Error() != "refused" {
					t.Errorf("shutdown = %v, want what the kernel said", err)
				}
			})
			if diff := cmp.Diff(tc.want, tc.sys.trace); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBoundedGoesOnWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		release := make(chan struct{})
		began := time.Now()
		bounded(rec.logger(), "sync", 5*time.Second, func() { <-release })
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("took %v, want 5s", took)
		}
		if want := `error: no end in time: going on without part=sync limit=5s`; rec.text() != want {
			t.Errorf("log %q, want %q", rec.text(), want)
		}
		close(release)
	})
}

func TestParseMounts(t *testing.T) {
	const info = `1 1 0:2 / / rw - rootfs rootfs rw
21 1 0:20 / /proc rw,nosuid - proc proc rw
22 1 0:5 / /dev rw - devtmpfs devtmpfs rw
23 1 0:6 / /dev/weird rw - devtmpfs /dev/x rw
30 1 252:1 / /data rw,relatime shared:1 - ext4 /dev/vda1 rw
31 30 252:2 / /data/with\040space rw - vfat /dev/mapper/p rw
32 1 0:40 / /ov rw - overlay overlay rw
broken line
33 1 0:41 / /run rw - tmpfs tmpfs rw
`
	want := []string{"/data", "/data/with space", "/ov"}
	if diff := cmp.Diff(want, parseMounts(info)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := unescape(`a\134b\0`); got != `a\b\0` {
		t.Errorf("unescape = %q", got)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("30 1 252:1 / /data rw,relatime shared:1 - ext4 /dev/vda1 rw\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, d := range parseMounts(s) {
			if d == "/" || d == "" {
				t.Errorf("mount point %q", d)
			}
		}
	})
}

func TestRealSystemSeesThisMachine(t *testing.T) {
	if _, err := os.Stat("/proc/self/mountinfo"); err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	if _, err := (linux{}).mounts(); err != nil {
		t.Error(err)
	}
	if (linux{}).processes() == 0 { // go test itself, if nothing else
		t.Error("no other process")
	}
}
