package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// TFTP, RFC 1350, read-only, with the options of RFC 2347: blksize (2348),
// tsize and timeout (2349). Windows (7440) are left out, as RFC 2347 allows.
const (
	opRRQ   = 1
	opWRQ   = 2
	opDATA  = 3
	opACK   = 4
	opERROR = 5
	opOACK  = 6

	errNotDefined = 0
	errNotFound   = 1
	errAccess     = 2
	errIllegal    = 4
	errUnknownTID = 5

	defaultBlock = 512
	minBlock     = 8
	maxBlock     = 65464
	maxTransfers = 64
	maxTries     = 6
)

// A tftpServer sends files of one folder.
type tftpServer struct {
	files    fs.FS
	log      *slog.Logger
	maxBlock int           // bytes; larger ones would be sent in fragments
	retry    time.Duration // until the first repetition, unless the client says
	// listen opens the socket of one transfer.
	listen func() (net.PacketConn, error)

	mu     sync.Mutex
	active map[netip.AddrPort]bool // clients repeat a request that was heard
}

func (s *Service) serveTFTP(ctx context.Context, conn net.PacketConn) error {
	mtu := s.cfg.MTU
	if mtu == 0 {
		mtu = 1500
	}
	t := &tftpServer{
		files:    s.cfg.Files,
		log:      s.log,
		maxBlock: min(mtu-20-8-4, maxBlock),
		retry:    time.Second,
		listen: func() (net.PacketConn, error) {
			return s.listenUDP(ctx, 0)
		},
	}
	return t.serve(ctx, conn)
}

// serve answers requests until conn is closed, and then ends all transfers.
func (t *tftpServer) serve(ctx context.Context, conn net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	t.active = map[netip.AddrPort]bool{}
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		peer := from.(*net.UDPAddr).AddrPort()
		req, err := parseRequest(buf[:n])
		if err != nil {
			if n >= 2 && buf[1] != opERROR { // never answer an error with one
				conn.WriteTo(tftpError(errIllegal, err.Error()), from)
			}
			continue
		}
		if !t.begin(peer) {
			continue
		}
		c, err := t.listen()
		if err != nil {
			t.end(peer)
			t.log.Warn("tftp transfer", "peer", peer, "err", err)
			continue
		}
		wg.Go(func() {
			defer t.end(peer)
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			x := transfer{conn: c, peer: peer, retry: t.retry}
			size, err := x.send(t.files, req, t.maxBlock)
			t.log.Debug("tftp transfer", "peer", peer, "file", req.file, "bytes", size, "err", err)
		})
	}
}

// begin says whether a transfer to peer may start. It may not when there is one
// already or when there are too many; the client asks again.
func (t *tftpServer) begin(peer netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.active[peer] || len(t.active) >= maxTransfers {
		return false
	}
	t.active[peer] = true
	return true
}

func (t *tftpServer) end(peer netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.active, peer)
}

// A tftpRequest is a read or write request.
type tftpRequest struct {
	op      byte
	file    string // below the folder, without leading slash
	options map[string]string
}

