package manager

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	keepEvents    = 256 // for listeners that come back with Last-Event-ID
	listenerQueue = 64
	keepAlive     = 5 * time.Second
	peerRetry     = time.Second
)

// An Event says what changed (DSP0266 section 13.6, schema Event).
type Event struct {
	Type      string `json:"EventType"`
	ID        string `json:"EventId"`
	Time      string `json:"EventTimestamp"`
	Severity  string `json:"Severity"`
	Message   string `json:"Message"`
	MessageID string `json:"MessageId"`
	Args      []any  `json:"MessageArgs"`
	Origin    object `json:"OriginOfCondition"`
}

// Message ids of the registry ResourceEvent that a manager sends.
const (
	registry         = "ResourceEvent.1.3."
	poweredOn        = registry + "ResourcePoweredOn"
	poweredOff       = registry + "ResourcePoweredOff"
	changed          = registry + "ResourceChanged"
	statusOK         = registry + "ResourceStatusChangedOK"
	statusCritical   = registry + "ResourceStatusChangedCritical"
	eventServicePath = "/EventService"
)

// PowerChanged tells listeners that a bay's module has power or has lost it.
func (m *Manager) PowerChanged(location string, on bool) {
	for _, b := range m.all() {
		if b.Location != location || b.Module == nil {
			continue
		}
		id, word := poweredOff, "off"
		if on {
			id, word = poweredOn, "on"
		}
		m.announce(id, "OK", fmt.Sprintf("The module in %s of frame %s is powered %s.", location, m.cfg.Frame, word), "/Systems/"+b.Serial, b.Serial)
	}
}

// Changed tells listeners that something else about a bay's module is new, such
// as a disk that was plugged in.
func (m *Manager) Changed(location, what string) {
	for _, b := range m.all() {
		if b.Location == location {
			m.announce(changed, "OK", fmt.Sprintf("%s of frame %s: %s", location, m.cfg.Frame, what), "/Chassis/"+m.chassisID(b), what)
		}
	}
}

func (m *Manager) announce(id, severity, message, origin string, args ...any) {
	m.events.publish(m.cfg.Frame, Event{Type: "Alert", Time: time.Now().UTC().Format(time.RFC3339Nano), Severity: severity,
		Message: message, MessageID: id, Args: args, Origin: link(origin)})
}

// events is what happened lately, and who listens.
type events struct {
	mu        sync.Mutex
	last      int
	recent    []published
	listeners map[chan published]bool
}

type published struct {
	id    int
	frame string // that it is of
	data  []byte // one line of JSON
}

func newEvents() *events { return &events{listeners: map[chan published]bool{}} }

func (e *events) publish(frame string, ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	ev.ID = strconv.Itoa(e.last)
	data, err := json.Marshal(object{"@odata.type": "#Event.v1_7_0.Event", "Id": ev.ID, "Name": "Event", "Events": []Event{ev}})
	if err != nil {
		return // strings cannot fail
	}
	p := published{e.last, frame, data}
	e.recent = append(e.recent, p)
	if len(e.recent) > keepEvents {
		e.recent = e.recent[1:]
	}
	for l := range e.listeners {
		select {
		case l <- p:
		default: // too slow: it is sent away, and comes back with Last-Event-ID
			delete(e.listeners, l)
			close(l)
		}
	}
}

// listen returns what happened after an event, and what happens from now on.
func (e *events) listen(after int) ([]published, chan published) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := make(chan published, listenerQueue)
	e.listeners[l] = true
	var missed []published
	for _, p := range e.recent {
		if after >= 0 && p.id > after {
			missed = append(missed, p)
		}
	}
	return missed, l
}

func (e *events) leave(l chan published) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.listeners, l)
}

func (m *Manager) getEventService(w http.ResponseWriter, _ *http.Request) {
	send(w, resource(eventServicePath, "EventService.v1_7_0.EventService", "Events", object{
		"ServiceEnabled": true, "ServerSentEventUri": root + eventServicePath + "/SSE", "RegistryPrefixes": []string{"ResourceEvent"},
		"Status": object{"State": "Enabled", "Health": "OK"}}))
}

