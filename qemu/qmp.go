package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// ErrQMPClosed means that the VM's process ended, or ends.
var ErrQMPClosed = errors.New("QMP connection closed")

// A QMP is a connection to a VM's machine protocol (QEMU, docs/interop/qmp-spec).
type QMP struct {
	conn   net.Conn
	events chan Event
	closed chan struct{}

	mu      sync.Mutex
	nextID  int
	waiting map[int]chan qmpReply
}

// An Event is what a VM reports by itself: RESET, SHUTDOWN, STOP...
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

type qmpReply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID int `json:"id"`
	Event
}

// NewQMP greets the VM behind conn, which it takes over. onEvent, if not nil,
// is called for each event, one at a time.
func NewQMP(ctx context.Context, conn net.Conn, onEvent func(Event)) (*QMP, error) {
	q := &QMP{conn: conn, events: make(chan Event, 64), closed: make(chan struct{}), waiting: map[int]chan qmpReply{}}
	go q.read(onEvent)
	if err := q.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

func (q *QMP) read(onEvent func(Event)) {
	defer close(q.closed)
	defer q.conn.Close()
	dec := json.NewDecoder(bufio.NewReader(q.conn))
	for {
		var r qmpReply
		if err := dec.Decode(&r); err != nil {
			return
		}
		if r.Event.Name != "" {
			if onEvent != nil {
				onEvent(r.Event)
			}
			select {
			case q.events <- r.Event:
			default: // nobody listens
			}
			continue
		}
		q.mu.Lock()
		reply := q.waiting[r.ID]
		delete(q.waiting, r.ID)
		q.mu.Unlock()
		if reply != nil {
			reply <- r
		}
	}
}

// Events gives the VM's events. Those that find 64 unread ones are dropped.
func (q *QMP) Events() <-chan Event { return q.events }

// Do executes a command and decodes its answer into out, unless out is nil.
func (q *QMP) Do(ctx context.Context, command string, args map[string]any, out any) error {
	reply := make(chan qmpReply, 1)
	q.mu.Lock()
	q.nextID++
	msg := map[string]any{"execute": command, "id": q.nextID}
	if args != nil {
		msg["arguments"] = args
	}
	q.waiting[q.nextID] = reply
	err := json.NewEncoder(q.conn).Encode(msg)
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("qmp %s: %w: %w", command, ErrQMPClosed, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, ctx.Err())
	case <-q.closed:
		return fmt.Errorf("qmp %s: %w", command, ErrQMPClosed)
	case r := <-reply:
		if r.Error != nil {
			return fmt.Errorf("qmp %s: %s: %s", command, r.Error.Class, r.Error.Desc)
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(r.Return, out); err != nil {
			return fmt.Errorf("qmp %s: answer: %w", command, err)
		}
		return nil
	}
}

// Close ends the connection; the VM stays.
func (q *QMP) Close() error {
	err := q.conn.Close()
	<-q.closed
	return err
}
