package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"time"
)

// appliance is the REST interface of the machine that this runs on. The
// certificate is not checked: the connection never leaves the machine.
type appliance struct {
	address string
	http    *http.Client
	token   string
}

func newAppliance(address string) *appliance {
	return &appliance{address: address, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
	}}}
}

// answers tells whether REST answers a request well. While nothing listens it
// costs one system call, so that asking does not slow the boot down.
func (a *appliance) answers() bool {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(a.address, "443"), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return a.do(context.Background(), "GET", "/rest/baystream/health", nil, nil) == nil
}

// do sends a request; a body that is []byte is sent as it is, others as JSON.
func (a *appliance) do(ctx context.Context, method, path string, in, out any) error {
	kind := "application/json"
	body, raw := in.([]byte)
	if raw {
		kind = "application/octet-stream"
	} else if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+a.address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("X-API-Version", "2000")
	if a.token != "" {
		req.Header.Set("Auth", a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

type task struct {
	URI      string `json:"uri"`
	State    string `json:"taskState"`
	Resource struct {
		URI string `json:"resourceUri"`
	} `json:"associatedResource"`
	Errors any `json:"taskErrors"`
}

// work sends a request that is answered with a task and waits for its end.
func (a *appliance) work(ctx context.Context, method, path string, in any) (task, error) {
	var t task
	if err := a.do(ctx, method, path, in, &t); err != nil {
		return t, err
	}
	return a.wait(ctx, t)
}

func (a *appliance) wait(ctx context.Context, t task) (task, error) {
	for {
		switch t.State {
		case "Completed", "Warning":
			return t, nil
		case "Error", "Interrupted", "Terminated", "Killed":
			return t, fmt.Errorf("task %s: %s: %v", t.URI, t.State, t.Errors)
		}
		time.Sleep(100 * time.Millisecond)
		if err := a.do(ctx, "GET", t.URI, nil, &t); err != nil {
			return t, err
		}
	}
}

var setupCode = regexp.MustCompile(`baystream: setup code (\S+)`)

// setUp makes the first administrator with the code that PID 1 logged.
func (a *appliance) setUp(ctx context.Context) error {
	const user, password = "Administrator", "only for this benchmark"
	log, err := os.ReadFile("/run/log/ring")
	if err != nil {
		return err
	}
	code := setupCode.FindSubmatch(log)
	if code == nil {
		return fmt.Errorf("no setup code in the log")
	}
	if err := a.do(ctx, "POST", "/rest/baystream/setup", map[string]string{"setupCode": string(code[1]), "userName": user, "password": password}, nil); err != nil {
		return err
	}
	var session struct {
		ID string `json:"sessionID"`
	}
	err = a.do(ctx, "POST", "/rest/login-sessions", map[string]any{"userName": user, "password": password, "loginMsgAck": true}, &session)
	a.token = session.ID
	return err
}
