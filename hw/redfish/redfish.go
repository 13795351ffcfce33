// Package redfish is a client for a frame manager that speaks Redfish (DMTF
// DSP0266): what is in the frame's bays and in those of linked frames, their
// power, and events as they happen.
//
// A manager is known by the SHA-256 of its certificate, which a module learns
// over a channel of its own (the frame document, see package hw); names and
// certificate authorities do not matter. The client logs in once, by session,
// and anew when the manager forgot; redirections are not followed, and user
// name, password and token appear in no error and in no log.
//
// Inventory reads everything; Watch tells of changes and comes back by itself
// after every fault. Resources are found by following links from the service
// root, so ids and paths are the manager's affair. A Client is safe for
// concurrent use.
package redfish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Config says which manager, and who asks.
type Config struct {
	URL  string // https://169.254.1.1
	Pin  string // SHA-256 of the manager's certificate (DER), in hexadecimal
	User string
	// Password is sent over a connection whose certificate has the pin only.
	Password string
	Log      *slog.Logger
}

// Client speaks to one manager.
type Client struct {
	base *url.URL
	cfg  Config
	pin  [sha256.Size]byte
	http *http.Client

	mu      sync.Mutex // held during a log-in
	token   string
	session string // its resource, to be deleted
}

// Limits of what a manager can make us hold and wait for.
const (
	maxBody        = 4 << 20 // bytes of one resource
	maxMembers     = 1024    // of a collection
	requestTimeout = 30 * time.Second
	dialTimeout    = 5 * time.Second
)

// ErrPin is a manager whose certificate is not the expected one.
var ErrPin = errors.New("the frame manager's certificate is not the one that the frame document names: if the manager was replaced, power the module off and on in its bay so that it gets a new document")

// New makes a client; nothing is sent yet.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("redfish: manager %q: want https://ADDRESS", cfg.URL)
	}
	pin, err := hex.DecodeString(strings.ReplaceAll(cfg.Pin, ":", ""))
	if err != nil || len(pin) != sha256.Size {
		return nil, fmt.Errorf("redfish: manager %s: the certificate's SHA-256 must have 64 hex digits", u.Host)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{base: u, cfg: cfg, pin: [sha256.Size]byte(pin)}
	c.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			// The certificate is compared as a whole, which is more than a
			// verification by name and authority would be.
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyConnection: c.verify},
			// A manager that went away is noticed on an idle stream too.
			DialContext: (&net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
				Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}).DialContext,
			TLSHandshakeTimeout:   2 * dialTimeout,
			ResponseHeaderTimeout: requestTimeout,
			IdleConnTimeout:       time.Minute,
			MaxIdleConns:          4,
		},
	}
	return c, nil
}

func (c *Client) verify(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return ErrPin
	}
	sum := sha256.Sum256(s.PeerCertificates[0].Raw)
	if subtle.ConstantTimeCompare(sum[:], c.pin[:]) != 1 {
		return ErrPin
	}
	return nil
}

// Close ends the session.
func (c *Client) Close(ctx context.Context) {
	c.mu.Lock()
	session, token := c.session, c.token
	c.session, c.token = "", ""
	c.mu.Unlock()
	if session != "" && token != "" {
		if resp, err := c.send(ctx, http.MethodDelete, session, http.Header{"X-Auth-Token": {token}}, nil); err == nil {
			resp.Body.Close()
		}
	}
	c.http.CloseIdleConnections()
}

// Error is a manager's refusal.
type Error struct {
	Status  int
	Path    string
	Message string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("frame manager: %s: %s", e.Path, http.StatusText(e.Status))
	}
	return fmt.Sprintf("frame manager: %s: %s", e.Path, e.Message)
}

// get reads a resource.
func (c *Client) get(ctx context.Context, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(out); err != nil {
		return fmt.Errorf("frame manager: %s: answer: %w", path, err)
	}
	return nil
}

// do sends a request with a session's token and returns an answer with a status
// below 300. When the manager does not know the session, another is opened.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, in any) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		token, err := c.login(ctx)
		if err != nil {
			return nil, err
		}
		h := header.Clone()
		if h == nil {
			h = http.Header{}
		}
		h.Set("X-Auth-Token", token)
		resp, err := c.send(ctx, method, path, h, in)
		var refused *Error
		if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized && attempt == 0 {
			c.forget(token)
			continue
		}
		return resp, err
	}
}

// send sends one request.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, in any) (*http.Response, error) {
	ref, err := url.Parse(path)
	if err != nil || ref.IsAbs() || ref.Host != "" {
		return nil, fmt.Errorf("frame manager: %q is not a path of its own", path)
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.ResolveReference(ref).String(), body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("OData-Version", "4.0")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("frame manager: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e struct {
		Error struct {
			Message string
			Info    []struct{ Message string } `json:"@Message.ExtendedInfo"`
		}
	}
	_ = json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&e) // without a message the status must do
	msg := e.Error.Message
	for _, i := range e.Error.Info {
		if i.Message != "" {
			msg = i.Message
			break
		}
	}
	return nil, &Error{Status: resp.StatusCode, Path: path, Message: msg}
}

// login returns the token of the session, and opens one if there is none.
func (c *Client) login(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" {
		return c.token, nil
	}
	path := "/redfish/v1/SessionService/Sessions" // DSP0266, section 13.3.4: the same for every service
	resp, err := c.send(ctx, http.MethodPost, path, nil, map[string]string{"UserName": c.cfg.User, "Password": c.cfg.Password})
	if err != nil {
		return "", fmt.Errorf("log-in: %w", err)
	}
	defer resp.Body.Close()
	c.token = resp.Header.Get("X-Auth-Token")
	if c.token == "" {
		return "", errors.New("log-in: frame manager: gives no token")
	}
	c.session = ""
	if loc, err := url.Parse(resp.Header.Get("Location")); err == nil {
		c.session = loc.Path
	}
	return c.token, nil
}

func (c *Client) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == token {
		c.token = ""
	}
}
