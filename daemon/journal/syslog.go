package journal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// Settings say where the log is sent.
type Settings struct {
	Server string `json:"server"` // host:port; empty: nowhere
	CA     string `json:"ca"`     // PEM: who may have signed the server's certificate; empty: the public authorities
	Level  string `json:"level"`  // the least to send: DEBUG, INFO (also if empty), WARN, ERROR
}

// DefaultPort is that of syslog over TLS (RFC 5425 section 4.1).
const DefaultPort = "6514"

// Check says what is wrong with the settings, and completes them.
func (s *Settings) Check() error {
	if s.Server == "" {
		*s = Settings{}
		return nil
	}
	if _, _, err := net.SplitHostPort(s.Server); err != nil {
		s.Server = net.JoinHostPort(strings.Trim(s.Server, "[]"), DefaultPort)
	}
	if host, port, err := net.SplitHostPort(s.Server); err != nil || host == "" || port == "" {
		return fmt.Errorf("server %q is not HOST or HOST:PORT", s.Server)
	}
	if s.Level = strings.ToUpper(s.Level); s.Level == "" {
		s.Level = "INFO"
	}
	if _, ok := severities[s.Level]; !ok {
		return fmt.Errorf("level %q is none of DEBUG, INFO, WARN, ERROR", s.Level)
	}
	if s.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA)) {
		return errors.New("ca is not a certificate in PEM form")
	}
	return nil
}

// severities by level (RFC 5424 section 6.2.1).
var severities = map[string]int{"ERROR": 3, "WARN": 4, "INFO": 6, "DEBUG": 7}

const facilityDaemon = 3

// structuredID names our fields (RFC 5424 section 6.3.2). 32473 is the number
// that RFC 5612 sets aside for those who have none of their own.
const structuredID = "baystream@32473"

// Format5424 is an entry as an RFC 5424 message.
func Format5424(e Entry, host string) string {
	severity, ok := severities[e.Level]
	if !ok {
		severity = severities["INFO"]
	}
	stamp := "-"
	if !e.Time.IsZero() {
		stamp = e.Time.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	fields := "-"
	if len(e.Attrs) > 0 {
		var b strings.Builder
		b.WriteString("[" + structuredID)
		for _, k := range keys(e.Attrs) {
			fmt.Fprintf(&b, ` %s="%s"`, name(k, 32), paramValue.Replace(e.Attrs[k]))
		}
		fields = b.String() + "]"
	}
	return fmt.Sprintf("<%d>1 %s %s %s - - %s \ufeff%s", facilityDaemon*8+severity, stamp, name(host, 255), name(e.Source, 48), fields, strings.ToValidUTF8(e.Message, "?"))
}

var paramValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`)

// name makes a PRINTUSASCII of at most n characters, "-" if nothing is left.
func name(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || strings.ContainsRune(`="]`, r) {
			return '_'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), n)]
}

// Forwarder sends entries to a syslog server.
type Forwarder struct {
	Host string // of this module, as the messages name it
	Log  *slog.Logger
}

const (
	sendTimeout = 15 * time.Second
	firstWait   = time.Second
	longestWait = time.Minute
)

// Run sends entries as set until ctx ends. It keeps entries that come while the
// server is away as far as the queue reaches, and tells how many it dropped.
func (f *Forwarder) Run(ctx context.Context, j *Journal, set Settings) error {
	queue := make(chan Entry, 4*subscriber)
	var dropped atomic.Int64
	go j.Follow(ctx, 0, func(e Entry) error {
		if severities[e.Level] > severities[set.Level] {
			return nil
		}
		select {
		case queue <- e:
		default:
			dropped.Add(1)
		}
		return nil
	})
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		began := time.Now()
		err := f.session(ctx, set, queue)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > longestWait {
			wait = firstWait
		}
		f.Log.Warn("syslog", "server", set.Server, "err", err, "again", wait, "dropped", dropped.Swap(0))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// session sends until the connection fails.
func (f *Forwarder) session(ctx context.Context, set Settings, queue <-chan Entry) error {
	host, _, err := net.SplitHostPort(set.Server)
	if err != nil {
		return err
	}
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if set.CA != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(set.CA))
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: sendTimeout, KeepAlive: 30 * time.Second}, Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", set.Server)
	if err != nil {
		return err
	}
	defer conn.Close()
	gone := make(chan struct{}) // a server says nothing: what can be read is its end
	go func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
			return errors.New("the server closed the connection")
		case e := <-queue:
			msg := Format5424(e, f.Host)
			if err := conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
				return err
			}
			if _, err := fmt.Fprintf(conn, "%d %s", len(msg), msg); err != nil { // RFC 5425 section 4.3
				return err
			}
		}
	}
}