// parseRequest reads a request. Option names are returned in lower case.
func parseRequest(b []byte) (tftpRequest, error) {
	if len(b) < 4 || b[0] != 0 || b[1] != opRRQ && b[1] != opWRQ {
		return tftpRequest{}, errors.New("not a request")
	}
	if b[len(b)-1] != 0 {
		return tftpRequest{}, errors.New("request is cut short")
	}
	f := strings.Split(string(b[2:len(b)-1]), "\x00")
	if len(f) < 2 {
		return tftpRequest{}, errors.New("request without mode")
	}
	if mode := strings.ToLower(f[1]); mode != "octet" && mode != "binary" {
		return tftpRequest{}, fmt.Errorf("mode %.20q: only octet", f[1])
	}
	// Windows firmware uses backslashes.
	name := strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(f[0], `\`, "/")), "/")
	req := tftpRequest{op: b[1], file: name, options: map[string]string{}}
	for o := f[2:]; len(o) >= 2; o = o[2:] {
		req.options[strings.ToLower(o[0])] = o[1]
	}
	return req, nil
}

// negotiate answers the options that we know (RFC 2347: others are left out).
func negotiate(options map[string]string, size int64, biggest int) (block int, timeout time.Duration, ack [][2]string) {
	block = defaultBlock
	if n, err := strconv.Atoi(options["blksize"]); err == nil && n >= minBlock && n <= maxBlock {
		block = min(n, max(biggest, minBlock))
		ack = append(ack, [2]string{"blksize", strconv.Itoa(block)})
	}
	if _, ok := options["tsize"]; ok {
		ack = append(ack, [2]string{"tsize", strconv.FormatInt(size, 10)})
	}
	if n, err := strconv.Atoi(options["timeout"]); err == nil && n >= 1 && n <= 255 {
		timeout = time.Duration(n) * time.Second
		ack = append(ack, [2]string{"timeout", strconv.Itoa(n)})
	}
	return block, timeout, ack
}

// A transfer sends one file to one client.
type transfer struct {
	conn  net.PacketConn
	peer  netip.AddrPort
	retry time.Duration
}

var errAborted = errors.New("client ended the transfer")

// send carries a request out and returns the bytes acknowledged.
func (x *transfer) send(files fs.FS, req tftpRequest, biggest int) (int64, error) {
	if req.op == opWRQ {
		return 0, x.refuse(errAccess, errors.New("read only"))
	}
	f, size, err := openFile(files, req.file)
	if err != nil {
		return 0, x.refuse(errNotFound, err)
	}
	defer f.Close()
	block, timeout, ack := negotiate(req.options, size, biggest)
	if timeout != 0 {
		x.retry = timeout
	}
	if len(ack) > 0 {
		if err := x.exchange(oack(ack), 0); err != nil {
			return 0, err
		}
	}
	var sent int64
	buf := make([]byte, 4+block)
	for n := uint16(1); ; n++ { // wraps in files above 65535 blocks, as all do
		got, err := io.ReadFull(f, buf[4:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return sent, x.refuse(errNotDefined, err)
		}
		binary.BigEndian.PutUint16(buf, opDATA)
		binary.BigEndian.PutUint16(buf[2:], n)
		if err := x.exchange(buf[:4+got], n); err != nil {
			return sent, err
		}
		sent += int64(got)
		if got < block {
			return sent, nil
		}
	}
}

func openFile(files fs.FS, name string) (fs.File, int64, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a file", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// refuse tells the client and returns err.
func (x *transfer) refuse(code uint16, err error) error {
	x.conn.WriteTo(tftpError(code, err.Error()), net.UDPAddrFromAddrPort(x.peer))
	return err
}

// exchange sends p until block is acknowledged. An old acknowledgement is not
// answered: both sides would repeat everything from then on.
func (x *transfer) exchange(p []byte, block uint16) error {
	wait := x.retry
	for range maxTries {
		if _, err := x.conn.WriteTo(p, net.UDPAddrFromAddrPort(x.peer)); err != nil {
			return err
		}
		err := x.await(block, time.Now().Add(wait))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			return err
		}
		wait = min(2*wait, max(8*time.Second, x.retry))
	}
	return fmt.Errorf("block %d: no acknowledgement", block)
}

func (x *transfer) await(block uint16, deadline time.Time) error {
	if err := x.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	buf := make([]byte, 600)
	for {
		n, from, err := x.conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if from.(*net.UDPAddr).AddrPort() != x.peer {
			x.conn.WriteTo(tftpError(errUnknownTID, "not your transfer"), from)
			continue
		}
		if n < 4 || buf[0] != 0 {
			continue
		}
		switch {
		case buf[1] == opERROR:
			return errAborted
		case buf[1] == opACK && binary.BigEndian.Uint16(buf[2:]) == block:
			return nil
		}
	}
}

func oack(options [][2]string) []byte {
	b := []byte{0, opOACK}
	for _, o := range options {
		b = append(append(b, o[0]...), 0)
		b = append(append(b, o[1]...), 0)
	}
	return b
}

func tftpError(code uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opERROR}, code)
	return append(append(b, bytes.ReplaceAll([]byte(text), []byte{0}, nil)...), 0)
}
