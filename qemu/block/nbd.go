package block

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Numbers of the protocol (NBD, doc/proto.md).
const (
	magicInit    = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption  = 0x49484156454f5054 // "IHAVEOPT"
	magicAnswer  = 0x0003e889045565a9
	magicRequest = 0x25609513
	magicReply   = 0x67446698

	flagFixedNewstyle = 1
	flagNoZeroes      = 2

	optExportName = 1
	optAbort      = 2
	optInfo       = 6
	optGo         = 7

	repAck     = 1
	repInfo    = 3
	repUnsup   = 1<<31 + 1
	infoExport = 0
	infoSizes  = 3

	// has flags; flush, FUA, trim, write zeroes, more than one connection
	transmissionFlags = 1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<8

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6

	cmdFlagFUA = 1

	errIO    = 5
	errInval = 22
	errSpace = 28

	maxPayload = 32 << 20
	maxOption  = 64 << 10
	inFlight   = 64 // requests served at once per connection
)

// Serve answers NBD clients on a listener until it is closed.
func (d *Drive) Serve(l net.Listener, failed func(error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		d.busy(1)
		wg.Go(func() {
			defer d.busy(-1)
			defer conn.Close()
			if err := d.serve(conn); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
				failed(fmt.Errorf("nbd: %w", err))
			}
		})
	}
}

func (d *Drive) busy(change int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients += change
	if d.clients == 0 && d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
}

// WaitIdle waits until all clients have left and their requests are done.
func (d *Drive) WaitIdle() {
	d.mu.Lock()
	if d.clients == 0 {
		d.mu.Unlock()
		return
	}
	if d.idle == nil {
		d.idle = make(chan struct{})
	}
	idle := d.idle
	d.mu.Unlock()
	<-idle
}

func (d *Drive) serve(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, 256<<10)
	if ok, err := d.negotiate(r, conn); err != nil || !ok {
		return err
	}
	return d.transmit(r, conn)
}

// negotiate greets a client and answers its options until it wants to begin.
func (d *Drive) negotiate(r io.Reader, w io.Writer) (begin bool, err error) {
	hello := binary.BigEndian.AppendUint64(nil, magicInit)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := w.Write(hello); err != nil {
		return false, err
	}
	var clientFlags [4]byte
	if _, err := io.ReadFull(r, clientFlags[:]); err != nil {
		return false, err
	}
	for {
		var head struct {
			Magic        uint64
			Option, Size uint32
		}
		if err := binary.Read(r, binary.BigEndian, &head); err != nil {
			return false, err
		}
		if head.Magic != magicOption || head.Size > maxOption {
			return false, fmt.Errorf("option %d of %d bytes with magic %#x: not the protocol", head.Option, head.Size, head.Magic)
		}
		if _, err := io.CopyN(io.Discard, r, int64(head.Size)); err != nil { // there is one export, whatever its name
			return false, err
		}
		answer := func(kind uint32, data []byte) error {
			b := binary.BigEndian.AppendUint64(nil, magicAnswer)
			for _, v := range []uint32{head.Option, kind, uint32(len(data))} {
				b = binary.BigEndian.AppendUint32(b, v)
			}
			_, err := w.Write(append(b, data...))
			return err
		}
		switch head.Option {
		case optExportName:
			b := d.export(nil)
			if clientFlags[3]&flagNoZeroes == 0 {
				b = append(b, make([]byte, 124)...)
			}
			_, err := w.Write(b)
			return err == nil, err
		case optInfo, optGo:
			sizes := binary.BigEndian.AppendUint16(nil, infoSizes)
			for _, v := range []uint32{Sector, 4096, maxPayload} {
				sizes = binary.BigEndian.AppendUint32(sizes, v)
			}
			err := errors.Join(answer(repInfo, d.export(binary.BigEndian.AppendUint16(nil, infoExport))), answer(repInfo, sizes), answer(repAck, nil))
			if err != nil || head.Option == optGo {
				return err == nil, err
			}
		case optAbort:
			return false, answer(repAck, nil)
		default:
			if err := answer(repUnsup, nil); err != nil {
				return false, err
			}
		}
	}
}

func (d *Drive) export(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(d.size))
	return binary.BigEndian.AppendUint16(b, transmissionFlags)
}

// A request of the transmission phase.
type request struct {
	flags, kind uint16
	handle      uint64
	at          int64
	n           int
	data        []byte // of a write
}

func readRequest(r io.Reader) (q request, err error) {
	var b [28]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return q, err
	}
	if m := binary.BigEndian.Uint32(b[:]); m != magicRequest {
		return q, fmt.Errorf("request with magic %#x: the stream is out of step", m)
	}
	q.flags, q.kind = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	q.handle, q.at = binary.BigEndian.Uint64(b[8:]), int64(binary.BigEndian.Uint64(b[16:]))
	n := binary.BigEndian.Uint32(b[24:])
	if n > maxPayload && (q.kind == cmdRead || q.kind == cmdWrite) {
		return q, fmt.Errorf("request of %d bytes: more than %d", n, maxPayload)
	}
	q.n = int(n)
	if q.kind == cmdWrite {
		q.data = make([]byte, n)
		_, err = io.ReadFull(r, q.data)
	}
	return q, err
}

// transmit serves requests, several at once, until the client leaves.
func (d *Drive) transmit(r io.Reader, w io.Writer) error {
	var writing sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, inFlight)
	for {
		q, err := readRequest(r)
		if err != nil || q.kind == cmdDisconnect {
			return err
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			head := make([]byte, 16, 16+4096)
			data, code := d.do(q)
			binary.BigEndian.PutUint32(head, magicReply)
			binary.BigEndian.PutUint32(head[4:], code)
			binary.BigEndian.PutUint64(head[8:], q.handle)
			writing.Lock()
			defer writing.Unlock()
			bufs := net.Buffers{head, data}
			bufs.WriteTo(w) // an error means that the client is gone: the reader notices
		})
	}
}

func (d *Drive) do(q request) (data []byte, code uint32) {
	var err error
	switch q.kind {
	case cmdRead:
		data = make([]byte, q.n)
		_, err = d.ReadAt(data, q.at)
	case cmdWrite:
		if q.flags&cmdFlagFUA != 0 {
			_, err = d.WriteThrough(q.data, q.at)
		} else {
			_, err = d.WriteAt(q.data, q.at)
		}
	case cmdFlush:
		err = d.Flush()
	case cmdTrim:
		err = d.Trim(q.at, q.n)
	case cmdWriteZeroes:
		if err = d.Zero(q.at, q.n); err == nil && q.flags&cmdFlagFUA != 0 {
			err = d.Flush()
		}
	default:
		return nil, errInval
	}
	switch {
	case err == nil:
		return data, 0
	case errors.Is(err, ErrFull):
		return nil, errSpace
	case errors.Is(err, ErrRange):
		return nil, errInval
	}
	return nil, errIO
}
