package group

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"baystream/daemon/pair"
)

// A Word is what an appliance tells its partner about itself.
type Word struct {
	Side    pair.Side                `json:"side"`
	Reports map[int]pair.Report      `json:"reports"`
	Live    []string                 `json:"live,omitempty"`  // volumes with a session here
	Flows   map[int][]netip.AddrPort `json:"flows,omitempty"` // initiators at each group's address

	Served  []string `json:"served,omitempty"`  // volumes that servers reach here
	Targets []string `json:"targets,omitempty"` // volumes that have a target here

	Session string `json:"session"` // of the daemon that speaks
	Echo    string `json:"echo"`    // the session that it last heard
	Number  uint64 `json:"number"`  // grows within a session
}

// Line is the way to the partner.
type Line interface {
	Say(Word)
	// Last is what the partner said last, and when by this module's clock;
	// negative: never.
	Last() (Word, time.Duration)
	Heard() <-chan struct{} // wakes after each word that has news
}

// news says whether w tells something else than old.
func (w Word) news(old Word) bool {
	for _, x := range []*Word{&w, &old} {
		x.Session, x.Echo, x.Number = "", "", 0
	}
	return !reflect.DeepEqual(w, old)
}

// Talk seals what is said and believes what is heard, apart from sockets. A word
// is believed if it is sealed with the key of the pair, says that it has heard
// this very daemon, and is newer than the last: an old one that comes again is
// nothing. It is safe for concurrent use.
type Talk struct {
	self    pair.Side
	key     []byte
	now     func() time.Duration
	session string
	heard   chan struct{}

	mu     sync.Mutex
	number uint64
	peer   string          // session of the partner, from any word that was sealed well
	over   map[string]bool // sessions that another one followed
	last   Word
	at     time.Duration
}

// NewTalk makes the talk of one side, under the key that both have.
func NewTalk(self pair.Side, key []byte, now func() time.Duration) *Talk {
	return &Talk{self: self, key: key, now: now, session: rand.Text(), heard: make(chan struct{}, 1), over: map[string]bool{}, at: -1}
}

var errSeal = errors.New("a word that is not the partner's")

// Seal makes a datagram of a word.
func (t *Talk) Seal(w Word) ([]byte, error) {
	t.mu.Lock()
	t.number++
	w.Side, w.Session, w.Echo, w.Number = t.self, t.session, t.peer, t.number
	t.mu.Unlock()
	b, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	return append(t.sum(b), b...), nil
}

func (t *Talk) sum(b []byte) []byte {
	h := hmac.New(sha256.New, t.key)
	h.Write(b)
	return h.Sum(nil)
}

// Open takes a datagram in.
func (t *Talk) Open(datagram []byte) error {
	if len(datagram) < sha256.Size {
		return errSeal
	}
	seal, body := datagram[:sha256.Size], datagram[sha256.Size:]
	if !hmac.Equal(seal, t.sum(body)) {
		return errSeal
	}
	var w Word
	if err := json.Unmarshal(body, &w); err != nil {
		return fmt.Errorf("the partner's word: %w", err)
	}
	if w.Side != t.self.Other() {
		return errSeal // our own, come back
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over[w.Session] {
		return nil // it was a long time on its way
	}
	if w.Echo != t.session {
		t.peer = w.Session // now it will be answered
		return nil
	}
	if w.Session == t.last.Session && w.Number <= t.last.Number {
		return nil // over another network, or again
	}
	if t.last.Session != "" && t.last.Session != w.Session {
		t.over[t.last.Session] = true
	}
	news := t.at < 0 || w.Session != t.last.Session || w.news(t.last)
	t.peer, t.last, t.at = w.Session, w, t.now()
	if news {
		select {
		case t.heard <- struct{}{}:
		default:
		}
	}
	return nil
}

// Last implements Line.
func (t *Talk) Last() (Word, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last, t.at
}

// Heard implements Line.
func (t *Talk) Heard() <-chan struct{} { return t.heard }
