package main

import (
	"fmt"
	"strings"
	"syscall"
)

// A storedFD is a descriptor that a service left with PID 1 so that its next
// process goes on with it: while a listening socket is here, connections wait
// in its queue instead of being refused.
//
// A service stores one by FDSTORE=1 with FDNAME=, drops all of a name by
// FDSTOREREMOVE=1, and finds them by LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES,
// see sd_pid_notify_with_fds(3) and sd_listen_fds(3).
type storedFD struct {
	name string
	fd   int
}

// fdStore is what one service has stored, the oldest first.
type fdStore struct{ files []storedFD }

// keep takes descriptors up to limit in all; those beyond are closed.
func (s *fdStore) keep(name string, fds []int, limit int) error {
	for i, fd := range fds {
		if len(s.files) >= limit {
			closeAll(fds[i:])
			return fmt.Errorf("keeps no more than %d descriptors: keep_fds in %s", limit, configPath)
		}
		s.files = append(s.files, storedFD{name, fd})
	}
	return nil
}

// drop closes all descriptors of that name.
func (s *fdStore) drop(name string) {
	var left []storedFD
	for _, f := range s.files {
		if f.name == name {
			syscall.Close(f.fd)
			continue
		}
		left = append(left, f)
	}
	s.files = left
}

// listenEnv describes inherited descriptors to a process; LISTEN_PID is added
// by the stub, in the process itself.
func listenEnv(files []storedFD) []string {
	if len(files) == 0 {
		return nil
	}
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	return []string{fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
}
