package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"baystream/qemu"
)

// The control interface is HTTP with JSON on a unix socket: one POST for each
// command, an errorReply where it fails.
type (
	powerRequest struct{ Bay, Action string }

	faultRequest struct{ Words []string }

	captureRequest struct {
		Network, File string
		Stop          bool
	}

	errorReply struct{ Error string }
)

// serveControl answers commands for the frame until stop is called.
func serveControl(f *qemu.Frame, down func()) (stop func(), err error) {
	l, err := net.Listen("unix", f.ControlSocket())
	if err != nil {
		return nil, err
	}
	c := &control{frame: f, captures: map[string]func() error{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, f.State()) })
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, struct{}{})
		down()
	})
	handle(mux, "POST /power", c.power)
	handle(mux, "POST /fault", c.fault)
	handle(mux, "POST /capture", c.capture)
	handle(mux, "POST /plug", c.plug)
	srv := &http.Server{Handler: mux}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.Shutdown(ctx)
		srv.Close()
		wg.Wait()
	}, nil
}

func handle[T any](mux *http.ServeMux, pattern string, do func(context.Context, T) error) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var in T
		err := json.NewDecoder(r.Body).Decode(&in)
		if err == nil {
			err = do(r.Context(), in)
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			reply(w, errorReply{err.Error()})
			return
		}
		reply(w, struct{}{})
	})
}

func reply(w http.ResponseWriter, v any) { json.NewEncoder(w).Encode(v) }

type control struct {
	frame *qemu.Frame

	mu       sync.Mutex
	captures map[string]func() error
}

func (c *control) power(ctx context.Context, r powerRequest) error {
	b, err := c.frame.Bay(r.Bay)
	if err != nil {
		return err
	}
	switch r.Action {
	case "on":
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), qemu.Deadline(10*time.Second))
		defer cancel()
		err = b.PowerOn(ctx)
	case "off":
		b.PowerOff()
	case "reset":
		err = b.Reset(ctx)
	case "button":
		err = b.PowerButton(ctx)
	default:
		err = fmt.Errorf("power %q: want on, off, reset or button", r.Action)
	}
	return err
}

func (c *control) capture(_ context.Context, r captureRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Stop {
		stop := c.captures[r.File]
		if stop == nil {
			return fmt.Errorf("capture to %s: none runs", r.File)
		}
		delete(c.captures, r.File)
		return stop()
	}
	n, err := c.frame.Network(r.Network)
	if err != nil {
		return err
	}
	if c.captures[r.File] != nil {
		return fmt.Errorf("capture to %s: runs already", r.File)
	}
	stop, err := n.CaptureFile(r.File)
	if err != nil {
		return err
	}
	c.captures[r.File] = stop
	return nil
}

// call sends one command to the process that holds the frame in dir.
func call(ctx context.Context, dir, method, path string, in, out any) error {
	s, err := qemu.ReadState(dir)
	if err != nil {
		return err
	}
	if !qemu.Held(dir) || s.ControlSocket == "" {
		return fmt.Errorf("%s: %w", dir, qemu.ErrNoFrame)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.ControlSocket)
		},
	}}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://frame"+path, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("frame in %s: %w", filepath.Clean(dir), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e errorReply
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Error == "" {
			return fmt.Errorf("frame in %s: %s", dir, resp.Status)
		}
		return errors.New(e.Error)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
