// Package journal keeps the module's log across reboots, in entries with fields,
// and passes it on: to whoever follows it, and by syslog to another machine.
//
// The log itself is PID 1's ring: lines of all programs, kept in memory. A
// Journal follows the ring, takes each line apart (entry.go), and appends it to
// files of bounded size (journal.go). A Forwarder sends entries as RFC 5424
// messages over TLS (RFC 5425, syslog.go). Neither ever holds up who logs: what
// cannot be kept or sent is dropped and counted.
package journal

import (
	"strconv"
	"strings"
	"time"
)

// Entry is one line of the log.
type Entry struct {
	Time    time.Time         `json:"time"`
	Source  string            `json:"source"` // init, kernel, or a service
	Level   string            `json:"level"`  // DEBUG, INFO, WARN, ERROR
	Message string            `json:"msg"`
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// String is the entry as a line for people.
func (e Entry) String() string {
	var b strings.Builder
	b.WriteString(e.Time.UTC().Format("2006-01-02T15:04:05.000Z") + " " + e.Source + ": " + e.Level + " " + e.Message)
	for _, k := range keys(e.Attrs) {
		v := e.Attrs[k]
		if v == "" || strings.ContainsAny(v, " \"=") {
			v = strconv.Quote(v)
		}
		b.WriteString(" " + k + "=" + v)
	}
	return b.String()
}

// Parse takes a line of the ring apart: time, source, and what slog wrote as
// text. A line in another form is an entry with that message.
func Parse(line string) Entry {
	e := Entry{Level: "INFO"}
	stamp, rest, ok := strings.Cut(line, " ")
	at, err := time.Parse(time.RFC3339, stamp)
	if !ok || err != nil {
		e.Message = line
		return e
	}
	e.Time = at
	if source, text, ok := strings.Cut(rest, ": "); ok && !strings.Contains(source, " ") {
		e.Source, rest = source, text
	}
	fields, ok := logfmt(rest)
	if !ok {
		e.Message = rest
		return e
	}
	for _, f := range fields {
		switch f[0] {
		case "time": // the ring's is enough
		case "level":
			e.Level = f[1]
		case "msg":
			e.Message = f[1]
		default:
			if e.Attrs == nil {
				e.Attrs = map[string]string{}
			}
			e.Attrs[f[0]] = f[1]
		}
	}
	return e
}

// logfmt reads "key=value key="quoted value"", as slog.TextHandler writes; ok
// is false for anything else.
func logfmt(s string) (fields [][2]string, ok bool) {
	level := false
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " ") {
		key, rest, found := strings.Cut(s, "=")
		if !found || key == "" || strings.ContainsAny(key, " \"") {
			return nil, false
		}
		value := ""
		if strings.HasPrefix(rest, `"`) {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, false
			}
			if value, err = strconv.Unquote(quoted); err != nil {
				return nil, false
			}
			s = rest[len(quoted):]
		} else {
			value, s, _ = strings.Cut(rest, " ")
		}
		level = level || key == "level"
		fields = append(fields, [2]string{key, value})
	}
	return fields, level
}
