package redfish

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// Event is one thing that changed, as the manager tells it.
type Event struct {
	Time     string `json:"time,omitempty"`
	Severity string `json:"severity,omitempty"`
	Message  string `json:"message"`
	ID       string `json:"messageId"` // "ResourceEvent.1.3.ResourcePoweredOn"
	Origin   string `json:"origin,omitempty"`
}

// Power tells whether the event says that a computer, named by Origin, got or
// lost power.
func (e Event) Power() (p Power, ok bool) {
	switch e.ID[strings.LastIndexByte(e.ID, '.')+1:] {
	case "ResourcePoweredOn":
		return On, true
	case "ResourcePoweredOff":
		return Off, true
	}
	return "", false
}

// Watcher is told what Watch learns. Its methods are called one after the other.
type Watcher interface {
	// Connected is called when a stream begins. Events may have been missed
	// before, so what is known of the frame must be read anew.
	Connected()
	Event(Event)
	// Lost is called when the manager cannot be reached or ended the stream.
	Lost(err error)
}

// Waiting times between attempts; the random part keeps the modules of a frame
// from coming back at the same moment.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Watch listens to the manager's events until ctx ends, which is the only way
// that it returns. The stream is taken up where it ended, if the manager still
// has the events of the time between.
func (c *Client) Watch(ctx context.Context, w Watcher) {
	last, wait := "", firstRetry
	for ctx.Err() == nil {
		err := c.stream(ctx, &last, func() { w.Connected(); wait = firstRetry }, w.Event)
		if ctx.Err() != nil {
			return
		}
		w.Lost(err)
		pause := time.NewTimer(wait/2 + rand.N(wait/2))
		wait = min(2*wait, lastRetry)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// errEnded is a stream that the manager closed in good order.
var errEnded = errors.New("frame manager: ended the stream of events")

// stream follows one stream to its end; last is the id of the last event.
func (c *Client) stream(ctx context.Context, last *string, connected func(), event func(Event)) error {
	var root struct{ EventService reference }
	if err := c.get(ctx, "/redfish/v1/", &root); err != nil {
		return err
	}
	var service struct {
		URI string `json:"ServerSentEventUri"`
	}
	if err := c.get(ctx, root.EventService.ID, &service); err != nil {
		return err
	}
	if service.URI == "" {
		return errors.New("frame manager: its EventService has no ServerSentEventUri: events cannot be followed")
	}
	h := http.Header{"Accept": {"text/event-stream"}}
	if *last != "" {
		h.Set("Last-Event-ID", *last)
	}
	resp, err := c.do(ctx, http.MethodGet, service.URI, h, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	connected()
	return readStream(resp.Body, func(m message) {
		if m.id != "" {
			*last = m.id
		}
		var batch struct {
			Events []struct {
				EventTimestamp, Severity, MessageSeverity, Message, MessageID string // names are matched in any case
				OriginOfCondition                                             reference
			}
		}
		if err := json.Unmarshal(m.data, &batch); err != nil {
			c.cfg.Log.Warn("event of the frame manager", "err", err)
			return
		}
		for _, e := range batch.Events {
			severity := e.MessageSeverity
			if severity == "" {
				severity = e.Severity
			}
			event(Event{Time: e.EventTimestamp, Severity: severity, Message: e.Message, ID: e.MessageID, Origin: e.OriginOfCondition.ID})
		}
	})
}

// message is one of a stream of server-sent events.
type message struct {
	id   string
	data []byte
}

// maxMessage bounds the data of one message, in bytes.
const maxMessage = 1 << 20

// readStream parses server-sent events (WHATWG HTML, section 9.2.6) until the
// stream ends. Comments and fields that we do not use are skipped.
func readStream(r io.Reader, deliver func(message)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxMessage)
	var m message
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if len(m.data) > 0 {
				m.data = m.data[:len(m.data)-1] // the last line break
				deliver(m)
			}
			m = message{id: m.id}
		case field == "data":
			if len(m.data)+len(value) > maxMessage {
				return fmt.Errorf("frame manager: an event has more than %d bytes", maxMessage)
			}
			m.data = append(append(m.data, value...), '\n')
		case field == "id" && !strings.ContainsRune(value, 0):
			m.id = value
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("frame manager: events: %w", err)
	}
	return errEnded
}
