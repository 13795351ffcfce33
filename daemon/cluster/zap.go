package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"
)

// bridge hands etcd's log to slog. What etcd calls info is debug to us: an
// appliance's log is for changes that an operator cares about.
type bridge struct {
	log  *slog.Logger
	told *told
}

// told is what was said lately: a warning that comes with every heartbeat must
// not drown the rest.
type told struct {
	mu  sync.Mutex
	all map[string]repeated
}

type repeated struct {
	since time.Time
	times int // left out since then
}

// tellAgain is how often the same message is said.
const tellAgain = time.Minute

// say says whether a message is to be said, and how many of it were left out.
func (t *told) say(message string, now time.Time) (bool, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, known := t.all[message]
	if known && now.Sub(r.since) < tellAgain {
		r.times++
		t.all[message] = r
		return false, 0
	}
	if t.all == nil || len(t.all) > 100 {
		t.all = map[string]repeated{}
	}
	t.all[message] = repeated{since: now}
	return true, r.times
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// quiet are warnings that etcd gives about the way we use it on purpose: a new
// member is asked for until it is ready.
var quiet = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"rejecting promote learner: learner is not ready":                                      true,
	"simple token is not cryptographically signed":                                         true,
}

// Enabled implements zapcore.Core.
func (b bridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), level(l))
}

// With implements zapcore.Core.
func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{log: b.log.With(attrs(fields)...), told: b.told}
}

// Check implements zapcore.Core.
func (b bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) && !quiet[e.Message] {
		return ce.AddCore(e, b)
	}
	return ce
}

// Write implements zapcore.Core.
func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	more := attrs(fields)
	if level(e.Level) == slog.LevelWarn {
		ok, before := b.told.say(e.Message, time.Now())
		if !ok {
			return nil
		}
		if before > 0 {
			more = append(more, "repeated", before)
		}
	}
	b.log.Log(context.Background(), level(e.Level), "etcd: "+e.Message, more...)
	return nil
}

// Sync implements zapcore.Core.
func (b bridge) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, len(fields))
	for _, f := range fields {
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
