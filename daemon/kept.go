package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// keptName begins the names under which the service manager keeps our listening
// sockets (FDSTORE of sd_pid_notify_with_fds(3)): while a socket is kept,
// connections wait in its queue for the next daemon and are not refused.
const keptName = "rest-"

// sockets are the listening sockets that outlive this process, by address.
type sockets struct {
	mu     sync.Mutex
	files  map[string]*os.File
	notify func(state string, f *os.File) error // tells the service manager
}

// inheritedFiles are the sockets that this process was started with: ours of
// before, and one that a service manager opened for us.
var inheritedFiles = sync.OnceValues(func() (kept *sockets, other []*os.File) {
	kept = &sockets{files: map[string]*os.File{}, notify: notifyWith}
	for _, f := range activation.Files(true) {
		ln, err := net.FileListener(f)
		if err != nil || !strings.HasPrefix(f.Name(), keptName) {
			other = append(other, f)
		} else {
			kept.files[ln.Addr().String()] = f
		}
		if err == nil {
			ln.Close()
		}
	}
	return kept, other
})

// listen listens at addr: with the socket that was kept, or with a new one that
// is kept from now on. Closing the listener ends that, but not after the end of
// ctx.
func (s *sockets) listen(ctx context.Context, lc net.ListenConfig, network, addr string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[addr]; f != nil {
		if ln, err := net.FileListener(f); err == nil {
			return &keptListener{ln, s, addr, ctx}, nil
		}
		s.forget(addr)
	}
	ln, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return ln, nil // it works, if not over a restart
	}
	if err := s.notify("FDSTORE=1\nFDNAME="+fdName(addr), f); err != nil {
		f.Close()
		return ln, nil
	}
	s.files[addr] = f
	return &keptListener{ln, s, addr, ctx}, nil
}

// forget ends the keeping of a socket; mu is held.
func (s *sockets) forget(addr string) {
	if f := s.files[addr]; f != nil {
		_ = s.notify("FDSTOREREMOVE=1\nFDNAME="+fdName(addr), nil) // without it the socket is closed all the same
		f.Close()
		delete(s.files, addr)
	}
}

// fdName makes a name of an address; a colon cannot be in one.
func fdName(addr string) string { return keptName + strings.ReplaceAll(addr, ":", "_") }

type keptListener struct {
	net.Listener
	sockets *sockets
	addr    string
	ctx     context.Context
}

// Close implements net.Listener.
func (l *keptListener) Close() error {
	if l.ctx.Err() == nil {
		l.sockets.mu.Lock()
		defer l.sockets.mu.Unlock()
		l.sockets.forget(l.addr)
	}
	return l.Listener.Close()
}

// notifyWith sends a state to the service manager, with a descriptor; it is an
// error if there is no such manager.
func notifyWith(state string, f *os.File) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return errors.New("no service manager: NOTIFY_SOCKET is not set")
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(sock)
	send := func(rights []byte) error {
		return unix.Sendmsg(sock, []byte(state), rights, &unix.SockaddrUnix{Name: path}, 0)
	}
	if f == nil {
		return send(nil)
	}
	raw, err := f.SyscallConn() // Fd would make the listener block
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) { sendErr = send(unix.UnixRights(int(fd))) })
	return errors.Join(err, sendErr)
}

// listenKept listens at an address of REST's, with a socket that outlives the
// daemon.
func listenKept(ctx context.Context, lc net.ListenConfig, network, addr string) (net.Listener, error) {
	kept, _ := inheritedFiles()
	return kept.listen(ctx, lc, network, addr)
}