// getEvents streams events (HTML, server-sent events) until the client leaves.
// A linked frame's manager hears of this frame only, so that no event goes
// round in circles.
func (m *Manager) getEvents(w http.ResponseWriter, r *http.Request) {
	after := -1
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		if n, err := strconv.Atoi(last); err == nil {
			after = n
		}
	}
	role, _ := m.authenticate(r)
	missed, live := m.events.listen(after)
	defer m.events.leave(live)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	write := func(p published) {
		if role != peerRole || p.frame == m.cfg.Frame {
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", p.id, p.data)
		}
	}
	fmt.Fprint(w, ": connected\n\n")
	for _, p := range missed {
		write(p)
	}
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case p, ok := <-live:
			if !ok {
				return
			}
			write(p)
		case <-alive.C:
			fmt.Fprint(w, ": alive\n\n")
		}
	}
}

// follow passes the events of a linked frame on, and says when its manager
// cannot be reached any more.
func (m *Manager) follow(p Peer) {
	reachable, first := false, true
	last := ""
	for m.ctx.Err() == nil {
		lost := func() {
			if reachable || first {
				m.announce(statusCritical, "Critical", "The manager of frame "+p.Frame+" cannot be reached.", "/Managers/"+p.Frame, p.Frame, "Critical")
			}
			reachable, first = false, false
		}
		resp, err := m.ask(p, eventServicePath+"/SSE", last)
		if err == nil {
			if !reachable && !first {
				m.announce(statusOK, "OK", "The manager of frame "+p.Frame+" can be reached.", "/Managers/"+p.Frame, p.Frame, "OK")
			}
			reachable, first = true, false
			last = m.relay(p, resp, last)
			resp.Body.Close()
		}
		if m.ctx.Err() != nil {
			return
		}
		lost()
		select {
		case <-m.ctx.Done():
		case <-time.After(peerRetry):
		}
	}
}

// ask sends a GET to a linked frame's manager.
func (m *Manager) ask(p Peer, path, lastEvent string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(m.ctx, http.MethodGet, p.URL+root+path, nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(p.User, p.Pass)
	if lastEvent != "" {
		req.Header.Set("Last-Event-ID", lastEvent)
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("manager of %s: %s", p.Frame, resp.Status)
	}
	return resp, nil
}

// relay publishes a stream's events until it ends, or says nothing for so long
// that the link must be cut. It returns the last event's id.
func (m *Manager) relay(p Peer, resp *http.Response, last string) string {
	silence := time.AfterFunc(3*keepAlive, func() { resp.Body.Close() })
	defer silence.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		silence.Reset(3 * keepAlive)
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			last = id
		}
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var in struct{ Events []Event }
		if err := json.Unmarshal(data, &in); err != nil {
			m.cfg.Log.Warn("manager: event of a linked frame", "frame", p.Frame, "err", err)
			continue
		}
		for _, e := range in.Events {
			m.events.publish(p.Frame, e)
		}
	}
	return last
}

// withPeers adds the members that linked frames have to a collection. A frame
// that cannot be reached has its own line only.
func (m *Manager) withPeers(r *http.Request, path string, mine []string) []string {
	if role, _ := m.authenticate(r); role == peerRole {
		return mine
	}
	peers := m.linked()
	parts := make([][]string, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() {
			resp, err := m.ask(p, path, "")
			if err != nil {
				if path != "/Systems" {
					parts[i] = []string{path + "/" + p.Frame}
				}
				return
			}
			defer resp.Body.Close()
			var in struct {
				Members []struct {
					ID string `json:"@odata.id"`
				}
			}
			if err := json.NewDecoder(resp.Body).Decode(&in); err != nil {
				m.cfg.Log.Warn("manager: collection of a linked frame", "frame", p.Frame, "err", err)
			}
			for _, e := range in.Members {
				parts[i] = append(parts[i], strings.TrimPrefix(e.ID, root))
			}
		})
	}
	wg.Wait()
	for _, part := range parts {
		mine = append(mine, part...)
	}
	return mine
}
