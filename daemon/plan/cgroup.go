package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup bounds a sandbox as a whole. Where cgroup v2 is not mounted, or has
// not these controllers, the limits inside the sandbox must do; dir is "" then.
type cgroup struct {
	dir    string
	file   *os.File
	memory int64
}

const cgroupRoot = "/sys/fs/cgroup"

// maxPids is how many threads a sandbox may have.
const maxPids = 256

func newCgroup(l Limits) *cgroup {
	g := &cgroup{memory: l.Memory + l.Scratch + 64<<20} // the sandbox itself takes some
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return g
	}
	for _, c := range []string{"+memory", "+pids"} {
		_ = os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte(c), 0) // the kernel may lack it
	}
	dir, err := os.MkdirTemp(cgroupRoot, "baystream-plan-")
	if err != nil {
		return g
	}
	g.dir = dir
	for file, v := range map[string]int64{"memory.max": g.memory, "memory.swap.max": 0, "memory.oom.group": 1, "pids.max": maxPids} {
		_ = os.WriteFile(filepath.Join(dir, file), strconv.AppendInt(nil, v, 10), 0)
	}
	if g.file, err = os.Open(dir); err != nil {
		g.remove()
	}
	return g
}

// use makes a process start inside.
func (g *cgroup) use(attr *syscall.SysProcAttr) {
	if g.file != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.file.Fd())
	}
}

// outOfMemory tells whether the kernel killed for the memory limit.
func (g *cgroup) outOfMemory() bool {
	events, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if g.dir == "" || err != nil {
		return false
	}
	for _, line := range strings.Split(string(events), "\n") {
		var n int
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// remove kills what is left inside and removes the group.
func (g *cgroup) remove() {
	if g.dir == "" {
		return
	}
	if g.file != nil {
		g.file.Close()
	}
	_ = os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
	for range 200 { // members leave as they are reaped
		if err := unix.Rmdir(g.dir); err != unix.EBUSY {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.dir = ""
}
