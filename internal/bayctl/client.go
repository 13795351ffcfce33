package bayctl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"baystream/daemon/domain"
)

// serverName is what every appliance's certificate carries, so that a client
// can verify it at whatever address it is reached.
const serverName = "baystream"

// profile is what bayctl remembers of a deployment server.
type profile struct {
	Server string `json:"server"` // https://address
	CA     string `json:"ca"`     // PEM
	User   string `json:"user"`
	Token  string `json:"token"`
}

// frameFile is the part of a virtual frame's frame.json that bayctl reads.
type frameFile struct {
	RestURL      string `json:"rest_url"`
	CAFile       string `json:"ca_file"`
	User         string `json:"user"`
	PasswordFile string `json:"password_file"`
}

// client speaks to one deployment server.
type client struct {
	base  string
	token string
	http  *http.Client
}

// newClient makes a client that trusts only the given CA (PEM).
func newClient(base, caPEM, token string) (*client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server %q: want https://ADDRESS", base)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(caPEM)) {
		return nil, errors.New("no CA certificate for this server: run bayctl login or give --ca FILE")
	}
	return &client{
		base: strings.TrimSuffix(base, "/"), token: token,
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig:       &tls.Config{RootCAs: pool, ServerName: serverName, MinVersion: tls.VersionTLS12},
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			ResponseHeaderTimeout: 2 * time.Minute,
		}},
	}, nil
}

// fetchCA reads the CA of a server that is not trusted yet and returns it only
// if its fingerprint (SHA-256 of the DER certificate, hex) is the wanted one.
func fetchCA(ctx context.Context, base, fingerprint string) (string, error) {
	want := strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(fingerprint))
	if len(want) != sha256.Size*2 {
		return "", fmt.Errorf("CA fingerprint %q: want the 64 hex digits that the appliance's console shows", fingerprint)
	}
	// The certificate is checked against the fingerprint below; until then
	// nothing is sent and nothing else is believed.
	insecure := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/rest/baystream/ca", nil)
	if err != nil {
		return "", err
	}
	resp, err := insecure.Do(req)
	if err != nil {
		return "", explainDial(base, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(body)
	if block == nil {
		return "", fmt.Errorf("%s does not answer with a CA certificate: is it a Baystream appliance?", base)
	}
	sum := sha256.Sum256(block.Bytes)
	if got := hex.EncodeToString(sum[:]); got != want {
		return "", fmt.Errorf("the CA of %s has fingerprint %s, not %s: this is another appliance, or somebody sits in between", base, got, want)
	}
	return string(body), nil
}

// apiError is an answer with status 400 or above.
type apiError struct {
	Status int
	domain.TaskError
}

func (e *apiError) Error() string {
	msg := e.Message
	if msg == "" {
		msg = http.StatusText(e.Status)
	}
	if e.Status == http.StatusUnauthorized {
		msg += "\n  what to do: bayctl login"
	}
	for _, a := range e.RecommendedActions {
		msg += "\n  what to do: " + a
	}
	return msg
}

func explainDial(base string, err error) error {
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: its certificate is not from the CA that bayctl knows: if the appliance was reset, run bayctl login again with the fingerprint on its console", base)
	case errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("%s does not answer: %w\n  what to do: check the address, and the appliance's serial console", base, err)
}

// do sends one request and decodes the answer into out, if out is not nil.
func (c *client) do(ctx context.Context, method, path string, in, out any) (http.Header, error) {
	var body io.Reader
	typ := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body, typ = bytes.NewReader(b), "application/json"
	}
	return c.send(ctx, method, path, typ, body, out)
}

func (c *client) send(ctx context.Context, method, path, typ string, body io.Reader, out any) (http.Header, error) {
	resp, err := c.open(ctx, method, path, typ, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return resp.Header, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return resp.Header, nil
}

// open sends one request and returns the answer with its body, or an apiError.
func (c *client) open(ctx context.Context, method, path, typ string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-Version", "2000")
	req.Header.Set("Accept", "application/json")
	if typ != "" {
		req.Header.Set("Content-Type", typ)
	}
	if c.token != "" {
		req.Header.Set("auth", c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, explainDial(c.base, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		e := &apiError{Status: resp.StatusCode}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if json.Unmarshal(b, &e.TaskError) != nil {
			e.Message = strings.TrimSpace(string(b))
		}
		return nil, e
	}
	return resp, nil
}

// upload sends a file as multipart form data without holding it in memory and
// returns the task.
func (c *client) upload(ctx context.Context, path, file string, progress func(done, total int64)) (domain.Task, error) {
	f, err := os.Open(file)
	if err != nil {
		return domain.Task{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return domain.Task{}, err
	}
	pr, pw := io.Pipe()
	w := multipart.NewWriter(pw)
	go func() {
		part, err := w.CreateFormFile("file", filepath.Base(file))
		if err == nil {
			_, err = io.Copy(part, &meter{r: f, total: st.Size(), tell: progress})
		}
		if err == nil {
			err = w.Close()
		}
		pw.CloseWithError(err)
	}()
	var t domain.Task
	_, err = c.send(ctx, http.MethodPost, path, w.FormDataContentType(), pr, &t)
	pr.Close() // ends the writer if the server answered early
	return t, err
}

// meter tells how much has been read.
type meter struct {
	r           io.Reader
	done, total int64
	tell        func(done, total int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	m.tell(m.done, m.total)
	return n, err
}

// collection is a page of resources.
type collection[T any] struct {
	Total       int     `json:"total"`
	NextPageURI *string `json:"nextPageUri"`
	Members     []T     `json:"members"`
}

// list reads a whole collection.
func list[T any](ctx context.Context, c *client, uri string) ([]T, error) {
	all := []T{} // in JSON, none is a list too
	for next := uri + "?start=0&count=-1"; next != ""; {
		var page collection[T]
		if _, err := c.do(ctx, http.MethodGet, next, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Members...)
		if page.NextPageURI == nil || *page.NextPageURI == next {
			break
		}
		next = *page.NextPageURI
	}
	return all, nil
}

// entityPtr is a pointer to a resource type.
type entityPtr[T any] interface {
	*T
	domain.Entity
}

// find returns the one resource of a collection that has the name, id or uri.
func find[T any, P entityPtr[T]](ctx context.Context, c *client, uri, what, key string) (T, error) {
	all, err := list[T](ctx, c, uri)
	if err != nil {
		var none T
		return none, err
	}
	var names []string
	for i := range all {
		e := P(&all[i])
		if b := e.Base(); key == b.Name || key == b.URI || strings.EqualFold(key, e.EntityID()) {
			return all[i], nil
		}
		names = append(names, e.Base().Name)
	}
	var none T
	if len(names) == 0 {
		return none, fmt.Errorf("no %s %q: there is none yet", what, key)
	}
	return none, fmt.Errorf("no %s %q; there is: %s", what, key, strings.Join(names, ", "))
}
