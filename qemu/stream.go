package qemu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Listen adds a port that waits on a unix socket for QEMU's
// `-netdev stream,server=off`: each frame is led by its length, 4 bytes
// big-endian. The listener outlives the VM, as QEMU 7.2 connects once, at its
// start, and never again; a new connection replaces the old one.
func (s *Switch) Listen(path string, cfg PortConfig) (*Port, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("network %s: port %s: %w", s.name, cfg.Name, err)
	}
	st := &streamPort{}
	p, err := s.Attach(cfg, st.deliver)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s.mu.Lock()
	p.undelivered = func() {
		l.Close()
		st.replace(nil)
	}
	s.mu.Unlock()
	p.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			st.replace(conn)
			p.announce()
			p.wg.Go(func() {
				if err := receive(conn, p.Send); err != nil {
					s.log.Warn("port", "network", s.name, "port", cfg.Name, "err", err)
				}
				st.drop(conn)
			})
		}
	})
	return p, nil
}

// receive reads frames until the peer goes away, which is no error: a VM may
// end at any byte.
func receive(conn net.Conn, send func([]byte)) error {
	r := bufio.NewReaderSize(conn, 1<<17)
	frame := make([]byte, maxFrame)
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			conn.Close()
			return fmt.Errorf("frame of %d bytes: longer than %d, the stream is out of step", n, maxFrame)
		}
		if _, err := io.ReadFull(r, frame[:n]); err != nil {
			return nil
		}
		send(frame[:n])
	}
}

type streamPort struct {
	mu   sync.Mutex
	conn net.Conn
	end  bool
}

func (st *streamPort) replace(conn net.Conn) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.conn != nil {
		st.conn.Close()
	}
	if st.end && conn != nil {
		conn.Close()
		return
	}
	st.conn, st.end = conn, conn == nil
}

func (st *streamPort) drop(conn net.Conn) {
	st.mu.Lock()
	defer st.mu.Unlock()
	conn.Close()
	if st.conn == conn {
		st.conn = nil
	}
}

// deliver writes to the VM. A VM that is off or paused loses frames: a paused
// one blocks here until the port's queue is full.
func (st *streamPort) deliver(frame []byte) {
	st.mu.Lock()
	conn := st.conn
	st.mu.Unlock()
	if conn == nil {
		return
	}
	head := binary.BigEndian.AppendUint32(make([]byte, 0, 4), uint32(len(frame)))
	bufs := net.Buffers{head, frame}
	bufs.WriteTo(conn) // an error means that the VM is gone; receive notices too
}
