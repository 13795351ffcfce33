package qemu

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	apiVersion   = "2000"
	taskInterval = 250 * time.Millisecond
)

// A Client speaks the appliance's REST interface, as much of it as scenarios
// need.
type Client struct {
	base  string
	http  *http.Client
	token string
}

// NewClient trusts the given CA, in PEM, and expects the certificate of
// "baystream", at whatever address base is (https://127.0.0.1:PORT).
func NewClient(base string, caPEM []byte) (*Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("rest: no certificate in the CA file")
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "baystream", MinVersion: tls.VersionTLS12}}
	return newClient(base, t), nil
}

// newClient makes a client that goes nowhere by itself: a standby's redirection
// names an address of the frame, where this machine sends nothing.
func newClient(base string, t *http.Transport) *Client {
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: base, http: &http.Client{Transport: t, CheckRedirect: stay}}
}

// A RESTError is the appliance's refusal. Status 307 is that of a standby: what
// changes something belongs to the active appliance.
type RESTError struct {
	Status      int      `json:"-"`
	Method      string   `json:"-"`
	Path        string   `json:"-"`
	Code        string   `json:"errorCode"`
	Message     string   `json:"message"`
	Details     string   `json:"details"`
	Recommended []string `json:"recommendedActions"`
}

func (e *RESTError) Error() string {
	s := fmt.Sprintf("rest: %s %s: %d %s: %s", e.Method, e.Path, e.Status, e.Code, e.Message)
	for _, more := range append([]string{e.Details}, e.Recommended...) {
		if more != "" {
			s += "; " + more
		}
	}
	return s
}

// Login starts a session that later requests use.
func (c *Client) Login(ctx context.Context, user, password string) error {
	var out struct {
		SessionID string `json:"sessionID"`
	}
	in := map[string]any{"userName": user, "password": password, "loginMsgAck": true}
	if err := c.Do(ctx, http.MethodPost, "/rest/login-sessions", in, &out); err != nil {
		return err
	}
	c.token = out.SessionID
	return nil
}

// Get reads a resource. Path begins with /rest.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.Do(ctx, http.MethodGet, path, nil, out)
}

// Do sends one request with a JSON body (none if in is nil) and decodes a JSON
// answer into out (ignored if out is nil). A refusal is a *RESTError.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("rest: %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	return c.send(ctx, method, path, "application/json", body, -1, out)
}

func (c *Client) send(ctx context.Context, method, path, contentType string, body io.Reader, size int64, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("rest: %w", err)
	}
	if size >= 0 {
		req.ContentLength = size
	}
	req.Header.Set("X-API-Version", apiVersion)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Auth", c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("rest: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("rest: %s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		e := &RESTError{}
		if json.Unmarshal(answer, e) != nil || e.Message == "" {
			e.Message = strings.TrimSpace(string(answer))
		}
		e.Status, e.Method, e.Path = resp.StatusCode, method, path
		return e
	}
	if out == nil || len(answer) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("rest: %s %s: answer: %w", method, path, err)
	}
	return nil
}

// A Task is work that the appliance does in the background.
type Task struct {
	URI      string `json:"uri"`
	Name     string `json:"name"`
	State    string `json:"taskState"`
	Percent  int    `json:"percentComplete"`
	Resource struct {
		URI  string `json:"resourceUri"`
		Name string `json:"resourceName"`
	} `json:"associatedResource"`
	Errors []RESTError `json:"taskErrors"`
	// Updates tells the story so far.
	Updates []struct {
		Status string `json:"statusUpdate"`
	} `json:"progressUpdates"`
}

// taskLook is how long an answer about a task may take.
const taskLook = 2 * time.Second

var runningStates = []string{"New", "Pending", "Running", "Starting", "Stopping", "Suspended"}

// Run sends a request that the appliance answers with a task, and waits for
// its end. Progress, if not nil, sees each state on the way. A task that does
// not end well is an error.
func (c *Client) Run(ctx context.Context, method, path string, in any, progress func(Task)) (Task, error) {
	var t Task
	if err := c.Do(ctx, method, path, in, &t); err != nil {
		return t, err
	}
	return c.WaitTask(ctx, t, progress)
}

// WaitTask waits for the end of a task, see Run. While management moves from one
// appliance to the other nobody answers for it; the task goes on.
func (c *Client) WaitTask(ctx context.Context, t Task, progress func(Task)) (Task, error) {
	for {
		if progress != nil {
			progress(t)
		}
		if !slices.Contains(runningStates, t.State) {
			break
		}
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("rest: task %s (%s, %d %%): %w", t.Name, t.State, t.Percent, ctx.Err())
		case <-time.After(taskInterval):
		}
		var refused *RESTError
		once, cancel := context.WithTimeout(ctx, Deadline(taskLook))
		err := c.Get(once, t.URI, &t)
		cancel()
		if errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
			return t, err
		}
	}
	if t.State == "Completed" || t.State == "Warning" {
		return t, nil
	}
	err := fmt.Errorf("rest: task %s (%s): %s", t.Name, t.URI, t.State)
	for _, e := range t.Errors {
		err = fmt.Errorf("%w: %s %s %s", err, e.Message, e.Details, strings.Join(e.Recommended, " "))
	}
	return t, err
}

// Upload posts a file as multipart/form-data, with the fields before it, and
// decodes the answer, a Task mostly, into out. Progress, if not nil, hears how
// many bytes of how many are sent. The file is streamed.
func (c *Client) Upload(ctx context.Context, path string, fields map[string]string, file string, progress func(sent, total int64), out any) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("rest: upload: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("rest: upload: %w", err)
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	for k, v := range fields {
		if err := w.WriteField(k, v); err != nil {
			return fmt.Errorf("rest: upload: %w", err)
		}
	}
	if _, err := w.CreateFormFile("file", filepath.Base(file)); err != nil {
		return fmt.Errorf("rest: upload: %w", err)
	}
	head := form.Len()
	if err := w.Close(); err != nil {
		return fmt.Errorf("rest: upload: %w", err)
	}
	content := &counter{r: f, total: st.Size(), report: progress}
	body := io.MultiReader(bytes.NewReader(form.Bytes()[:head]), content, bytes.NewReader(form.Bytes()[head:]))
	return c.send(ctx, http.MethodPost, path, w.FormDataContentType(), body, int64(form.Len())+st.Size(), out)
}

type counter struct {
	r           io.Reader
	sent, total int64
	report      func(sent, total int64)
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.sent += int64(n)
	if c.report != nil && n > 0 {
		c.report(c.sent, c.total)
	}
	return n, err
}
