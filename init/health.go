package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// HealthPort is where a module says how it is, by HTTP and without asking who
// wants to know: GET /health. It is a process of its own (/init health), so that
// what comes in from the network never reaches PID 1, and it works when no other
// service does.
const HealthPort = 7974

// Health is the answer: 200 with status OK, or 503.
type Health struct {
	Status   string    `json:"status"` // OK, Starting, Critical (a service says that it cannot do part of its work), or Maintenance
	Problems []Problem `json:"problems"`
	Watchdog string    `json:"watchdog,omitempty"` // the machine's
	Crashes  int       `json:"crashes,omitempty"`  // of the kernel in a row, before this start
	Uptime   int       `json:"uptimeSeconds"`
}

// Problem is a boot step, or a service or a part of one, that does not do its work.
type Problem struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy"`
}

// healthOf makes the answer out of PID 1's status; err is why there is none.
func healthOf(r Reply, err error) Health {
	h := Health{Status: "OK", Problems: []Problem{}, Crashes: r.Crashes, Uptime: int(r.UptimeSec)}
	if err != nil {
		h.Status = "Maintenance"
		h.Problems = append(h.Problems, Problem{"first process", err.Error(), "reset the module"})
		return h
	}
	for _, s := range r.Steps {
		if s.Error != "" && !s.Optional {
			h.Status = "Maintenance"
			h.Problems = append(h.Problems, Problem{"boot step " + s.Name, s.Error, s.Remedy})
		}
	}
	for _, s := range r.Services {
		switch s.State {
		case stateMaintenance:
			h.Status = "Maintenance"
			h.Problems = append(h.Problems, Problem{"service " + s.Name, s.Reason, s.Remedy})
		case stateRunning:
			if len(s.Problems) > 0 && h.Status != "Maintenance" {
				h.Status = "Critical"
			}
		default:
			if h.Status == "OK" {
				h.Status = "Starting"
			}
			reason := "is " + string(s.State)
			if s.LastExit != "" {
				reason += "; the last time it ended with: " + s.LastExit
			}
			h.Problems = append(h.Problems, Problem{"service " + s.Name, reason, "wait a minute"})
		}
		h.Problems = append(h.Problems, s.Problems...)
	}
	if w := r.Watchdog; w != nil {
		h.Watchdog = w.Identity
		if w.Starving != "" {
			h.Status = "Maintenance"
			h.Problems = append(h.Problems, Problem{"watchdog", w.Starving, "the module is reset soon"})
		}
	}
	return h
}

// Bounds of what strangers can cost.
const (
	healthConns = 16
	healthTime  = 5 * time.Second
	healthHead  = 4 << 10
)

// serveHealth answers at address for ever.
func serveHealth(address string, ask func() (Reply, error)) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	slots := make(chan struct{}, healthConns)
	for {
		slots <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			<-slots
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go func() {
			defer func() { <-slots }()
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(healthTime))
			answerHealth(c, ask)
		}()
	}
}

// answerHealth answers one request of HTTP/1; one connection has one. The
// package net/http would serve it too, and add three times its memory.
func answerHealth(c net.Conn, ask func() (Reply, error)) {
	in := bufio.NewReaderSize(c, healthHead)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return
	}
	method, path, _ := strings.Cut(string(line), " ")
	path, _, _ = strings.Cut(path, " ")
	for rest := healthHead; ; { // the rest of the head says nothing to us
		l, err := in.ReadSlice('\n')
		if rest -= len(l); err != nil || rest < 0 {
			return
		}
		if len(strings.TrimSpace(string(l))) == 0 {
			break
		}
	}
	code, body := 404, []byte(`{"error":"want GET /health"}`)
	switch {
	case method != "GET" && method != "HEAD":
		code = 405
	case path == "/health":
		h := healthOf(ask())
		if code = 503; h.Status == "OK" {
			code = 200
		}
		body, _ = json.Marshal(h)
	}
	fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
		code, statusText[code], len(body)+1)
	if method != "HEAD" {
		fmt.Fprintf(c, "%s\n", body)
	}
}

var statusText = map[int]string{200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}

// askStatus asks PID 1 how it is.
func askStatus() (Reply, error) {
	var r Reply
	conn, err := net.DialTimeout("unix", controlPath, 2*time.Second)
	if err != nil {
		return r, fmt.Errorf("does not answer: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(4 * time.Second))
	if _, err = fmt.Fprintln(conn, "status"); err == nil {
		err = json.NewDecoder(conn).Decode(&r)
	}
	if err != nil {
		return r, fmt.Errorf("does not answer: %w", err)
	}
	if !r.OK {
		return r, fmt.Errorf("does not say how it is: %s", r.Error)
	}
	return r, nil
}

// healthMain is /init health.
func healthMain() {
	fmt.Fprintln(os.Stderr, serveHealth(fmt.Sprintf(":%d", HealthPort), askStatus))
	os.Exit(1)
}
